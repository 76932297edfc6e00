"""This machine as a server: the same protocol by subprocess, with no sshd. For quickstarts and for
debugging on a laptop."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from remote_launch.errors import CommandError, ConnectError, UsageError
from remote_launch.transport import files
from remote_launch.transport.base import Completed, RsyncRoute
from remote_launch.transport.command import stop_command
from remote_launch.transport.process import Cancel, ProcessTimeout, become, run_process
from remote_launch.transport.pump import TcpPump
from remote_launch.transport.spawned import completed, run_spawned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remote_launch.transport.base import Forward, KeptForward, Target
    from remote_launch.transport.command import Command

_STOP_TIMEOUT_S = 30.0  # 4 s at most; more where this machine is busy


class LocalTransport:
    """Runs commands here, as a server would: from the home folder, in a session of their own, environment
    on stdin."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._cancel = Cancel()

    def connect(self) -> None:
        """Nothing to open."""

    def is_open(self) -> bool:
        """See ``base.Transport.is_open``."""
        return True

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
        ended = run_spawned(
            command.argv_of_shell(),
            command,
            self.target.name,
            stop=self._stop,
            cancel=self._cancel,
            stdin=stdin,
            timeout_s=timeout_s,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            cwd=Path.home(),
        )
        code = ended.returncode if ended.returncode >= 0 else 128 - ended.returncode
        return completed(self.target.name, command, ended, code)

    def _stop(self, command: Command) -> bool:
        """Stop a command's processes, also those that left its process group. True when the sweep went
        through."""
        sweep = stop_command(command)
        try:
            ended = run_process(sweep.argv_of_shell(), stdin=sweep.stdin(None), timeout_s=_STOP_TIMEOUT_S)
        except (OSError, ProcessTimeout):
            return False
        return ended.returncode == 0

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        """See ``base.Transport.put``."""
        files.put(self, content, path, mode)

    def get(self, path: str, *, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """See ``base.Transport.get``."""
        full = Path.home() / path[2:] if path.startswith("~/") else Path.home() / path
        if not full.is_file():
            raise CommandError(
                f"{self.target.name}: {path}: no such file", server=self.target.name, command=f"read {path}"
            )
        with full.open("rb") as file:
            content = file.read(max_bytes + 1)
        done = Completed(server=self.target.name, command=f"read {path}", exit_code=0)
        return files.check_size(done, content, path, max_bytes)

    def forward(self, remote_port: int, *, local_port: int = 0, remote_host: str = "127.0.0.1") -> Forward:
        """See ``base.Transport.forward``. A pump: the port may differ, and the other end may be another
        machine."""
        return self._pump(remote_host, remote_port, local_port)

    def keep_forward(self, remote_port: int, *, local_port: int, remote_host: str, owner: str) -> KeptForward:  # noqa: ARG002
        """See ``base.Transport.keep_forward``: not offered here."""
        raise UsageError(
            f"{self.target.name} is this machine: nothing needs forwarding",
            hint=f"port {remote_port} of {remote_host} can be reached from here",
        )

    def reverse_forward(self, local_port: int, *, remote_port: int = 0) -> Forward:
        """See ``base.Transport.reverse_forward``."""
        return self._pump("127.0.0.1", local_port, remote_port)

    def _pump(self, host: str, port: int, listen: int) -> TcpPump:
        try:
            return TcpPump(lambda: socket.create_connection((host, port), timeout=10), local_port=listen)
        except (OSError, socket.gaierror) as error:
            raise ConnectError(
                self.target.name, f"can't listen on port {listen} of this machine: {error}"
            ) from None

    @contextlib.contextmanager
    def rsync_route(self) -> Iterator[RsyncRoute]:
        """See ``base.Transport.rsync_route``."""
        yield RsyncRoute(home=f"{Path.home()}/", cancel=self._cancel)

    def enter(self, path: str) -> NoReturn:
        """See ``base.Transport.enter``."""
        become(["/bin/sh", str(Path(path).expanduser())])

    def cancel(self) -> None:
        """See ``base.Transport.cancel``."""
        self._cancel.set()

    def close(self) -> None:
        """Nothing is held: forwards belong to who opened them."""

    def disconnect(self) -> None:
        """Nothing to end."""
