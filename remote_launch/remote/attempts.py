"""The attempts of a job that are over, and the one that is waited for: as started.json and exit.json keep
them; and which of their logs are kept.

Within a --restart-window a job may be started again for weeks. What it said at first and of late is kept."""

from __future__ import annotations

import contextlib
import os
import re
import time

from .jobdir import number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .jobdir import JobDir

RECORDS_KEPT = 64
LOGS_KEPT = 10  # of the last attempts, the one that runs among them; and the first one's
_OF_ATTEMPT = re.compile(r"(?:job|ranks|failures)\.([1-9][0-9]{0,8})(?:\.out|\.err|\.json)?\Z")
_STACKS_OF_ATTEMPT = re.compile(r"attempt-([1-9][0-9]{0,8})-")
_TAIL_KEPT_BYTES = 2000


class Attempts:
    """``past``: a record of each attempt that is over, {attempt, started_at, ended_at, cause, and
    "logs_removed" where it is true}; of very many, the first and the last."""

    def __init__(self, job: JobDir) -> None:
        self.past: list[dict[str, Any]] = []
        self._job = job

    def close(
        self, attempt: int, started_at: float, ended_at: float | None, cause: dict[str, Any] | None
    ) -> None:
        """Note how an attempt went."""
        record = attempt_record(attempt, started_at, ended_at or time.time(), cause)
        self.past = [*self.past, record]
        if len(self.past) > RECORDS_KEPT:
            del self.past[1]

    def rest(self, attempt: int) -> None:
        """Put aside what stands in the way of the one that follows ``attempt``."""
        with contextlib.suppress(OSError):
            os.replace(self._job.failures, f"{self._job.path}/failures.{attempt}.json")
        newest_gone = attempt + 1 - LOGS_KEPT
        if newest_gone > 0:
            remove_logs(self._job, newest_gone)
            self.past = [
                {**one, "logs_removed": True} if 0 < one["attempt"] <= newest_gone else one
                for one in self.past
            ]

    def is_over(self, attempt: int) -> bool:
        """True for the attempt that was closed last."""
        return bool(self.past) and bool(self.past[-1]["attempt"] == attempt)


def remove_logs(job: JobDir, newest: int) -> None:
    """Remove what attempts 1 to ``newest`` have left in the job's folder."""
    for folder, pattern in ((job.path, _OF_ATTEMPT), (f"{job.path}/stacks", _STACKS_OF_ATTEMPT)):
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(folder)):
                match = pattern.match(entry.name)
                if match is None or int(match[1]) > newest:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    import shutil  # 3 ms

                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


def attempt_record(
    attempt: int, started_at: float, ended_at: float, cause: dict[str, Any] | None
) -> dict[str, Any]:
    """Return how one attempt went, as started.json and exit.json keep it."""
    if cause is not None and isinstance(cause.get("tail"), str):
        tail = cause["tail"].encode("utf-8", "replace")[-_TAIL_KEPT_BYTES:]
        cause = {**cause, "tail": tail.decode("utf-8", "ignore")}  # in JSON a byte takes up to 6
    return {"attempt": attempt, "started_at": started_at, "ended_at": ended_at, "cause": cause}


def next_attempt(attempt: int, pause: dict[str, Any], why: str = "") -> dict[str, Any]:
    """Given the attempt that is over, the coordinator's pause message and what ended it, return what
    started.json says of the next: {attempt, at (epoch seconds), words ("restart 1 of 3"), why ("rank 3 on
    gpu-b failed")}."""
    at = time.time() + (number(pause, "delay_s") or 0.0)
    return {"attempt": attempt + 1, "at": at, "words": text(pause, "words") or "", "why": why}


def to_come(started: dict[str, Any]) -> dict[str, Any] | None:
    """Given started.json of a running job, return the attempt that it waits for {attempt, words, why, in_s
    (how long from now)}; None when one is under way."""
    told = started.get("next_attempt")
    at = number(told, "at") if isinstance(told, dict) else None
    attempt = number(told, "attempt") if isinstance(told, dict) else None
    if not isinstance(told, dict) or at is None or attempt is None:
        return None
    in_s = max(0.0, at - time.time())
    words, why = text(told, "words") or "", text(told, "why") or ""
    return {"attempt": int(attempt), "words": words, "why": why, "in_s": in_s}
