"""A server's command by a process of this machine: by ssh, or by the shell where that is the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.transport.base import Completed
from remote_launch.transport.command import read_exit
from remote_launch.transport.outcome import overflow_error, timeout_error
from remote_launch.transport.process import Ended, OutputOverflow, ProcessTimeout, run_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from remote_launch.transport.command import Command
    from remote_launch.transport.process import Cancel


def run_spawned(
    argv: Sequence[str],
    command: Command,
    server: str,
    *,
    stop: Callable[[Command], bool],
    cancel: Cancel,
    stdin: bytes | None,
    timeout_s: float | None,
    on_stdout: Callable[[bytes], None] | None,
    on_stderr: Callable[[bytes], None] | None,
    cwd: Path | None = None,
) -> Ended:
    """Run ``argv``, which carries ``command`` out, to its end; whatever ends it early, ``stop`` is called to
    end what it has started on the server. Raises CommandTimeoutError, CommandError for too much output."""
    stopped = False

    def on_abort() -> None:
        nonlocal stopped
        stopped = stop(command)

    try:
        return run_process(
            argv,
            stdin=command.stdin(stdin),
            timeout_s=timeout_s,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            on_abort=on_abort,
            cancel=cancel,
            cwd=cwd,
        )
    except ProcessTimeout as error:
        raise timeout_error(server, command, timeout_s, error, stopped=stopped) from None
    except OutputOverflow:
        raise overflow_error(server, command) from None


def completed(server: str, command: Command, ended: Ended, code: int) -> Completed:
    """Given the process's end, and the exit code of the command's own script, return what the command came
    to."""
    exit_code, signal = read_exit(code)
    return Completed(
        server=server,
        command=command.masked(),
        exit_code=exit_code,
        signal=signal,
        stdout=ended.stdout,
        stderr=ended.stderr,
        duration_s=ended.duration_s,
    )
