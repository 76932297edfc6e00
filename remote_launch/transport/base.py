"""The protocol that every transport keeps, and the plain data it speaks in.

Nothing above this package knows whether a server is reached by OpenSSH, by fabric or by a local subprocess.
The same contract tests (``tests/contract``) run against all three."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NoReturn, Protocol

from remote_launch.dataclass import dataclass
from remote_launch.errors import CommandError, last_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from remote_launch.transport.command import Command
    from remote_launch.transport.process import Cancel


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """How to reach one server: all that a transport needs to know. Made by ``core.inventory`` from a server's
    entry.

    ``hostname`` may be an alias of ``~/.ssh/config``; what is None is left to ssh's own configuration.
    ``password`` is in no repr. ``password_command`` is run where there is none (``transport.passwords``)."""

    name: str
    hostname: str = "localhost"
    username: str | None = None
    port: int | None = None
    private_key: Path | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    password_command: str | None = dataclasses.field(default=None, repr=False)
    transport: str = "openssh"  # openssh | fabric | local
    ssh_config: Path | None = None  # None: ssh's own files
    connect_timeout_s: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A command that ended. ``exit_code`` is None when a signal ended it (then ``signal`` is its name, as
    "KILL").

    ``stdout`` and ``stderr`` hold what was captured: everything, or, for a stream given a callback, its last
    64 KiB."""

    server: str
    command: str  # masked, for people
    exit_code: int | None
    signal: str | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    duration_s: float = 0.0

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def text(self) -> str:
        """stdout decoded, without the last newline."""
        return self.stdout.decode("utf-8", "replace").rstrip("\n")

    def check(self, what: str | None = None, *, hint: str | None = None) -> Completed:
        """Return self when the command succeeded; else raise CommandError with its last lines."""
        if self.ok:
            return self
        how = f"exit code {self.exit_code}" if self.signal is None else f"signal {self.signal}"
        tail = last_lines(self.stderr.decode("utf-8", "replace")) or last_lines(
            self.stdout.decode("utf-8", "replace")
        )
        raise CommandError(
            f"{self.server}: {what or self.command}: {how}" + (f"\n{tail}" if tail else ""),
            server=self.server,
            command=self.command,
            exit_code_of_command=self.exit_code,
            tail=tail,
            hint=hint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RsyncRoute:
    """How a local rsync process reaches a server: ``rsync -e <shell> … <prefix><path>``, run with ``env``
    added.

    ``shell`` is an argv; empty for a local destination. ``prefix`` is "host:" or "". ``home`` replaces a
    leading "~/" in paths ("" for ssh, where a relative path starts at the home folder). No secret stands in
    any of them."""

    shell: tuple[str, ...] = ()
    prefix: str = ""
    home: str = ""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cancel: Cancel | None = None  # the transport's: its ``cancel`` ends the rsync process too


class Forward(Protocol):
    """An open tunnel. ``port`` is the listening end's: on this machine, or for a reverse forward on the
    server."""

    port: int

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptForward:
    """A tunnel that an ssh process of its own keeps, after ours has ended: its control socket, and its id."""

    socket: str
    pid: int


class Transport(Protocol):
    """A way to one server. Safe to use from several threads. Connects at first use, or by ``connect``."""

    target: Target

    def connect(self) -> None:
        """Open (or find open) the connection. Raises ConnectError or a subclass."""

    def is_open(self) -> bool:
        """True while the connection stands, as far as is known here; nothing is asked of the server."""
        ...

    def run(
        self,
        command: Command,
        *,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> Completed:
        """Run a command to its end. A non-zero exit code is a result, not an exception (see
        ``Completed.check``).

        With a callback, chunks are handed over as they come (as bytes; may split characters) from one thread,
        and only the last 64 KiB are kept. Without one, output over 64 MiB raises CommandError.
        On timeout, KeyboardInterrupt or an exception from a callback, the command's processes on the server
        are stopped, then the exception goes on (CommandTimeoutError for a timeout). A background child that
        keeps stdout open holds ``run`` as it would hold ssh. Raises ConnectError, ConnectionLostError,
        CommandTimeoutError."""
        ...

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        """Write a small file atomically (aside, then rename), making its folder. A leading "~/" is the home
        folder."""

    def get(self, path: str, *, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """Return a file's content. Raises CommandError when it is missing or larger than ``max_bytes``."""
        ...

    def forward(self, remote_port: int, *, local_port: int = 0, remote_host: str = "127.0.0.1") -> Forward:
        """Listen on 127.0.0.1:``local_port`` here (0: any free) and connect to ``remote_host:remote_port``
        from the server. It ends with this process, however that ends; where the connection was lost, the
        next use makes it again. Raises ConnectError when the port can't be had."""
        ...

    def keep_forward(self, remote_port: int, *, local_port: int, remote_host: str, owner: str) -> KeptForward:
        """As ``forward``, but over a connection of its own, which stays until ``forwards.stop_kept`` or its
        loss. ``owner`` and ``local_port`` name it. Raises UsageError where that can't be."""
        ...

    def reverse_forward(self, local_port: int, *, remote_port: int = 0) -> Forward:
        """Listen on 127.0.0.1:``remote_port`` of the server (0: any free) and connect to
        127.0.0.1:``local_port`` here."""
        ...

    def rsync_route(self) -> AbstractContextManager[RsyncRoute]:
        """For the length of a ``with``: how rsync reaches the server over the connection that is already
        there."""
        ...

    def enter(self, path: str) -> NoReturn:
        """Become an interactive session there on this process's terminal: a /bin/sh that runs the script at
        ``path``. This process ends with its exit code. Raises UsageError where that can't be."""
        ...

    def cancel(self) -> None:
        """Make every ``run`` under way in other threads stop its command and raise KeyboardInterrupt there.
        For Ctrl-C."""

    def close(self) -> None:
        """Let go of what this process holds. An ssh master stays for the next process."""

    def disconnect(self) -> None:
        """End the connection for good, the ssh master included."""
