"""Servers over the ssh program and its ControlMaster: everything in ``~/.ssh/config`` works, for commands,
rsync and tunnels alike.

What only tunnels and errors need is imported there: every command would start 2 ms later."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, NoReturn

from remote_launch.errors import ConnectError, UsageError
from remote_launch.transport import files
from remote_launch.transport.base import RsyncRoute
from remote_launch.transport.command import quote_path, stop_command
from remote_launch.transport.masters import Master, missing_ssh, options
from remote_launch.transport.process import Cancel, ProcessTimeout, become, run_process
from remote_launch.transport.spawned import completed, run_spawned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from remote_launch.transport.base import Completed, Forward, KeptForward, Target
    from remote_launch.transport.command import Command
    from remote_launch.transport.process import Ended

_STOP_TIMEOUT_S = 15.0  # the sweep takes 4 s at most; a busy server is slower
_SSH_FAILED = 255  # ssh's own exit code, and a possible one of the command
# What ssh logs at debug level 2, over a master and without one.
_EXIT_STATUS = re.compile(r"Received exit status from master (\d+)|debug1: Exit status (-?\d+)")
_HIGH_PORTS = range(20000, 32768)  # below Linux's own choices for outgoing connections
_BEGAN = re.compile(r"master session id:|Sending command:")


class OpensshTransport:
    """One server. Connects at first use; the master is shared with every other process of this user."""

    def __init__(self, target: Target) -> None:
        if target.hostname.startswith("-"):
            raise UsageError(f"{target.name}: {target.hostname!r} is not a hostname")
        self.target = target
        self._master = Master(target)
        self._cancel = Cancel()
        self._forwards: list[Forward] = []

    def connect(self) -> None:
        """See ``base.Transport.connect``."""
        try:
            self._master.ensure()
        except (FileNotFoundError, PermissionError) as error:
            raise self._missing(error) from None

    def is_open(self) -> bool:
        """See ``base.Transport.is_open``."""
        return self._master.answers()

    def run(
        self,
        command: Command,
        *,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> Completed:
        """See ``base.Transport.run``."""
        self.connect()
        with self._log() as log:
            try:
                ended = run_spawned(
                    self._argv(log, command),
                    command,
                    self.target.name,
                    stop=self._stop,
                    cancel=self._cancel,
                    stdin=stdin,
                    timeout_s=timeout_s,
                    on_stdout=on_stdout,
                    on_stderr=on_stderr,
                )
            except (FileNotFoundError, PermissionError) as error:
                raise self._missing(error) from None
            code = self._exit_code(ended, log)
        self._master.touch()
        return completed(self.target.name, command, ended, code)

    def _missing(self, error: OSError) -> Exception:
        """Given why a program could not be run, or a file (a callback's) opened, return what to raise."""
        return missing_ssh(self.target) if error.filename == "ssh" else error

    def _argv(self, log: Path, command: Command) -> list[str]:
        return [
            *("ssh", *self._master.through(), *options(self.target)),
            # What ssh itself says, apart from the command's stderr: see _exit_code.
            *("-E", str(log), "-o", "LogLevel=DEBUG2"),
            "-T",  # no terminal
            *("--", self.target.hostname, command.remote()),
        ]

    @contextlib.contextmanager
    def _log(self) -> Iterator[Path]:
        """A file for ssh's own words; removed afterwards. Its folder is closed to others."""
        path = self._master.folder / f"log-{os.urandom(8).hex()}"
        path.touch(mode=0o600, exist_ok=False)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _exit_code(self, ended: Ended, log: Path) -> int:
        """Return the command's exit code, or raise when there is none: 255 is ssh's own failure or the
        command's code."""
        if 0 <= ended.returncode != _SSH_FAILED:
            return ended.returncode
        from remote_launch.transport.ssh_errors import connect_error, lost_error

        said = log.read_text("utf-8", "replace")
        statuses = [
            int(status) for match in _EXIT_STATUS.finditer(said) for status in match.groups() if status
        ]
        if statuses and statuses[-1] >= 0:
            return statuses[-1]
        if not _BEGAN.search(said):
            self._master.retire()
            raise connect_error(self.target, said)
        alive = self._master.answers()
        raise lost_error(self.target, said, master_lives=alive)

    def _stop(self, command: Command) -> bool:
        """Stop a command's processes on the server, over the master that is there. True when that went
        through."""
        sweep = stop_command(command)
        try:
            with self._log() as log:
                ended = run_process(
                    self._argv(log, sweep), stdin=sweep.stdin(None), timeout_s=_STOP_TIMEOUT_S
                )
        except (OSError, ProcessTimeout):
            return False
        return ended.returncode == 0

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        """See ``base.Transport.put``."""
        files.put(self, content, path, mode)

    def get(self, path: str, *, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """See ``base.Transport.get``."""
        return files.get(self, path, max_bytes)

    def forward(self, remote_port: int, *, local_port: int = 0, remote_host: str = "127.0.0.1") -> Forward:
        """See ``base.Transport.forward``."""
        from remote_launch.transport.forwards import SocketForward

        forward = SocketForward(self._master, self.connect, (remote_host, remote_port), local_port)
        self._forwards.append(forward)
        return forward

    def keep_forward(self, remote_port: int, *, local_port: int, remote_host: str, owner: str) -> KeptForward:
        """See ``base.Transport.keep_forward``."""
        from remote_launch.transport.forwards import keep_forward

        try:
            return keep_forward(self.target, (remote_host, remote_port), local_port, owner)
        except FileNotFoundError:
            raise missing_ssh(self.target) from None

    def reverse_forward(self, local_port: int, *, remote_port: int = 0) -> Forward:
        """See ``base.Transport.reverse_forward``."""
        import random

        from remote_launch.transport.forwards import add_forward

        self.connect()
        # With port 0 the server would choose, but the master takes equal requests for one: whoever closes
        # first closes for all.
        tries = [remote_port] if remote_port else random.sample(_HIGH_PORTS, 5)
        for port in tries:
            with contextlib.suppress(ConnectError):
                forward = add_forward(self._master, "-R", f"127.0.0.1:{port}:127.0.0.1:{local_port}", port)
                self._forwards.append(forward)
                return forward
        raise ConnectError(
            self.target.name,
            f"the server can't listen on 127.0.0.1:{' or '.join(map(str, tries))} for a tunnel back",
            hint="is the port taken there, or AllowTcpForwarding off in its sshd_config?",
        )

    @contextlib.contextmanager
    def rsync_route(self) -> Iterator[RsyncRoute]:
        """See ``base.Transport.rsync_route``. The options are there for the case that the master goes away
        meanwhile."""
        self.connect()
        host = f"[{self.target.hostname}]" if ":" in self.target.hostname else self.target.hostname
        shell = ("ssh", *self._master.through(), *options(self.target), "-T")
        yield RsyncRoute(shell=shell, prefix=f"{host}:", cancel=self._cancel)
        self._master.touch()

    def enter(self, path: str) -> NoReturn:
        """See ``base.Transport.enter``. ssh takes this process's place: keys, signals and the size of the
        window are its business."""
        self.connect()
        self._master.touch()
        words = ["ssh", *self._master.through(), *options(self.target), "-o", "LogLevel=ERROR", "-t"]
        become([*words, "--", self.target.hostname, f"exec /bin/sh {quote_path(path)}"])

    def cancel(self) -> None:
        """See ``base.Transport.cancel``."""
        self._cancel.set()

    def close(self) -> None:
        """Close this object's forwards. The master stays for the next process."""
        while self._forwards:
            self._forwards.pop().close()

    def disconnect(self) -> None:
        """End the master, and with it all that goes through it."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self._master.drop()
