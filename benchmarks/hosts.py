"""The servers of the benchmarks: docker containers with sshd, and a folder that they share with this machine.

The shared folder holds a virtual environment with torch (made once, by the containers' own Python) and the
files in which ranks write down when they began. Containers have this machine's clock, so the times compare.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shlex
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.docker_hosts import USER, free_subnet, host_setup, wait_for_sshd
from tests.support.docker_image import build_host_image, docker, running_daemon
from tests.support.packages import package_folders

if TYPE_CHECKING:
    from collections.abc import Iterator

LABEL = "remote-launch.benchmark"  # its value is the pid of the run that owns the container
SHARED = "/bench"  # the shared folder, as the containers see it
VENV = f"{SHARED}/venv"
QUIET_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    name: str
    address: str
    container: str  # its full id

    def exec(self, script: str, *, user: str = USER, timeout_s: float = 120) -> str:
        """Run a shell script in the host round ssh, return its stdout."""
        return docker(
            "exec", "-i", "-u", user, self.container, "sh", "-eus", stdin=script, timeout_s=timeout_s
        ).stdout


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """The running hosts, and how to log in. ``key`` is RSA, the only kind that labml_remote can load."""

    hosts: list[Host]
    key: Path
    ssh_config: Path
    shared: Path

    def wait_until_idle(self) -> None:
        """Return when nothing runs on any host but sshd: the next measurement starts from the same state."""
        deadline = time.monotonic() + QUIET_S
        while left := self._processes():
            if time.monotonic() > deadline:
                raise RuntimeError(f"still running on the hosts after {QUIET_S:.0f} s: {left[:3]}")
            time.sleep(0.05)

    def _processes(self) -> list[str]:
        """The containers' processes are this kernel's: their cgroup says whose they are."""
        ids = {host.container for host in self.hosts}
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                cgroup = (folder / "cgroup").read_text()
                if any(container in cgroup for container in ids):
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command and not any(
                        word in command for word in ("sshd", "docker-init", "/sbin/docker", "start-host")
                    ):
                        found.append(command)
        return found


@contextlib.contextmanager
def running_lab(folder: Path, count: int, torch: str) -> Iterator[Lab]:
    """For the length of a ``with``: ``count`` hosts. What was started ends with it; the environment stays."""
    shared = folder / "shared"
    (shared / "out").mkdir(parents=True, exist_ok=True)
    (shared / "out").chmod(0o1777)
    key = folder / "key"
    if not key.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-m", "PEM", "-N", "", "-f", str(key)], check=True
        )
    with running_daemon():
        _remove_leftovers()
        image = build_host_image(verbose=True)
        network = f"remote-launch-benchmark-{os.getpid()}"
        label = f"{LABEL}={os.getpid()}"
        try:
            subnet = free_subnet()
            docker("network", "create", "--label", label, "--subnet", subnet, network)
            hosts = [_start(number, image, network, subnet, label, shared) for number in range(count)]
            for host in hosts:
                host.exec(
                    host_setup(key.with_suffix(".pub").read_text(), secrets.token_urlsafe(12)), user="root"
                )
            for host in hosts:
                wait_for_sshd(host.address)
            make_environment(hosts[0], shared, torch)
            yield Lab(hosts=hosts, key=key, ssh_config=_write_ssh_config(folder, hosts, key), shared=shared)
        finally:
            _remove(os.getpid())


def make_environment(host: Host, shared: Path, torch: str) -> None:
    """Make the hosts' virtual environment with ``torch`` (as pip names it), unless an earlier run did."""
    ready = shared / "venv" / ".ready"
    if ready.exists() and ready.read_text() == torch:
        return
    print(f"making the hosts' environment with {torch} (once)", flush=True)
    pip = f"{VENV}/bin/pip install -q {shlex.quote(torch)} numpy"
    host.exec(f"python3 -m venv --clear {VENV} && {pip}", user="root", timeout_s=1800)
    ready.write_text(torch)


def _start(number: int, image: str, network: str, subnet: str, label: str, shared: Path) -> Host:
    name, address = f"host-{number}", f"{subnet.rpartition('.')[0]}.{10 + number}"
    volumes = [f"{shared}:{SHARED}", *(f"{folder}:{folder}:ro" for folder in package_folders())]
    container = docker(
        "run",
        "-d",
        "--init",
        "--label",
        label,
        "--hostname",
        name,
        "--network",
        network,
        "--ip",
        address,
        "--shm-size",
        "256m",
        *(word for volume in volumes for word in ("-v", volume)),
        image,
    ).stdout.strip()
    return Host(name=name, address=address, container=container)


def _write_ssh_config(folder: Path, hosts: list[Host], key: Path) -> Path:
    known = folder / "known_hosts"
    lines = []
    for host in hosts:
        kind, text = host.exec("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2]
        lines.append(f"{host.address} {kind} {text}")
    known.write_text("\n".join(lines) + "\n")
    config = folder / "ssh_config"
    config.write_text(
        f"User {USER}\nIdentityFile {key}\nIdentitiesOnly yes\n"
        f"UserKnownHostsFile {known}\nGlobalKnownHostsFile /dev/null\n"
    )
    return config


def _remove(pid: int) -> None:
    """Remove the containers and the network of a run."""
    wanted = ["-q", "--filter", f"label={LABEL}={pid}"]
    containers = docker("ps", "-a", *wanted).stdout.split()
    if containers:
        docker("rm", "-f", "-v", *containers)
    for network in docker("network", "ls", *wanted).stdout.split():
        docker("network", "rm", network)


def _remove_leftovers() -> None:
    """Remove what runs that were killed left behind."""
    form = '{{.Label "' + LABEL + '"}}'
    listed = docker("ps", "-a", "--filter", f"label={LABEL}", "--format", form).stdout.split()
    listed += docker("network", "ls", "--filter", f"label={LABEL}", "--format", form).stdout.split()
    for pid in set(listed):
        if not Path(f"/proc/{pid}").exists():
            _remove(int(pid))
