"""The errors of a command that did not end by itself, worded once for every transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from remote_launch.errors import CommandError, CommandTimeoutError, last_lines
from remote_launch.transport.process import CAPTURE_LIMIT_BYTES

if TYPE_CHECKING:
    from remote_launch.transport.command import Command


class _Said(Protocol):
    stdout: bytes
    stderr: bytes


def timeout_error(
    server: str, command: Command, timeout_s: float | None, said: _Said, *, stopped: bool
) -> CommandTimeoutError:
    """Return the error for a command that ran past its time; ``said`` has what it printed until then."""
    tail = last_lines(said.stderr.decode("utf-8", "replace")) or last_lines(
        said.stdout.decode("utf-8", "replace")
    )
    end = "was stopped" if stopped else "could not be stopped: it may still be running"
    return CommandTimeoutError(
        f"{server}: {command.masked()}: ran longer than {timeout_s or 0:g} s and {end}"
        + (f"\n{tail}" if tail else ""),
        server=server,
        command=command.masked(),
        tail=tail,
    )


def overflow_error(server: str, command: Command) -> CommandError:
    """Return the error for a command that printed more than is kept; it was stopped."""
    return CommandError(
        f"{server}: {command.masked()}: printed more than {CAPTURE_LIMIT_BYTES >> 20} MiB and was stopped",
        server=server,
        command=command.masked(),
        hint="send its output to a file on the server and pull that",
    )
