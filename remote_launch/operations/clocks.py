"""A server's times on this computer's clock.

A server's clock may be an hour off, or be set while a job runs. How long a job has run is told apart from any
clock (``running_s``, ``duration_s``); where times don't agree with that, or with each other, it decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remote_launch.core.jobs import now
from remote_launch.operations.told import epoch_s, mappings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SLACK_S = 2.0  # clocks this near to each other are taken for equal, so that times don't change at each look
_START_S = 60.0  # longer no start takes
_LONGEST_S = 1e9


class ServerClock:
    """How far a server's clock is off, by the time that its answer bears, and when that was asked for and
    came."""

    def __init__(self, answer: Mapping[str, Any], asked_at: float, answered_at: float) -> None:
        told = epoch_s(answer.get("time"))
        self.answered_at = answered_at
        self.told_at = answered_at  # on this computer's clock
        self.offset_s = 0.0  # to be added to its times
        if told is not None and not asked_at - SLACK_S <= told <= answered_at + SLACK_S:
            self.offset_s = answered_at - told
        elif told is not None:
            self.told_at = min(told, answered_at)

    def here(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Given what the server tells of a job, return it with ``started_at`` and ``ended_at`` on this
        computer's clock. Neither is ever in the future."""
        ended = self._here(told.get("ended_at"))
        started = self._here(told.get("started_at"))
        lasted_s = _seconds(told.get("duration_s" if ended is not None else "running_s"))
        if lasted_s is not None:
            by_length = (ended or self.told_at) - lasted_s
            if started is None or abs(by_length - started) > SLACK_S:
                started = by_length
        return {**told, "started_at": started, "ended_at": ended}

    def _here(self, value: object) -> float | None:
        at = epoch_s(value)
        return None if at is None else min(at + self.offset_s, self.answered_at)


def on_this_clock(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Ask a server; return its answer with the times of its "jobs" on this computer's clock."""
    asked_at = now()
    answer = ask()
    clock = ServerClock(answer, asked_at, now())
    return {**answer, "jobs": [clock.here(item) for item in mappings(answer.get("jobs"))]}


def just_started(told_at: object) -> float:
    """Given when a server says that it started a job, just now, return when that was on this computer's
    clock."""
    at, here = epoch_s(told_at), now()
    return at if at is not None and here - _START_S <= at <= here else here


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _LONGEST_S else None
