"""``password_command``: a shell command of the user's on this machine whose first line is the password.

A password manager may ask its owner, so a command is run once a process however many servers share it, and
only when a server has answered and is about to be logged in to. What it prints is in no error.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from remote_launch.errors import AuthenticationError
from remote_launch.transport.process import Cancel, OutputOverflow, ProcessTimeout, run_process

if TYPE_CHECKING:
    from remote_launch.transport.process import Ended

TIMEOUT_S = 60.0  # half of the time that sshd gives a login; a person may have to unlock something
_FAILURE_KEPT_S = 30.0  # the servers of one command share its failure; a later call tries anew
_SHOWN_CHARS = 300


class _CommandFailed(Exception):  # noqa: N818 - becomes an AuthenticationError that names the server
    """What went wrong, for people."""


class _Answer:
    """What one command came to. ``lock`` is held while it runs."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.password: str | None = None
        self.failure = ""
        self.failed_at: float | None = None


class _Answers:
    """The answers of this process, by command."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}

    def get(self, command: str, cancel: Cancel | None, timeout_s: float) -> str:
        with self._lock:
            answer = self._answers.setdefault(command, _Answer())
        with answer.lock:
            if answer.password is not None:
                return answer.password
            if answer.failed_at is None or time.monotonic() - answer.failed_at > _FAILURE_KEPT_S:
                try:
                    answer.password = _run(command, cancel, timeout_s)
                except _CommandFailed as error:
                    answer.failure, answer.failed_at = str(error), time.monotonic()
                else:
                    return answer.password
            raise _CommandFailed(answer.failure)


# Of the process, because that is how long an answer holds: transports of one server come and go.
_ANSWERS = _Answers()


def run_password_command(
    server: str, command: str, *, cancel: Cancel | None = None, timeout_s: float = TIMEOUT_S
) -> str:
    """Return the password that a server's ``password_command`` prints; the command runs once a process.

    Raises AuthenticationError when it fails, takes too long or prints nothing; KeyboardInterrupt by
    ``cancel``.
    """
    try:
        return _ANSWERS.get(command, cancel, timeout_s)
    except _CommandFailed as error:
        raise AuthenticationError(
            server,
            f"its password_command {error}",
            hint="run `password_command:` of the inventory by hand: the first line it prints is the password",
        ) from None


def _run(command: str, cancel: Cancel | None, timeout_s: float) -> str:
    try:
        ended = run_process(
            ["/bin/sh", "-c", command],
            timeout_s=timeout_s,
            cancel=cancel,
            # Only as a member of the terminal's session it can ask on /dev/tty.
            own_session=not _has_terminal(),
        )
    except ProcessTimeout:
        raise _CommandFailed(f"did not end within {timeout_s:g} s") from None
    except OutputOverflow:
        raise _CommandFailed("printed without end") from None
    except OSError as error:
        raise _CommandFailed(f"can't be started: {error.strerror}") from None
    if ended.returncode != 0:
        how = f"exit code {ended.returncode}" if ended.returncode > 0 else f"signal {-ended.returncode}"
        said = _last_words(ended)
        raise _CommandFailed(f"ended with {how}" + (f": {said}" if said else ""))
    first = ended.stdout.partition(b"\n")[0].removesuffix(b"\r")
    if not first:
        raise _CommandFailed("printed no password: its first line is empty")
    try:
        return first.decode("utf-8")
    except UnicodeDecodeError:
        raise _CommandFailed("printed a first line that is not UTF-8 text") from None


def _last_words(ended: Ended) -> str:
    """Return the last line of stderr, unless it holds what stood on stdout."""
    lines = [line for line in ended.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    printed = [line.strip() for line in ended.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
    last = lines[-1].strip()[:_SHOWN_CHARS] if lines else ""
    return "" if any(word in last for word in printed) else last


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
