"""What a member does when it hears nothing of the coordinator, and how long it waits. No process."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from remote_launch.remote import succession
from remote_launch.remote.gang import GangSettings
from remote_launch.remote.member import KILL_PATIENCE_S, SPREAD_S, Member
from remote_launch.remote.restarts import Restarts
from tests.support.fake_door import FakeDoor

JOIN_S = 60.0


class Host:
    """The supervisor of member 1, whose tree is gone as soon as it is told to stop."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, nnodes: int = 2, spares: int = 0, **spec: Any
    ) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(succession, "Door", FakeDoor)
        monkeypatch.setattr("remote_launch.remote.calls.Call._connect", lambda *_: None)  # no network
        self.selector: Any = SimpleNamespace()
        self.attempt, self.grace_s, self.turn = 0, 15.0, None
        self.restarts = Restarts(spec)
        self.stalls = SimpleNamespace(beat=dict)
        gang = {
            "nnodes": nnodes, "spares": spares, "address": "127.0.0.1", "port": 40000, "token": "t" * 32,
            "join_timeout_s": JOIN_S, "addresses": ["127.0.0.1"] * (nnodes + spares),
        }
        settings = GangSettings({"gang": gang, "node_rank": 1, "launch_id": "x"})
        self.it = Member(settings, self)  # type: ignore[arg-type]
        self.it._on_came(self.it._call)
        self.it._call.next_try = 0.0

    def log(self, _: str) -> None:
        pass

    say = log

    def server_name(self, member: int) -> str:
        return f"s{member}"

    def stop(self, *_: object) -> None:
        self.it.child_ended(None, asked=True)
        self.it.tree_gone(0)

    def after(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.25)
            self.it.tick(self.now)


def killed(host: Host) -> None:
    host.stop()
    host.it.kill({"by": "me", "signal": "TERM", "grace_s": 1.0})


@pytest.mark.parametrize("spec", [{}, {"max_restarts": 3}])
def test_a_killed_node_that_hears_nothing_waits_for_nobody_that_could_be_told(
    monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]
) -> None:
    host = Host(monkeypatch, **spec)
    killed(host)
    host.after(KILL_PATIENCE_S + 0.5)
    assert host.it.verdict is not None
    assert (host.it.verdict["state"], host.it.verdict["by"]) == ("KILLED", "me")


def test_a_killed_node_tells_the_others_while_node_0_is_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, 2, 1, max_restarts=3)
    host.it._on_message({"kind": "lead", "doors": {"1": 1001, "2": 1002}})
    killed(host)
    host.after(KILL_PATIENCE_S + SPREAD_S - 0.5)
    assert host.it.verdict is None
    host.after(1)
    assert host.it.verdict is not None


def test_who_has_given_its_voice_sleeps_until_something_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, 2, 1, max_restarts=3)
    host.it._on_hung_up(host.it._call, None)  # type: ignore[arg-type]
    host.after(5)
    assert host.it.is_alone
    host.it.give_up_leader()
    for _ in range(8):
        host.after(0.25)
        assert host.it.wait_s(host.now) > 0


def test_who_knows_the_verdict_waits_for_its_own_tree_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.it._end({"state": "FAILED", "cause": None})
    host.after(5)
    assert host.it.wait_s(host.now) is None
    assert not host.it.is_alone
