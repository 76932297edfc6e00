"""Docker containers as servers: each with an address, a root filesystem, sshd and host keys of its own.

``Cluster`` starts them through compose and gives them what a session needs: a key, a password, this machine's
packages. ``DockerHost`` is one server: run commands in it behind ssh's back, break it, heal it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import secrets
import shlex
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.docker_image import DockerError, DockerUnavailableError, docker
from tests.support.packages import container_setup, package_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from remote_launch.transport.base import Target

COMPOSE_FILE = Path(__file__).resolve().parents[1] / "cluster" / "compose.yml"
SESSION_LABEL = "remote-launch.tests"  # its value is the pid of the pytest that owns the container
USER = "trainer"
MAX_HOSTS = 4
SHARED_HOME = ("shared-0", "shared-1")  # two machines, one /home/trainer
SERVICES = (*(f"host-{number}" for number in range(MAX_HOSTS)), *SHARED_HOME)
PATIENCE_S = 240  # with what takes a moment on a machine that does nothing else
_UNLIMIT = "for i in /sys/class/net/eth*; do tc qdisc del dev ${i##*/} root 2>/dev/null; done; true"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DockerHost:
    """One server of the cluster. ``exec`` goes round ssh, as root; what breaks it is undone by ``heal``."""

    name: str
    address: str
    container: str
    network: str
    username: str
    key: Path
    password: str = dataclasses.field(repr=False)
    ssh_config: Path  # knows every host of the session by name and by address
    known_hosts: Path  # their host keys

    def exec(
        self, command: str, *, user: str = "root", check: bool = True, timeout_s: float = PATIENCE_S
    ) -> str:
        """Run a shell command in the host by docker, return its stdout without the last newline."""
        argv = ["exec", "-u", user, self.container, "sh", "-c", command]
        done = docker(*argv, check=check, timeout_s=timeout_s)
        return done.stdout.rstrip("\n")

    def write(self, path: str, content: str, *, user: str = USER) -> None:
        """Write a file in the host, making its folder."""
        script = f"mkdir -p $(dirname {shlex.quote(path)}) && cat > {shlex.quote(path)}"
        docker("exec", "-i", "-u", user, self.container, "sh", "-c", script, stdin=content)

    def ssh(
        self, command: str, *, check: bool = True, timeout_s: float = PATIENCE_S, connect_timeout_s: int = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command over a plain ssh connection (no master), as a person would."""
        options = ["-o", "ControlPath=none", "-o", f"ConnectTimeout={connect_timeout_s}"]
        argv = ["ssh", "-F", str(self.ssh_config), *options, self.name, command]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
        if check and done.returncode != 0:
            said = done.stderr + done.stdout
            raise AssertionError(f"ssh {self.name} {command!r}: exit code {done.returncode}\n{said}")
        return done

    def target(self, transport: str = "openssh", **changes: Any) -> Target:
        """Return how a transport reaches the host (``changes`` replace the Target's fields)."""
        from remote_launch.transport.base import Target

        fields: dict[str, Any] = {
            "name": self.name, "hostname": self.name, "transport": transport, "ssh_config": self.ssh_config,
        }
        return Target(**fields | changes)

    def entry(self, **changes: Any) -> dict[str, Any]:
        """Return the host's entry of an inventory (``changes`` add keys; None takes one away)."""
        entry = {
            "hostname": self.address, "username": self.username, "private_key": str(self.key),
            "ssh_config": str(self.ssh_config), **changes,
        }
        return {key: value for key, value in entry.items() if value is not None}

    def processes(self, pattern: str = "") -> list[str]:
        """Return the user's processes (pid, command line) that contain ``pattern``; not sshd's own."""
        lines = self.exec(f"ps -u {self.username} -o pid=,args= || true").splitlines()
        return [line.strip() for line in lines if pattern in line and "sshd: " not in line]

    def kill(self) -> None:
        """Take the power away: every process ends at once, the disk stays."""
        docker("kill", self.container)

    def start(self) -> None:
        """Switch it on again and wait until sshd answers. Same address, same disk, same host keys."""
        docker("start", self.container)
        wait_for_sshd(self.address)

    def pause(self) -> None:
        """Freeze every process: the kernel still accepts connections, nobody answers."""
        docker("pause", self.container)

    def unpause(self) -> None:
        docker("unpause", self.container)

    def disconnect(self) -> None:
        """Pull the network cable."""
        docker("network", "disconnect", self.network, self.container)

    def connect(self) -> None:
        """Plug the cable in again, with the same address and name."""
        words = ["--ip", self.address, "--alias", self.name, self.network, self.container]
        docker("network", "connect", *words)

    def block(self, other: str) -> None:
        """Drop what comes from and goes to an address, silently."""
        self.exec(f"iptables -w -A INPUT -s {other} -j DROP; iptables -w -A OUTPUT -d {other} -j DROP")

    def unblock(self) -> None:
        self.exec("iptables -w -F INPUT; iptables -w -F OUTPUT")

    def limit(self, rate: str) -> None:
        """Limit what it sends, as tc says it ("10mbit"). No delays: the kernel may lack netem."""
        self.exec(f"tc qdisc replace dev {self._interface()} root tbf rate {rate} burst 32kbit latency 400ms")

    def unlimit(self) -> None:
        self.exec(_UNLIMIT)

    def _interface(self) -> str:
        """The name of the address' interface; a cable that was pulled comes back under another."""
        return self.exec(f"ip -o -4 addr show | awk '$4 ~ /^{self.address}[/]/ {{print $2}}'")

    def heal(self) -> None:
        """Undo every fault above and end what the user still runs: it is gone when this returns. Cheap on a
        healthy host."""
        form = "{{.State.Status}} {{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"
        status, *networks = docker("inspect", "-f", form, self.container).stdout.split()
        if status == "paused":
            self.unpause()
        elif status != "running":
            docker("start", self.container)
        if self.network not in networks:
            self.connect()
        end = f"while p=$(ps -u {self.username} -o pid=); do kill -KILL $p 2>/dev/null; sleep 0.05; done"
        self.exec(f"iptables -w -F INPUT; iptables -w -F OUTPUT; {_UNLIMIT}; {end}")
        wait_for_sshd(self.address)


class Cluster:
    """The containers of one session. ``compose`` runs a subcommand of compose for this project."""

    def __init__(self, *, project: str, compose: Callable[[str], Any], folder: Path) -> None:
        self._project = project
        self._compose = compose
        self._folder = folder
        self._password = secrets.token_urlsafe(12)
        self._hosts: dict[str, DockerHost] = {}
        self.key = folder / "key"
        self.ssh_config = folder / "ssh_config"
        self.known_hosts = folder / "known_hosts"
        make_key(self.key)

    def hosts(self, count: int = 2) -> list[DockerHost]:
        """Return the first ``count`` hosts, starting those that do not run yet, each healthy."""
        if not 1 <= count <= MAX_HOSTS:
            raise ValueError(f"1 to {MAX_HOSTS} hosts, not {count}")
        return self._start(SERVICES[:count])

    def shared_home_hosts(self) -> list[DockerHost]:
        """Return the two hosts that have one home folder between them, as ``hosts`` does."""
        return self._start(SHARED_HOME)

    def _start(self, names: Sequence[str]) -> list[DockerHost]:
        new = [name for name in names if name not in self._hosts]
        if new:
            self._compose(f"up -d {' '.join(new)}")
            for name in new:
                self._hosts[name] = self._set_up(name)
            for name in new:
                wait_for_sshd(self._hosts[name].address)
            self._write_ssh_files()
        return [self._hosts[name] for name in names]

    def heal(self, hosts: Sequence[DockerHost] | None = None) -> None:
        """Heal some hosts, or all, at the same time."""
        with concurrent.futures.ThreadPoolExecutor(len(SERVICES)) as pool:
            list(pool.map(DockerHost.heal, self._hosts.values() if hosts is None else hosts))

    def _set_up(self, name: str) -> DockerHost:
        project = f"label=com.docker.compose.project={self._project}"
        service = f"label=com.docker.compose.service={name}"
        container = docker("ps", "-aq", "--filter", project, "--filter", service).stdout.strip()
        networks = json.loads(docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", container).stdout)
        (network, facts), = networks.items()
        script = host_setup(self.key.with_suffix(".pub").read_text(), self._password)
        docker("exec", "-i", container, "sh", "-eu", "-s", stdin=script)
        return DockerHost(
            name=name, address=facts["IPAddress"], container=container, network=network, username=USER,
            key=self.key, password=self._password, ssh_config=self.ssh_config, known_hosts=self.known_hosts,
        )

    def _write_ssh_files(self) -> None:
        known, config = [], []
        for host in self._hosts.values():
            public = host.exec("cat /etc/ssh/ssh_host_ed25519_key.pub").split()
            known.append(f"{host.name},{host.address} {public[0]} {public[1]}")
            config += [f"Host {host.name} {host.address}", f"  HostName {host.address}"]
        config += [
            "Host *", f"  User {USER}", f"  IdentityFile {self.key}", "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {self.known_hosts}", "  GlobalKnownHostsFile /dev/null",
        ]
        self.known_hosts.write_text("\n".join(known) + "\n")
        self.ssh_config.write_text("\n".join(config) + "\n")


def host_setup(public_key: str, password: str) -> str:
    """Return the script that makes a fresh container this session's: login, and this machine's packages."""
    return "\n".join([
        f"printf '%s:%s\\n' {USER} {shlex.quote(password)} | chpasswd",
        f"install -d -m 700 -o {USER} -g {USER} /home/{USER}/.ssh",
        f"printf '%s' {shlex.quote(public_key)} > /home/{USER}/.ssh/authorized_keys",
        f"chown {USER}:{USER} /home/{USER}/.ssh/authorized_keys",
        container_setup(),
    ]) + "\n"


def make_key(path: Path) -> None:
    """Make a key pair for this session: ``path`` and ``path``.pub."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", str(path)]
    subprocess.run(argv, check=True)


def write_override(path: Path, *, image: str, subnet: str, volumes: Sequence[str] = ()) -> None:
    """Write the compose file of what only this session knows: image, fixed addresses, packages' folders and
    other ``volumes``."""
    volumes = [*(f"{folder}:{folder}:ro" for folder in package_folders()), *volumes]
    services = {
        name: {
            "image": image,
            "labels": {SESSION_LABEL: str(os.getpid())},
            "volumes": volumes,
            "networks": {"default": {"ipv4_address": f"{subnet.rpartition('.')[0]}.{10 + number}"}},
        }
        for number, name in enumerate(SERVICES)
    }
    labels = {SESSION_LABEL: str(os.getpid())}
    network = {"ipam": {"config": [{"subnet": subnet}]}, "labels": labels}
    volume = {"labels": labels}
    content = {"services": services, "networks": {"default": network}, "volumes": {"shared-home": volume}}
    path.write_text(json.dumps(content, indent=1))


def free_subnet() -> str:
    """Return a /24 that neither this machine's routes nor docker's networks use. Sessions that begin at the
    same time look at different places."""
    used = set()
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        address = int(line.split()[1], 16)
        used.add((address & 255, address >> 8 & 255, address >> 16 & 255))
    for number in ((os.getpid() * 67 + step) % 256 for step in range(256)):
        if (10, 77, number) not in used:
            return f"10.77.{number}.0/24"
    raise DockerUnavailableError("no free network for the hosts")


def wait_for_sshd(address: str, *, timeout_s: float = PATIENCE_S) -> None:
    """Return once sshd has said its banner. Raises DockerUnavailableError when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection((address, 22), timeout=10) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError as error:
            reason = error
        else:
            reason = OSError("no banner")
        if time.monotonic() > deadline:
            raise DockerUnavailableError(f"no sshd at {address} after {timeout_s:.0f} s: {reason}")
        time.sleep(0.05)


def remove_leftovers(*, of_pid: int | None = None) -> None:
    """Remove the containers, networks and volumes of ``of_pid``, or of every session whose process is
    gone."""
    listings = {
        "container": ("ps", "-aq"), "network": ("network", "ls", "-q"), "volume": ("volume", "ls", "-q"),
    }
    for kind, listing in listings.items():
        left = docker(*listing, "--filter", f"label={SESSION_LABEL}").stdout.split()
        left = [found for found in left if _is_left_over(kind, found, of_pid)]
        if not left:
            continue
        # What can't be removed now (it may be on its way out) is left to the next session.
        if kind == "container":
            docker("unpause", *left, check=False)
            docker("rm", "-f", "-v", *left, check=False)
        else:
            docker(kind, "rm", *left, check=False)


def _is_left_over(kind: str, found: str, of_pid: int | None) -> bool:
    labels = "{{json .Config.Labels}}" if kind == "container" else "{{json .Labels}}"
    try:
        pid = int(json.loads(docker(kind, "inspect", "-f", labels, found).stdout)[SESSION_LABEL])
    except DockerError:  # another session has removed it
        return False
    return pid == of_pid if of_pid is not None else not Path(f"/proc/{pid}").exists()


def write_inventory(folder: Path, hosts: Sequence[DockerHost], **keys: Any) -> Path:
    """Write ``<folder>/.remote/configs.yaml`` with these hosts, return ``folder``.

    ``keys`` are the file's other top-level keys (``name``, ``defaults``, ``environment`` …); ``servers`` adds
    to the hosts' entries: ``servers={"host-0": {"nproc_per_node": 2}}``.
    """
    import yaml

    extra = keys.pop("servers", {})
    servers = {host.name: host.entry(**extra.get(host.name, {})) for host in hosts}
    content = {"name": keys.pop("name", "project"), **keys, "servers": servers}
    remote = folder / ".remote"
    remote.mkdir(parents=True, exist_ok=True)
    (remote / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder
