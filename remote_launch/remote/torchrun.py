"""torchrun, run by the environment's own python, with what its workers died of written down.

torchrun ends with exit code 1 whatever a worker ended with, and knows times in whole seconds only. Its
ChildFailedError says which ranks ended how; a thread that looks at dead children without collecting them says
who was first.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

from . import room
from .procs import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MESSAGE_LIMIT = 2000
_LOOK_EVERY_S = 0.02


def main(argv: list[str]) -> int:
    """Do what ``torchrun argv`` does. Its exceptions and exits pass through untouched."""
    archive = os.path.dirname(os.path.dirname(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.abspath(archive)]
    sys.argv = [os.path.join(os.path.dirname(sys.executable), "torchrun"), *argv]
    try:
        from torch.distributed import run  # type: ignore[import-not-found, unused-ignore]
        from torch.distributed.elastic.multiprocessing.errors import (  # type: ignore[import-not-found, unused-ignore]
            ChildFailedError,
        )
    except ImportError as error:
        print(f"{error}: {sys.executable} has no torch that can be used; next: rl prepare", file=sys.stderr)
        return 1
    deaths = Deaths()
    deaths.start()
    folder = os.environ.get("RL_JOB_DIR")
    path = os.path.join(folder, "failures.json") if folder else None
    if path:
        room.set_aside(path)
    try:
        run.main(argv)
    except ChildFailedError as error:
        if path:
            write_failures(path, error.failures, deaths.times)
        raise
    finally:
        if path:
            room.give_back(path)
    return 0


class Deaths(threading.Thread):
    """Notes when each child of this process ended (``times``: pid -> epoch seconds), leaving it for torchrun
    to collect."""

    def __init__(self) -> None:
        super().__init__(name="rl-deaths", daemon=True)
        self.times: dict[int, float] = {}

    def run(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                time.sleep(_LOOK_EVERY_S)  # no children yet, or no more
                continue
            except OSError:
                return
            if found is not None:
                self.times.setdefault(found.si_pid, time.time())
            time.sleep(_LOOK_EVERY_S)  # the same one is found until torchrun has collected it


def write_failures(path: str, failures: dict[int, Any], deaths: dict[int, float]) -> None:
    """Given torch's ProcessFailures by global rank, write failures.json, first failure first.

    A failure to write is told and no more: it must not hide torchrun's own error.
    """
    entries = [_entry(rank, failure, deaths) for rank, failure in failures.items()]

    def order(entry: dict[str, Any]) -> tuple[bool, float, int]:
        # Workers that torchrun itself stopped come last. torch's own times are cut to seconds.
        at = entry["time"] if entry["pid"] in deaths else entry["time"] + 1.0
        return entry["signal"] == "TERM", at, entry["rank"]

    entries.sort(key=order)
    try:
        room.write(path, entries)
    except OSError as error:
        with contextlib.suppress(OSError):
            print(f"{path} can't be written: {error}", file=sys.stderr)


def _entry(rank: int, failure: Any, deaths: dict[int, float]) -> dict[str, Any]:
    code = failure.exitcode
    return {
        "rank": rank, "local_rank": failure.local_rank, "pid": failure.pid,
        "exit_code": code if code >= 0 else None, "signal": signal_name(-code) if code < 0 else None,
        "time": deaths.get(failure.pid) or float(failure.timestamp),
        "error_file": failure.error_file if os.path.isfile(failure.error_file) else None,
        "message": _short(failure.message),
    }


def _short(message: Any) -> str:
    """torch gives text, or what ``@record`` wrote: {"message": …, "extraInfo": {"py_callstack": …}}."""
    if isinstance(message, dict):
        message = message.get("message", message)
    text = str(message)
    return "" if text.startswith("To enable traceback see:") else text[:MESSAGE_LIMIT]
