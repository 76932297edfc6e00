"""The errors a user can meet. Every one says what happened, on which server, and (``hint``) what to do next.

RemoteLaunchError(hint, exit_code)
├── UsageError                        exit code 2
├── ProjectNotFoundError              hint: rl init
├── ConfigError(path, line, key)
│   └── UnknownServerError            did you mean; exit code 2
├── TransportError(server)
│   ├── MissingProgramError           ssh, rsync, python: on this machine or on the server
│   ├── ConnectError: ResolveError, ConnectTimeoutError, AuthenticationError, HostKeyError
│   └── ConnectionLostError           the job may still be running: says so
├── CommandError(result)              the command (masked), exit code, last 25 lines
│   ├── CommandTimeoutError
│   └── SyncError                     rsync's exit code in words
├── PrepareError(server, step)
├── WorkspaceError(server)            a workdir that rl must not touch
├── TopologyError
├── JobError
│   ├── UnknownJobError               nearest keys; exit code 2
│   ├── StartUnderWayError
│   ├── JobStateError
│   └── RegistryError
└── ServersFailedError(outcomes)      every server's outcome kept

Third-party exceptions are mapped once, at the edge of ``transport``; ``cli/main.py`` is the only place that
catches. A bug keeps its traceback: it is never one of these."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

TAIL_LINES = 25


class RemoteLaunchError(Exception):
    """Base of all. ``hint`` is the next step for the user; ``exit_code`` is what the process should exit
    with."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code
        self._note("", self.hint)

    def _note(self, indent: str, hint: str | None) -> None:
        """Have a traceback show the next step too; the command line shows it in its own way."""
        if sys.version_info >= (3, 11):
            for line in (hint or "").splitlines():
                self.add_note(f"{indent}→ {line}")

    def __str__(self) -> str:
        return self.message

    @property
    def kind(self) -> str:
        """The class's name: what ``--json`` prints as the error's type."""
        return type(self).__name__

    def to_dict(self) -> dict[str, Any]:
        """Given an error, return what ``--json`` prints of it."""
        data: dict[str, Any] = {"type": self.kind, "message": self.message, "hint": self.hint}
        server = getattr(self, "server", None)
        if server:
            data["server"] = server
        return data


class UsageError(RemoteLaunchError):
    """The command line or the call makes no sense as given."""

    exit_code = 2


class ProjectNotFoundError(RemoteLaunchError):
    """No ``.remote/`` folder here or above."""


class ConfigError(RemoteLaunchError):
    """The inventory can't be used; names the file, the line (from 1) and the key."""

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        line: int | None = None,
        key: str | None = None,
        hint: str | None = None,
        exit_code: int | None = None,
    ) -> None:
        where = "" if path is None else f"{path}:{line}: " if line else f"{path}: "
        super().__init__(where + message, hint=hint, exit_code=exit_code)
        self.path = path
        self.line = line
        self.key = key


class UnknownServerError(ConfigError):
    """A server name that the inventory doesn't have."""

    exit_code = 2

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = list(known)
        super().__init__(
            f"unknown server {name!r}{did_you_mean(name, known)}",
            hint=f"known servers: {', '.join(known) or 'none'}",
        )
        self.name = name


class TransportError(RemoteLaunchError):
    """Something between this machine and ``server``."""

    def __init__(self, server: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{server}: {message}", hint=hint)
        self.server = server


class MissingProgramError(TransportError):
    """A program that is needed (ssh, rsync, python3) isn't installed, here or on the server."""


class ConnectError(TransportError):
    """No connection to the server; nothing was started there."""


class ResolveError(ConnectError):
    """The hostname has no address."""


class ConnectTimeoutError(ConnectError):
    """The server did not answer in time."""


class AuthenticationError(ConnectError):
    """The server refused every key (and password) offered. ``methods`` are the ways in that it named."""

    def __init__(
        self, server: str, message: str, *, hint: str | None = None, methods: Iterable[str] = ()
    ) -> None:
        super().__init__(server, message, hint=hint)
        self.methods = tuple(methods)

    @property
    def takes_passwords(self) -> bool:
        """True where the server said that it takes them, or didn't say."""
        return not self.methods or any(one in ("password", "keyboard-interactive") for one in self.methods)


class HostKeyError(ConnectError):
    """The server's host key is not the one known."""


class ConnectionLostError(TransportError):
    """The connection ended in the middle of a command. What runs on the server may still be running."""


class CommandError(RemoteLaunchError):
    """A command on a server (or here) ended with a non-zero exit code. Carries its evidence."""

    def __init__(
        self,
        message: str,
        *,
        server: str | None = None,
        command: str = "",
        exit_code_of_command: int | None = None,
        tail: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.server = server
        self.command = command
        self.command_exit_code = exit_code_of_command
        self.tail = tail

    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "command": self.command,
            "command_exit_code": self.command_exit_code,
            "tail": self.tail,
        }


class CommandTimeoutError(CommandError):
    """The command ran past its time; it was stopped."""


class SyncError(CommandError):
    """rsync failed; the message says its exit code in words."""


class PrepareError(RemoteLaunchError):
    """A step of ``rl prepare`` failed on a server."""

    def __init__(
        self, server: str, step: str, message: str, *, tail: str = "", hint: str | None = None
    ) -> None:
        super().__init__(f"{server}: {step}: {message}", hint=hint)
        self.server = server
        self.step = step
        self.tail = tail

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "step": self.step, "tail": self.tail}


class WorkspaceError(RemoteLaunchError):
    """The workdir on a server is one that rl must not write into, or isn't there yet."""

    def __init__(self, server: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{server}: {message}", hint=hint)
        self.server = server


class TopologyError(RemoteLaunchError):
    """The ranks can't be laid out over the servers as asked."""


class JobError(RemoteLaunchError):
    """About one or more jobs."""


NO_JOBS_HINT = "start one: rl job-run, rl torch-launch; rl job-list --rsync asks the servers for earlier ones"


class UnknownJobError(JobError):
    """No job with that key, id or tags."""

    exit_code = 2


class StartUnderWayError(JobError):
    """Another start of the same job is at it: this one did nothing, and the job may run."""


class JobStateError(JobError):
    """The job is in a state in which that can't be done."""


class RegistryError(JobError):
    """The local index of jobs can't be read or written."""


class ServersFailedError(RemoteLaunchError):
    """At least one server failed. ``outcomes`` maps each server's name to its error, or to None where it went
    well."""

    def __init__(self, outcomes: Mapping[str, RemoteLaunchError | None], what: str = "") -> None:
        self.outcomes = dict(outcomes)
        failed = [name for name, error in self.outcomes.items() if error is not None]
        some = len(failed) < len(self.outcomes)
        noun = "server" if len(failed) == 1 else "servers"
        super().__init__(
            f"{what + ': ' if what else ''}{len(failed)} of {len(self.outcomes)} servers failed"
            if some
            else f"{what + ': ' if what else ''}{len(failed)} {noun} failed",
            exit_code=3 if some else 1,
        )
        for error in self.outcomes.values():
            if error is not None and sys.version_info >= (3, 11):
                self.add_note(f"✗ {error.message}")
                self._note("  ", error.hint)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Given a wrong word and the right ones, return ", did you mean X?" or an empty string."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else ""


def last_lines(text: str, count: int = TAIL_LINES) -> str:
    """Given output, return its last ``count`` non-empty lines."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
