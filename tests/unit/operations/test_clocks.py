"""Times of servers whose clocks are off."""

from __future__ import annotations

from typing import Any

import pytest

from remote_launch.operations.clocks import ServerClock, just_started, on_this_clock

NOW = 1_700_000_000.0
HOUR_S = 3600.0


def here(clock_s: float, **told: Any) -> dict[str, Any]:
    """What a server whose clock shows ``clock_s`` tells of a job, as it reads on this computer's."""
    return ServerClock({"time": clock_s}, NOW - 0.1, NOW).here(told)


def test_times_of_a_right_clock_stay_as_they_are() -> None:
    told = here(NOW - 0.05, started_at=NOW - 100, ended_at=NOW - 40, duration_s=60.0)
    assert (told["started_at"], told["ended_at"]) == (NOW - 100, NOW - 40)
    told = here(NOW - 0.05, started_at=NOW - 100.5, running_s=100.0)
    assert told["started_at"] == NOW - 100.5


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S, 30.0])
def test_a_clock_that_is_off(off_s: float) -> None:
    ended = here(NOW + off_s, started_at=NOW + off_s - 100, ended_at=NOW + off_s - 40, duration_s=60.0)
    assert ended["started_at"] == pytest.approx(NOW - 100, abs=0.2)
    assert ended["ended_at"] == pytest.approx(NOW - 40, abs=0.2)
    running = here(NOW + off_s, started_at=NOW + off_s - 100, running_s=100.0)
    assert running["started_at"] == pytest.approx(NOW - 100, abs=0.2)


@pytest.mark.parametrize("moved_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_was_set_while_the_job_ran(moved_s: float) -> None:
    running = here(NOW + moved_s, started_at=NOW - 100, running_s=100.0)
    assert running["started_at"] == pytest.approx(NOW - 100, abs=0.2)
    ended = here(NOW + moved_s, started_at=NOW - 100, ended_at=NOW + moved_s - 40, duration_s=60.0)
    assert ended["ended_at"] - ended["started_at"] == pytest.approx(60)
    assert ended["ended_at"] == pytest.approx(NOW - 40, abs=0.2)


def test_nothing_is_in_the_future() -> None:
    told = here(NOW, started_at=NOW + 1e8, ended_at=NOW + 2e8)
    assert told["started_at"] <= NOW
    assert told["ended_at"] <= NOW


@pytest.mark.parametrize("value", [None, "x", -1, True, float("nan"), float("inf"), 10**30, [], {}])
def test_rubbish_is_no_time(value: Any) -> None:
    told = ServerClock({"time": value}, NOW - 1, NOW).here(
        {"started_at": value, "ended_at": value, "running_s": value, "duration_s": value}
    )
    assert (told["started_at"], told["ended_at"]) == (None, None)


def test_a_slow_answer_is_no_wrong_clock() -> None:
    clock = ServerClock({"time": NOW - 25}, NOW - 30, NOW)
    assert clock.offset_s == 0
    # It had run so long when that was told, not when it came.
    told = clock.here({"started_at": NOW - 125, "running_s": 100.0})
    assert told["started_at"] == NOW - 125


def test_a_start_is_just_now_whatever_the_server_s_clock_shows() -> None:
    from remote_launch.core.jobs import now

    at = now() - 1
    assert just_started(at) == at
    for wrong in (now() + HOUR_S, now() - HOUR_S, None, "x"):
        before = now()
        assert before <= just_started(wrong) <= now()


def test_an_answer_without_jobs_is_let_through() -> None:
    assert on_this_clock(lambda: {"jobs": [1, "x"], "others": ["a"]}) == {"jobs": [], "others": ["a"]}
