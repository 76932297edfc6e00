"""sshd daemons for tests: unprivileged, on 127.0.0.2, .3 …, with keys, ssh_config and known_hosts of their
own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.transport.base import Target
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

READY_S = 60.0  # of a machine with much else to do


class SshdServer:
    """One daemon. ``name`` is an alias in ``ssh_config``; nothing of the developer's own ssh setup is
    read."""

    def __init__(self, folder: Path, name: str, address: str, *, sshd_options: Sequence[str] = ()) -> None:
        self.name = name
        self.address = address
        self.port = free_port(address)
        self.username = getpass.getuser()
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key = make_key(folder / "id_ed25519")
        self.known_hosts = self.folder / "known_hosts"
        self.ssh_config = self.folder / "ssh_config"
        self.log = self.folder / "sshd.log"
        self._sshd_options = list(sshd_options)
        self._process: subprocess.Popen[bytes] | None = None
        self.ssh_config.write_text(self.ssh_config_block())
        make_key(self.folder / "host_key")

    def ssh_config_block(self) -> str:
        """Return the lines of an ssh_config for this server: by its alias, its address, or "name" of a
        joint file."""
        return (
            f"Host {self.name} {self.address}\n  HostName {self.address}\n"
            f"  Port {self.port}\n  User {self.username}\n"
            f"  IdentityFile {self.key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
        )

    def target(self, transport: str = "openssh", **changes: Any) -> Target:
        """Return the target for this server; ``changes`` replace its fields."""
        fields: dict[str, Any] = {
            "name": self.name,
            "hostname": self.address,
            "port": self.port,
            "username": self.username,
            "private_key": self.key,
            "ssh_config": self.ssh_config,
            "transport": transport,
            "connect_timeout_s": 30,
        }
        return Target(**{**fields, **changes})

    @property
    def pid(self) -> int:
        assert self._process is not None, "sshd is not running"
        return self._process.pid

    def start(self) -> SshdServer:
        """Start the daemon and wait until it greets."""
        config = self.folder / "sshd_config"
        (self.folder / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        lines = [
            f"ListenAddress {self.address}",
            f"Port {self.port}",
            f"HostKey {self.folder / 'host_key'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            f"PidFile {self.folder / 'sshd.pid'}",
            *self._sshd_options,
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "MaxStartups 200:30:400",
            "UseDNS no",
            "PrintMotd no",
            "SetEnv SHLVL=3",  # bash then leaves out .bashrc, which is the developer's own and may be slow
            f"Subsystem sftp {_sftp_server()}",
        ]
        config.write_text("\n".join(lines) + "\n")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        program = sshd_program()
        assert program is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._greets, READY_S, f"sshd on {self.address}:{self.port} to answer; see {self.log}")
        return self

    def stop(self) -> None:
        """End the daemon; sessions that are open go on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(READY_S)
            self._process = None

    def kill(self) -> None:
        """End the daemon and its sessions at once, with all that they run: as when the machine loses
        power."""
        if self._process is None:
            return
        family = [self._process.pid]
        stopped: set[int] = set()
        while more := [pid for pid in family if pid not in stopped]:
            for pid in more:  # first: what is still forking would leave a child behind that nobody has seen
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stopped.update(more)
            family += descendants(self._process.pid)
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(READY_S)
        self._process = None

    def restart(self, *, new_host_key: bool = False) -> None:
        """Kill it and start it again on the same port; on demand with another host key."""
        self.kill()
        if new_host_key:
            for file in (self.folder / "host_key", self.folder / "host_key.pub"):
                file.unlink()
            make_key(self.folder / "host_key")
        self.start()

    def _greets(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"sshd ended: {self.log.read_text()[-2000:]}"
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.address, self.port), timeout=2) as connection,
        ):
            return connection.recv(4) == b"SSH-"
        return False


@contextlib.contextmanager
def sshd_servers(
    folder: Path, count: int = 1, *, sshd_options: Sequence[str] = ()
) -> Iterator[list[SshdServer]]:
    """Run ``count`` daemons, "server-1" on 127.0.0.2 and so on. Skips the test, with the reason, where that
    can't be done."""
    skip_without_sshd()
    servers = [
        SshdServer(folder, f"server-{number}", f"127.0.0.{number + 1}", sshd_options=sshd_options)
        for number in range(1, count + 1)
    ]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()


def write_ssh_config(path: Path, servers: Sequence[SshdServer]) -> Path:
    """Write one ssh_config with every server's alias, and return its path."""
    path.write_text("\n".join(server.ssh_config_block() for server in servers))
    return path


def sshd_program() -> str | None:
    """Return sshd's path; sshd insists on being called by an absolute one."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")


def skip_without_sshd() -> None:
    """Skip the test that calls this when there is no sshd or ssh, or no 127.0.0.2 (as on macOS)."""
    for program, found in (
        ("sshd", sshd_program()),
        ("ssh", shutil.which("ssh")),
        ("ssh-keygen", shutil.which("ssh-keygen")),
    ):
        if found is None:
            pytest.skip(f"{program} is not installed")
    try:
        free_port("127.0.0.2")
    except OSError:
        pytest.skip("this machine has no address 127.0.0.2")


def make_key(path: Path) -> Path:
    """Make an ed25519 key without a passphrase unless it is there, and return its path."""
    if not path.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True
        )
    return path


def end_masters(folder: Path) -> None:
    """End every ssh ControlMaster whose socket lies in ``folder``."""
    for file in folder.iterdir():
        if file.is_socket():
            subprocess.run(
                ["ssh", "-F", "none", "-S", str(file), "-O", "exit", "master"],
                capture_output=True,
                timeout=READY_S,
            )


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below ``pid``, by /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def wait_for(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Poll until the condition holds; fail, saying what was awaited, when it doesn't in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(0.02)


def _sftp_server() -> str:
    for path in (
        "/usr/lib/openssh/sftp-server",
        "/usr/libexec/openssh/sftp-server",
        "/usr/libexec/sftp-server",
    ):
        if Path(path).exists():
            return path
    return "internal-sftp"
