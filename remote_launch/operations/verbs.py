"""Ask a server's own programs (``remote_launch.remote``): one request, one answer, one round trip.

The programs travel once per version: a call finds them by the name of their content, and sends them only when
they are missing."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from remote_launch.core.programs import archive_content, archive_name
from remote_launch.errors import (
    CommandError,
    CommandTimeoutError,
    JobError,
    MissingProgramError,
    RemoteLaunchError,
    StartUnderWayError,
    WorkspaceError,
    last_lines,
)
from remote_launch.transport.command import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet
    from remote_launch.transport.base import Completed, Transport

_NO_PYTHON, _NO_PROGRAM = 96, 97
_SILENT_HINT = "it is connected but silent: suspended, overloaded, a disk that hangs? rl doctor says more"
# $1 the archive, $2 the verb, then the interpreters to try. Python 3.8 is the oldest that the programs run
# on.
_RUN = f"""
[ -f "$1" ] || exit {_NO_PROGRAM}
a=$1; v=$2; shift 2
[ -f "${{a%.pyz}}/__main__.py" ] && a=${{a%.pyz}}/__main__.py  # the archive was unpacked (core/programs.py)
# What stops a command finds it by this variable: a supervisor must outlive the command that starts it.
[ "$v" = start ] && unset RL_COMMAND_ID
for p in "$@"; do
  command -v "$p" >/dev/null 2>&1 || continue
  # -I -S: the user's own PYTHONPATH and site-packages stay out, and 5 ms are saved. A python that is too old
  # says {_NO_PYTHON}.
  "$p" -I -S "$a" "$v"; c=$?
  [ $c = {_NO_PYTHON} ] || exit $c
done
exit {_NO_PYTHON}
"""


def who() -> str:
    """Return the user and machine that the servers' other users are told of."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a uid without a name: containers
        user = "?"
    return f"{user}@{socket.gethostname()}"


def call(
    fleet: Fleet, server: Server, verb: str, request: Mapping[str, Any], *, timeout_s: float = 60.0
) -> dict[str, Any]:
    """Given a verb and its request, return the server's answer.

    Raises TransportError and CommandError as ``Transport.run`` does, MissingProgramError where no Python 3.8+
    is found, WorkspaceError where the workdir can't be written, and the refusal of the program itself as
    JobError or WorkspaceError."""
    done = _run(fleet, server, verb, request, timeout_s=timeout_s)
    done.check(
        f"rl's program {verb!r} failed",
        hint="this is a bug or a broken python3 on the server; the last lines are above",
    )
    answer = _last_json(done.stdout)
    if answer is None:
        raise CommandError(
            f"{server.name}: rl's program {verb!r} gave no answer",
            server=server.name,
            command=verb,
            exit_code_of_command=done.exit_code,
            tail=last_lines(done.stdout.decode("utf-8", "replace")),
            hint="the login shell's start-up files may print or exit: try ssh to the server, and python3 -V",
        )
    if "error" in answer:
        raise refusal(server.name, answer["error"])
    return answer


def stream(
    fleet: Fleet, server: Server, verb: str, request: Mapping[str, Any], on_stdout: Callable[[bytes], None]
) -> Completed:
    """Run a verb that streams; hand its stdout over as it comes. Returns when the program ends."""
    return _run(fleet, server, verb, request, timeout_s=None, on_stdout=on_stdout)


def _run(
    fleet: Fleet,
    server: Server,
    verb: str,
    request: Mapping[str, Any],
    *,
    timeout_s: float | None,
    on_stdout: Callable[[bytes], None] | None = None,
) -> Completed:
    path = f"{server.workdir}/.rl/bin/{archive_name()}"
    place = {"workdir": server.workdir, "jobs_folder": fleet.inventory.jobs_folder_name}
    body = {"server": server.name, **place, **request}
    stdin = json.dumps(body).encode()
    transport = fleet.transport(server.name)
    pythons = [*([server.python] if server.python else []), "python3"]

    def run() -> Completed:
        command = Command([path, verb, *pythons], shell=_RUN, label=f"rl {verb}")
        try:
            return transport.run(command, stdin=stdin, timeout_s=timeout_s, on_stdout=on_stdout)
        except CommandTimeoutError as error:
            error.hint = error.hint or _SILENT_HINT
            raise

    done = run()
    if done.exit_code == _NO_PROGRAM:
        _send_programs(transport, server, path)
        done = run()
    if done.exit_code == _NO_PYTHON:
        from remote_launch.core.environments.places import environment_python

        pythons.append(environment_python(server))
        done = run()
    if done.exit_code == _NO_PYTHON:
        raise MissingProgramError(
            server.name,
            f"no Python 3.8 or newer was found there (tried {', '.join(pythons)})",
            hint="install python3 on the server, or set python: /path/to/python in its entry",
        )
    return done


def _send_programs(transport: Transport, server: Server, path: str) -> None:
    """Put the programs there. Raises WorkspaceError where the server says that it can't be written."""
    try:
        transport.put(archive_content(), path, mode=0o700)
    except CommandTimeoutError:
        raise
    except CommandError as error:
        said = error.tail.splitlines()[0] if error.tail else f"exit code {error.command_exit_code}"
        raise WorkspaceError(
            server.name,
            f"its workdir {server.workdir} can't be written: {said}",
            hint=_hint_when_full(said)
            or "make it, owned by the user who logs in, or set workdir: to a folder that can be",
        ) from error


def _last_json(stdout: bytes) -> dict[str, Any] | None:
    """Return the last line as JSON. Lines before it may be the login shell's own noise."""
    for line in reversed(stdout.splitlines()):
        if line.strip():
            try:
                answer = json.loads(line, parse_constant=lambda _: None, parse_float=_finite)
            except (ValueError, RecursionError):
                return None
            return answer if isinstance(answer, dict) else None
    return None


def _finite(digits: str) -> float | None:
    """Given a number's text, return the number; None for 1e999, which would be printed as no JSON."""
    value = float(digits)
    return value if math.isfinite(value) else None


def _hint_when_full(message: str) -> str | None:
    if "no space left" in message.lower() or "quota exceeded" in message.lower():
        return "free some space there, or set workdir: to a folder on another disk"
    return None


def refusal(server: str, error: object) -> RemoteLaunchError:
    """Given the error of an answer (from a server: any shape), return it as an exception."""
    told = error if isinstance(error, dict) else {"message": str(error)}
    message = str(told.get("message") or "refused")
    hint = _hint_when_full(message) if told.get("hint") is None else str(told["hint"])
    if str(told.get("type", "")).startswith("Workspace"):
        return WorkspaceError(server, message, hint=hint)
    is_rival = told.get("type") == "StartUnderWayError"
    refused = (StartUnderWayError if is_rival else JobError)(f"{server}: {message}", hint=hint)
    refused.server = server  # type: ignore[attr-defined]
    return refused
