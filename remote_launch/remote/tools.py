"""The programs that come with a card's driver: found, asked side by side, and given up on when they hang."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from . import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Sequence

TIMEOUT_S = 12.0  # without persistence mode nvidia-smi wakes the cards first: a second or more a card


class Told:
    """What a program printed (stdout, then stderr), and how it ended; exit_code is None for one that could
    not be run or came too late."""

    def __init__(self, text: str, exit_code: int | None, *, is_late: bool = False) -> None:
        self.text = text
        self.exit_code = exit_code
        self.is_late = is_late

    @property
    def is_ok(self) -> bool:
        return self.exit_code == 0


def find_tool(name: str, places: Sequence[str] = ()) -> str | None:
    """Return where a program is: on PATH, else in one of its usual places; None when it is nowhere."""
    return machine.which(name) or next((place for place in places if os.access(place, os.X_OK)), None)


def ask(*commands: Sequence[str]) -> list[Told]:
    """Run programs side by side; return what each told, none later than TIMEOUT_S from now."""
    import subprocess

    deadline = time.monotonic() + TIMEOUT_S
    started: list[subprocess.Popen[bytes] | Told] = []
    for argv in commands:
        try:
            started.append(
                subprocess.Popen(
                    list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        except OSError as error:
            started.append(Told(str(error.strerror or error), None))
    return [one if isinstance(one, Told) else _hear(one, deadline) for one in started]


def _hear(process: subprocess.Popen[bytes], deadline: float) -> Told:
    import subprocess

    try:
        output, _ = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdout:
            process.stdout.close()
        # One that hangs in the kernel is not gone by that: nobody waits for it, nobody warns of it.
        process.returncode = -signal.SIGKILL
        return Told("", None, is_late=True)
    return Told(output.decode("utf-8", "replace"), process.returncode)
