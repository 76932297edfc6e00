"""The attempts of a job that are over, and the one that is waited for: as started.json and exit.json keep
them."""

from __future__ import annotations

import contextlib
import os
import time

from .jobdir import number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .jobdir import JobDir

RECORDS_KEPT = 64
_TAIL_KEPT_BYTES = 2000


class Attempts:
    """``past``: a record of each attempt that is over, {attempt, started_at, ended_at, cause}."""

    def __init__(self, job: JobDir) -> None:
        self.past: list[dict[str, Any]] = []
        self._job = job

    def close(
        self, attempt: int, started_at: float, ended_at: float | None, cause: dict[str, Any] | None
    ) -> None:
        """Note how an attempt went."""
        record = attempt_record(attempt, started_at, ended_at or time.time(), cause)
        self.past = [*self.past, record][-RECORDS_KEPT:]

    def rest(self, attempt: int) -> None:
        """Put aside what stands in the way of the one that follows ``attempt``."""
        with contextlib.suppress(OSError):
            os.replace(self._job.failures, f"{self._job.path}/failures.{attempt}.json")

    def is_over(self, attempt: int) -> bool:
        """True for the attempt that was closed last."""
        return bool(self.past) and bool(self.past[-1]["attempt"] == attempt)


def attempt_record(
    attempt: int, started_at: float, ended_at: float, cause: dict[str, Any] | None
) -> dict[str, Any]:
    """Return how one attempt went, as started.json and exit.json keep it."""
    if cause is not None and isinstance(cause.get("tail"), str):
        tail = cause["tail"].encode("utf-8", "replace")[-_TAIL_KEPT_BYTES:]
        cause = {**cause, "tail": tail.decode("utf-8", "ignore")}  # in JSON a byte takes up to 6
    return {"attempt": attempt, "started_at": started_at, "ended_at": ended_at, "cause": cause}


def next_attempt(attempt: int, pause: dict[str, Any]) -> dict[str, Any]:
    """Given the attempt that is over and node 0's pause message, return what started.json says of the next:
    {attempt, at (epoch seconds), words ("restart 1 of 3")}."""
    at = time.time() + (number(pause, "delay_s") or 0.0)
    return {"attempt": attempt + 1, "at": at, "words": text(pause, "words") or ""}


def to_come(started: dict[str, Any]) -> dict[str, Any] | None:
    """Given started.json of a running job, return the attempt that it waits for {attempt, words, in_s (how
    long from now)}; None when one is under way."""
    told = started.get("next_attempt")
    at = number(told, "at") if isinstance(told, dict) else None
    attempt = number(told, "attempt") if isinstance(told, dict) else None
    if not isinstance(told, dict) or at is None or attempt is None:
        return None
    in_s = max(0.0, at - time.time())
    return {"attempt": int(attempt), "words": text(told, "words") or "", "in_s": in_s}
