"""One callable over many servers."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from remote_launch.errors import ConnectTimeoutError, RemoteLaunchError, ServersFailedError
from remote_launch.operations.fanout import fanout


def unreachable(name: str) -> ConnectTimeoutError:
    return ConnectTimeoutError(name, "no answer", hint="is it on?")


def fail_on(*bad: str) -> Any:
    def function(name: str) -> str:
        if name in bad:
            raise unreachable(name)
        return name.upper()

    return function


class TestOutcomes:
    def test_every_one_is_kept_in_the_order_asked(self) -> None:
        outcomes = fanout(["c", "a", "b"], fail_on("a"))
        assert [(one.server, one.value, one.error is None) for one in outcomes] == [
            ("c", "C", True),
            ("a", None, False),
            ("b", "B", True),
        ]
        assert outcomes.values == {"c": "C", "b": "B"}
        assert list(outcomes.errors) == ["a"]
        assert len(outcomes) == 3
        assert outcomes["b"].value == "B"

    @pytest.mark.parametrize(
        ("bad", "exit_code", "status"), [([], 0, "ok"), (["a"], 3, "partial"), (["a", "b"], 1, "error")]
    )
    def test_exit_codes(self, bad: list[str], exit_code: int, status: str) -> None:
        outcomes = fanout(["a", "b"], fail_on(*bad))
        assert (outcomes.exit_code, outcomes.status) == (exit_code, status)

    def test_none_is_a_value(self) -> None:
        outcomes = fanout(["a"], lambda _: None)
        assert (outcomes.values, outcomes.exit_code) == ({"a": None}, 0)

    def test_no_servers_is_no_failure(self) -> None:
        assert fanout([], fail_on()).exit_code == 0

    def test_a_name_given_twice_runs_once(self) -> None:
        calls: list[str] = []
        assert len(fanout(["a", "a"], calls.append)) == 1
        assert calls == ["a"]


class TestRaising:
    def test_the_only_server_raises_its_own_error(self) -> None:
        with pytest.raises(ConnectTimeoutError, match="a: no answer"):
            fanout(["a"], fail_on("a")).raise_on_error()

    @pytest.mark.parametrize(("bad", "exit_code"), [(["a"], 3), (["a", "b"], 1)])
    def test_several_keep_all_outcomes(self, bad: list[str], exit_code: int) -> None:
        with pytest.raises(ServersFailedError, match="nothing was started") as caught:
            fanout(["a", "b"], fail_on(*bad)).raise_on_error("nothing was started")
        assert caught.value.exit_code == exit_code
        assert {name for name, error in caught.value.outcomes.items() if error} == set(bad)
        assert set(caught.value.outcomes) == {"a", "b"}

    def test_no_error_raises_nothing(self) -> None:
        fanout(["a"], fail_on()).raise_on_error()

    def test_a_bug_is_raised_when_all_have_ended(self) -> None:
        ended: list[str] = []

        def function(name: str) -> None:
            if name == "a":
                raise ZeroDivisionError
            ended.append(name)

        with pytest.raises(ZeroDivisionError):
            fanout(["a", "b", "c"], function)
        assert sorted(ended) == ["b", "c"]


class TestLimit:
    def test_no_more_run_at_once(self) -> None:
        lock = threading.Lock()
        running, most = 0, 0

        def function(_: str) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)  # so that they would overlap
            with lock:
                running -= 1

        fanout([str(n) for n in range(12)], function, limit=3)
        assert most <= 3

    def test_all_within_it_do_run_at_once(self) -> None:
        meeting = threading.Barrier(4, timeout=60)
        assert fanout("abcd", lambda _: meeting.wait()).exit_code == 0


def test_ctrl_c_ends_what_runs_and_starts_nothing_new() -> None:
    started: list[str] = []
    interrupted = threading.Event()

    def function(name: str) -> None:
        started.append(name)
        if len(started) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.wait(60)
        raise KeyboardInterrupt  # how a transport's cancel ends a run

    with pytest.raises(KeyboardInterrupt):
        fanout(["a", "b", "c"], function, limit=1, on_interrupt=interrupted.set)
    assert started == ["a"]


def test_ctrl_c_waits_for_the_threads() -> None:
    """Thread.join interrupted takes a running thread for ended (Python 3.10 to 3.12)."""
    main, ended = threading.main_thread().ident or 0, []
    interrupted = threading.Event()

    def is_waiting() -> bool:
        frame, names = sys._current_frames().get(main), []
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        return "start" not in names and names[0] in ("wait", "_wait_for_tstate_lock", "join")

    def function(name: str) -> None:
        deadline = time.monotonic() + 60
        while not is_waiting():
            assert time.monotonic() < deadline
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.wait(60)
        ended.append(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fanout(["a"], function, on_interrupt=interrupted.set)
    assert interrupted.is_set()
    assert ended == ["a"]


def test_ctrl_c_also_ends_what_was_between_two_commands() -> None:
    """Connecting, say: what it runs next must not go on for minutes."""
    calls = threading.Semaphore(0)

    def function(_: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert calls.acquire(timeout=60)  # nothing was running that this call could have ended
        assert calls.acquire(timeout=60)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fanout(["a"], function, on_interrupt=calls.release)


def test_those_that_take_long_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    is_long, goes_on = threading.Event(), threading.Event()
    hours = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 3600.0 * next(hours) if is_long.is_set() else 0.0)
    monkeypatch.setattr("remote_launch.operations.fanout.time", clock)

    def on_wait(names: list[str]) -> None:
        told.append(names)
        goes_on.set()

    def function(name: str) -> None:
        if name != "quick":  # which has come to its end, with one at a time
            is_long.set()
            assert goes_on.wait(60)

    assert fanout(["quick", "slow", "slower"], function, limit=1, on_wait=on_wait).exit_code == 0
    assert told == [["slow", "slower"]]


def test_an_outcome_says_how_long_it_took() -> None:
    outcome = fanout(["a"], lambda _: time.sleep(0.02))["a"]
    assert outcome.duration_s >= 0.02
    assert isinstance(outcome.error, RemoteLaunchError | None)
