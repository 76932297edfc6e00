"""What node 0 decides: whom it blames, whether there is another attempt and with whom. No process, no socket,
no real time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from remote_launch.remote import nodes as nodes_module
from remote_launch.remote.causes import lost
from remote_launch.remote.coordinator import ABSENT_PATIENCE_S, Coordinator
from remote_launch.remote.gang import EOF_PATIENCE_S, GangSettings
from remote_launch.remote.reign import Reign
from remote_launch.remote.restarts import Restarts
from tests.support.fake_door import FakeDoor

SILENCE_S, JOIN_S = 10.0, 60.0
PORT = 900  # so low a one is never taken for free


class FakeLink:
    """A connection to a member: what was sent."""

    sock, wants_to_write = object(), False

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, message: dict[str, Any]) -> None:
        self.sent.append((kind, message))

    def close(self) -> None:
        pass


class Gang:
    """A coordinator of ``nnodes`` nodes and some spares; they say what a test has them say."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, nnodes: int = 3, spares: int = 0, *, joined: bool = True,
        nprocs: tuple[int, ...] | None = None, turn: Any = None, heir: int = 0, voices: tuple[int, ...] = (),
        **spec: Any,
    ) -> None:
        self.now = 1000.0
        self.clock = 5_000_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: self.clock + self.now)
        monkeypatch.setattr(nodes_module, "Door", FakeDoor)
        self.attempt, self.grace_s = 0 if turn is None else -1, 15.0
        self.restarts, self.turn = Restarts(spec), turn
        self.selector = self
        self.stalls = SimpleNamespace(heard=lambda *_: None)
        self.begun: list[dict[str, Any]] = []
        self.rests: list[dict[str, Any]] = []
        self.stopped: list[tuple[int, float]] = []
        self.reads_at: dict[int, float] = {}
        gang = {
            "nnodes": nnodes, "spares": spares, "address": "127.0.0.1", "port": PORT, "token": "t" * 32,
            "silence_s": SILENCE_S, "join_timeout_s": JOIN_S,
            "nprocs": list(nprocs or (2,) * (nnodes + spares)),
            "addresses": [f"10.0.0.{member}" for member in range(nnodes + spares)],
        }
        settings = GangSettings({"gang": gang, "node_rank": heir, "launch_id": "x", **spec})
        self.stood_by: list[int] = []
        if heir:
            self._succeeds(settings, heir, voices)
            return
        self.it = Coordinator(settings, self)  # type: ignore[arg-type]
        if joined:
            for member in range(1, nnodes + spares):
                self.join(member)

    def _succeeds(self, settings: GangSettings, heir: int, voices: tuple[int, ...]) -> None:
        """Node 0 was lost, and these have chosen a member."""
        reign = Reign(settings)
        reign.give(1, heir)
        reign.leader = heir
        self.it = Coordinator(settings, self, reign, FakeDoor())  # type: ignore[arg-type]
        self.it.succeed({**lost(0, "s0", "gone", 5.0)}, 0, [])
        for member in voices:
            self.join(member)
            self.stops(member)

    # -- as its supervisor

    def get_key(self, _: object) -> None:
        raise KeyError

    unregister = get_key

    def select(self, timeout_s: float) -> list[Any]:
        """Nothing is heard; a member that reads its messages late hangs up when it has read the last."""
        self.now += timeout_s
        for node in self.it._nodes:
            if self.now >= self.reads_at.get(node.member, 0.0):
                node.link = None
        return []

    def log(self, _: str) -> None:
        pass

    def server_name(self, member: int) -> str:
        return f"s{member}"

    def stop(self, first: int, grace_s: float) -> None:
        self.stopped.append((first, grace_s))

    def stand_by(self, attempt: int) -> None:
        self.attempt = attempt
        self.stood_by.append(attempt)

    def rest(self, _: object, pause: dict[str, Any]) -> None:
        self.rests.append(pause)

    def begin(self, place: dict[str, Any]) -> None:
        self.attempt = place["attempt"]
        self.begun.append(place)

    # -- what happens

    def join(self, member: int) -> FakeLink:
        node = list(self.it._nodes)[member]
        node.link, node.joined, node.eof_at = FakeLink(), True, None  # type: ignore[assignment]
        node.heard_at = self.now
        self.it._on_join(node)
        return node.link  # type: ignore[return-value]

    def say(self, member: int, kind: str, **message: Any) -> None:
        node = list(self.it._nodes)[member]
        node.heard_at = self.now
        self.it._on_message(node, {"kind": kind, "attempt": self.attempt, **message})

    def fail(self, member: int, *, age_s: float = 0.0, **failure: Any) -> None:
        record = {"rank": 2 * member, "exit_code": 37, "signal": None, "tail": "", **failure}
        if member == 0:
            self.it.child_ended({**record, "time": time.time() - age_s}, asked=False)
        else:
            self.say(member, "ended", failure=record, age_s=age_s, asked=False)

    def stops(self, *members: int, left_over: int = 0) -> None:
        for member in members:
            if member == 0:
                self.it.tree_gone(left_over)
            else:
                self.say(member, "stopped", left_over=left_over)

    def after(self, seconds: float, alive: tuple[int, ...] = ()) -> None:
        """Time passes, in which these members are heard from, and those that are done are not missed."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.5)
            for member in alive:
                self.say(member, "beat")
                self.agrees(member)
            self.it.tick(self.now)

    def agrees(self, member: int) -> None:
        """A member takes note of the newest plan, as it does at once."""
        link: Any = list(self.it._nodes)[member].link
        plans = [told["plan"] for kind, told in link.sent if kind == "plan"] if link else []
        if plans:
            self.say(member, "agree", order=plans[-1]["order"], port=PORT + 100 + member)

    def sent(self, member: int) -> list[str]:
        """The kinds of messages to a member, without beats, plans and who coordinates."""
        link: Any = list(self.it._nodes)[member].link
        return [kind for kind, _ in link.sent if kind not in ("beat", "plan", "lead")] if link else []

    def told(self, member: int, kind: str) -> dict[str, Any]:
        link: Any = list(self.it._nodes)[member].link
        return next(message for told, message in reversed(link.sent) if told == kind)

    @property
    def cause(self) -> dict[str, Any]:
        assert self.it.verdict is not None
        return self.it.verdict["cause"]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda *args, **fields: Gang(monkeypatch, *args, **fields)


class TestTheEnd:
    def test_is_success_once_all_have_ended_well(self, make: Any) -> None:
        gang = make()
        for member in (1, 2):
            gang.say(member, "ended", failure=None, asked=False)
            gang.stops(member)
        gang.after(1)
        assert gang.it.verdict is None
        gang.it.child_ended(None, asked=False)
        gang.stops(0)
        gang.after(1)
        assert gang.it.verdict["state"] == "SUCCEEDED"
        assert gang.sent(1) == gang.sent(2) == ["end"]

    def test_is_not_closed_upon_a_node_that_is_slow_to_read_it(self, make: Any) -> None:
        gang = make()
        for member in (0, 1, 2):
            gang.fail(member)
        gang.stops(0, 1, 2)
        gang.after(0.5)
        gang.reads_at[2] = gang.now + 8
        gang.it.close()
        assert gang.now >= gang.reads_at[2]

    def test_comes_when_every_node_is_stopped_and_not_before(self, make: Any) -> None:
        gang = make()
        gang.fail(1)
        assert gang.stopped
        assert gang.sent(2) == ["stop"]
        gang.stops(0, 1)
        gang.after(3, alive=(1, 2))
        assert gang.it.verdict is None
        gang.stops(2)
        gang.after(0.5)
        assert gang.it.verdict["state"] == "FAILED"
        assert (gang.cause["server"], gang.cause["exit_code"]) == ("s1", 37)


class TestWhoIsBlamed:
    def test_the_first_failure_by_its_age_and_not_by_its_arrival(self, make: Any) -> None:
        gang = make()
        gang.fail(2, age_s=0.1)
        gang.fail(1, age_s=2.0)
        gang.stops(0, 1, 2)
        gang.after(0.5)
        assert (gang.cause["server"], gang.cause["node_rank"]) == ("s1", 1)

    def test_the_first_failure_though_node_0_stood_still_before_it_was_told(self, make: Any) -> None:
        """Of its own it knows the time; that of another node is as old as the message is late."""
        gang = make()
        for _ in range(40):
            gang.now += 1.0
            gang.say(1, "beat", sent_at=gang.now - 77.0)  # its clock is another one
        failed_at = gang.now
        gang.now += 5.0
        gang.say(1, "ended", failure={"rank": 2, "exit_code": 37}, age_s=0.1, sent_at=failed_at - 77.0)
        gang.fail(0, age_s=4.0, exit_code=1)
        gang.stops(0, 1, 2)
        gang.after(0.5)
        assert (gang.cause["server"], gang.cause["exit_code"]) == ("s1", 37)
        assert gang.cause["time"] == pytest.approx(gang.clock + failed_at - 0.1)

    def test_a_clock_that_was_set_is_soon_no_delay(self, make: Any) -> None:
        gang = make()
        for offset_s in (0.0, 8.0):
            for _ in range(60):
                gang.now += 1.0
                gang.say(1, "beat", sent_at=gang.now - offset_s)
        gang.say(1, "ended", failure={"rank": 2, "exit_code": 37}, age_s=0.0, sent_at=gang.now - 8.0)
        gang.stops(0, 1, 2)
        gang.after(0.5)
        assert gang.cause["time"] == pytest.approx(gang.clock + gang.now - 0.5)

    def test_a_worker_that_a_signal_ended_before_one_that_noticed(self, make: Any) -> None:
        gang = make()
        gang.fail(1, age_s=1.0, exit_code=1)
        gang.fail(2, age_s=0.5, exit_code=None, signal="KILL")
        gang.stops(0, 1, 2)
        gang.after(0.5)
        assert (gang.cause["server"], gang.cause["signal"]) == ("s2", "KILL")

    def test_a_lost_node_before_what_it_took_down(self, make: Any) -> None:
        gang = make()
        node = list(gang.it._nodes)[2]
        node.link, node.eof_at = None, gang.now
        gang.now += 1.0
        gang.fail(1)
        gang.stops(0, 1)
        gang.after(EOF_PATIENCE_S + 1, alive=(1,))
        assert gang.it.verdict["state"] == "FAILED"
        assert (gang.cause["server"], gang.cause["lost"]) == ("s2", True)

    def test_not_a_node_that_was_heard_from_long_after_the_failure(self, make: Any) -> None:
        gang = make()
        gang.fail(1)
        gang.stops(0, 1)
        gang.after(4, alive=(1, 2))
        gang.after(SILENCE_S + 1, alive=(1,))
        assert (gang.cause["server"], gang.cause.get("lost")) == ("s1", None)

    def test_a_node_that_is_silent(self, make: Any) -> None:
        gang = make()
        gang.after(SILENCE_S - 1, alive=(1,))
        assert not gang.stopped
        gang.after(2, alive=(1,))
        gang.stops(0, 1)
        gang.after(1, alive=(1,))
        assert "no word from it" in gang.cause["message"]
        assert gang.cause["server"] == "s2"

    def test_a_node_that_never_came(self, make: Any) -> None:
        gang = make(2, joined=False)
        gang.after(JOIN_S - 1)
        assert not gang.stopped
        gang.after(2)
        gang.stops(0)
        gang.after(1)
        assert f"did not reach node 0 (127.0.0.1:{PORT})" in gang.cause["message"]

    def test_not_a_node_that_had_not_come_yet_when_another_failed(self, make: Any) -> None:
        gang = make(2, joined=False)
        gang.fail(0)
        gang.stops(0)
        gang.after(ABSENT_PATIENCE_S + 1)
        assert gang.cause["server"] == "s0"

    def test_a_machine_that_shuts_down(self, make: Any) -> None:
        gang = make()
        gang.say(1, "ended", failure={"rank": None, "signal": "TERM"}, asked=True, age_s=0.0)
        gang.stops(0, 1, 2)
        gang.after(0.5)
        assert gang.cause["from_outside"] is True


class TestAnotherAttempt:
    def fails(self, gang: Gang, members: tuple[int, ...] = (0, 1, 2)) -> None:
        gang.fail(1)
        gang.stops(*members)
        gang.after(0.5, alive=tuple(member for member in members if member))

    def test_begins_on_all_nodes_after_a_rest(self, make: Any) -> None:
        gang = make(max_restarts=1, fresh_port=True)
        self.fails(gang)
        assert gang.it.verdict is None
        assert gang.rests[0]["words"] == "restart 1 of 1"
        assert gang.begun == []
        gang.after(1.5, alive=(1, 2))
        place = gang.begun[0]
        assert (place["attempt"], place["node_rank"], place["cause"]["exit_code"]) == (1, 0, 37)
        assert gang.sent(2) == ["stop", "pause", "go"]
        told = gang.told(2, "go")
        assert (told["attempt"], told["node_rank"], told["first_rank"]) == (1, 2, 4)
        assert told["port"] == place["port"] != PORT

    def test_is_the_last_when_restarts_are_exhausted(self, make: Any) -> None:
        gang = make(max_restarts=1)
        self.fails(gang)
        gang.after(1.5, alive=(1, 2))
        self.fails(gang)
        assert gang.it.verdict["state"] == "FAILED"
        assert len(gang.rests) == 1

    def test_counts_within_the_window_alone(self, make: Any) -> None:
        gang = make(max_restarts=1, restart_window_s=60.0)
        for number in range(3):
            self.fails(gang)
            assert len(gang.rests) == number + 1
            gang.after(62, alive=(1, 2))
        self.fails(gang)
        gang.after(2, alive=(1, 2))
        self.fails(gang)
        assert gang.it.verdict["state"] == "FAILED"

    def test_follows_no_success_and_no_process_that_would_not_end(self, make: Any) -> None:
        gang = make(max_restarts=3)
        gang.fail(1)
        gang.stops(0, 2)
        gang.stops(1, left_over=2)
        gang.after(0.5, alive=(1, 2))
        assert gang.it.verdict["state"] == "FAILED"

    def test_waits_for_a_lost_node_to_come_back(self, make: Any) -> None:
        gang = make(max_restarts=1)
        gang.after(SILENCE_S + 1, alive=(1,))
        gang.stops(0, 1)
        gang.after(20, alive=(1,))
        assert len(gang.rests) == 1
        assert not gang.begun
        link = gang.join(2)
        assert [kind for kind, _ in link.sent] == ["stop", "pause"]
        assert link.sent[-1][1]["delay_s"] == 0.0
        gang.stops(2)
        gang.after(1, alive=(1, 2))
        assert gang.begun[0]["attempt"] == 1
        assert gang.it._places.replaced == {}

    def test_waits_for_a_node_that_had_not_come_yet_when_another_failed(self, make: Any) -> None:
        """Its start is slow: that is no reason for the one attempt more not to be made."""
        gang = make(2, joined=False, max_restarts=1)
        gang.fail(0)
        gang.stops(0)
        gang.after(ABSENT_PATIENCE_S + 10)
        assert gang.it.verdict is None
        gang.join(1)
        assert gang.sent(1) == ["stop"]
        gang.stops(1)
        gang.after(2, alive=(1,))
        assert gang.begun[0]["attempt"] == 1

    def test_is_not_made_without_a_node_that_never_came(self, make: Any) -> None:
        gang = make(2, joined=False, max_restarts=1)
        gang.fail(0)
        gang.stops(0)
        gang.after(JOIN_S + 2)
        assert (gang.it.verdict["state"], gang.cause["server"]) == ("FAILED", "s0")

    def test_is_not_waited_for_when_the_launch_is_killed(self, make: Any) -> None:
        gang = make(2, joined=False, max_restarts=1)
        gang.it.kill({"by": "me"})
        gang.stops(0)
        gang.after(ABSENT_PATIENCE_S + 1)
        assert gang.it.verdict["state"] == "KILLED"

    def test_needs_no_node_that_had_not_come_when_there_can_be_none(self, make: Any) -> None:
        """Node 0's server shuts down: it has only seconds to say how the launch ended."""
        gang = make(2, joined=False, max_restarts=1)
        gang.it.child_ended({"rank": 0, "signal": "TERM", "time": time.time()}, asked=True)
        gang.stops(0)
        gang.after(ABSENT_PATIENCE_S + 1)
        assert (gang.it.verdict["state"], gang.cause["from_outside"]) == ("FAILED", True)

    def test_is_given_up_when_a_lost_node_stays_away(self, make: Any) -> None:
        gang = make(max_restarts=1)
        gang.after(SILENCE_S + 1, alive=(1,))
        gang.stops(0, 1)
        gang.after(JOIN_S + 5, alive=(1,))
        assert gang.it.verdict["state"] == "FAILED"
        assert "s2 did not come back" in gang.it.verdict["note"]
        assert gang.cause["lost"] is True

    def test_begins_though_the_last_node_is_back_at_the_last_moment(self, make: Any) -> None:
        """It has yet to note the plan, and is slow."""
        gang = make(2, max_restarts=1)
        gang.after(SILENCE_S + 1)
        gang.stops(0)
        gang.after(1.5)
        gang.after(JOIN_S - 1)
        gang.join(1)
        gang.stops(1)
        for _ in range(10):
            gang.after(0.5)
            gang.say(1, "beat")
        assert gang.it.verdict is None
        gang.after(1, alive=(1,))
        assert gang.begun[0]["attempt"] == 1

    def test_is_given_up_when_the_plan_is_not_noted_for_ever(self, make: Any) -> None:
        gang = make(2, max_restarts=1)
        gang.fail(1)
        gang.stops(0, 1)
        for _ in range(int(2 * JOIN_S)):
            gang.after(1)
            gang.say(1, "beat")
        assert (gang.begun, gang.it.verdict["state"]) == ([], "FAILED")

    def test_gives_a_lost_nodes_place_to_a_spare(self, make: Any) -> None:
        gang = make(3, 2, max_restarts=1, nprocs=(2, 2, 4, 2, 4))
        gang.after(SILENCE_S + 1, alive=(1, 3, 4))  # node 2, of 4 ranks, is lost
        gang.stops(0, 1)
        gang.after(2, alive=(1, 3, 4))
        assert gang.it._places.replaced == {"s2": "s4"}  # s3 has another number of ranks
        told = gang.told(4, "go")
        assert (told["node_rank"], told["first_rank"], told["nproc"]) == (2, 4, 4)
        assert gang.sent(3) == []
        late = gang.join(2)
        kind, farewell = late.sent[-1]
        assert (kind, farewell["note"]) == ("end", "s4 took its place")

    def test_keeps_a_node_that_is_back_though_there_is_a_spare(self, make: Any) -> None:
        gang = make(2, 1, max_restarts=1)
        gang.fail(1)
        gang.stops(0, 1)
        gang.after(2, alive=(1, 2))
        assert gang.begun
        assert gang.it._places.replaced == {}

    def test_tells_a_node_that_reconnects_in_the_rest_how_long_it_lasts(self, make: Any) -> None:
        gang = make(max_restarts=9)
        for _ in range(4):  # 1, 2, 4, 8 s
            self.fails(gang)
            gang.after(gang.rests[-1]["delay_s"] + 0.5, alive=(1, 2))
        self.fails(gang)
        gang.after(5, alive=(1, 2))
        link = gang.join(1)
        assert gang.rests[-1]["delay_s"] == 16
        assert link.sent[-1][0] == "pause"
        assert 10 <= link.sent[-1][1]["delay_s"] <= 12


class TestAKill:
    @pytest.mark.parametrize("victim", [0, 1])
    def test_of_any_node_is_one_of_all(self, make: Any, victim: int) -> None:
        gang = make(max_restarts=3)
        kill = {"by": "me@laptop", "signal": "INT", "grace_s": 3.0}
        if victim:
            gang.say(victim, "kill", **kill)
        else:
            gang.it.kill(kill)
        assert gang.told(2, "stop")["signal"] == "INT"
        gang.stops(0, 1, 2)
        gang.after(0.5)
        assert (gang.it.verdict["state"], gang.it.verdict["by"]) == ("KILLED", "me@laptop")

    def test_that_comes_while_a_failure_is_cleared_up_wins_over_the_restart(self, make: Any) -> None:
        gang = make(max_restarts=3)
        gang.fail(1)
        gang.say(2, "kill", by="me")
        gang.stops(0, 1, 2)
        gang.after(0.5)
        assert (gang.it.verdict["state"], gang.it.verdict["by"]) == ("KILLED", "me")
        assert gang.rests == []

    def test_in_the_rest_is_the_end(self, make: Any) -> None:
        gang = make(max_restarts=3)
        gang.fail(1)
        gang.stops(0, 1, 2)
        gang.after(0.5, alive=(1, 2))
        gang.it.kill({"by": "me"})
        assert gang.it.verdict["state"] == "KILLED"
        gang.after(5, alive=(1, 2))
        assert gang.begun == []

    def test_after_a_failure_that_no_restart_follows_leaves_it_a_failure(self, make: Any) -> None:
        gang = make()
        gang.fail(1)
        gang.say(2, "kill", by="me")
        gang.stops(0, 1, 2)
        gang.after(0.5)
        assert gang.it.verdict["state"] == "FAILED"

    def test_of_node_0s_supervisor_by_the_machine_in_the_rest_is_the_end(self, make: Any) -> None:
        gang = make(max_restarts=3)
        gang.fail(1)
        gang.stops(0, 1, 2)
        gang.after(0.5, alive=(1, 2))
        gang.it.leave()
        assert (gang.it.verdict["state"], gang.cause["from_outside"]) == ("FAILED", True)


class TestAQueuedLaunch:
    def test_a_spare_that_was_away_when_it_began_has_no_slots_and_no_part(self, make: Any) -> None:
        own = {"machine": "a/slot", "need": 1, "has": True, "usable": ["0"]}
        turn = SimpleNamespace(state=lambda: own, do=lambda _: None)
        gang = make(2, spares=2, turn=turn, max_restarts=1)
        gang.say(1, "slots", **{**own, "machine": "b/slot"})
        gang.say(2, "slots", **{**own, "machine": "c/slot"})
        gang.say(3, "slots", **{**own, "machine": "d/slot", "has": False})
        gang.after(1, alive=(1, 2, 3))
        assert not gang.begun
        away = list(gang.it._nodes)[3]
        away.link, away.eof_at = None, gang.now
        gang.after(EOF_PATIENCE_S + 1, alive=(1, 2))
        assert gang.begun
        gang.join(3)
        assert gang.sent(3) == ["end"]
        assert gang.sent(2) == ["slots"]

    def test_does_not_begin_while_a_node_is_silent(self, make: Any) -> None:
        """In the queue that is borne for minutes; once it runs, it would be lost after seconds."""
        own = {"machine": "a/slot", "need": 1, "has": False, "usable": ["0"]}
        turn = SimpleNamespace(state=lambda: own, do=lambda _: None)
        gang = make(2, turn=turn)
        gang.say(1, "slots", **{**own, "machine": "b/slot", "has": True})
        gang.after(SILENCE_S + 20)
        own["has"] = True
        gang.after(20)
        assert not gang.begun
        gang.after(2, alive=(1,))
        assert gang.begun
        assert gang.it.verdict is None


    def test_that_loses_two_nodes_at_once_has_one_verdict(self, make: Any) -> None:
        own = {"machine": "a/slot", "need": 1, "has": False, "usable": ["0"]}
        turn = SimpleNamespace(state=lambda: own, do=lambda _: None)
        gang = make(3, turn=turn)
        for member in (1, 2):
            node = list(gang.it._nodes)[member]
            node.link, node.eof_at = None, gang.now
        gang.after(EOF_PATIENCE_S + 1)
        assert gang.cause["server"] == "s1"  # as the members were told


class TestASuccessor:
    def test_waits_at_its_end_for_who_has_not_called_yet(self, make: Any) -> None:
        """It is about to, and would know nothing of the end."""
        gang = make(3, 3, heir=1, voices=(2, 3, 4), max_restarts=2)
        gang.it.kill({"by": "me"})
        gang.after(0.5, alive=(2, 3, 4))
        assert gang.it.verdict["state"] == "KILLED"
        began = gang.now
        gang.it.close()
        assert gang.now - began >= nodes_module.LINGER_S

    def test_waits_at_its_end_for_nobody_else(self, make: Any) -> None:
        gang = make(2, 2, heir=1, voices=(2, 3), max_restarts=2)
        gang.it.kill({"by": "me"})
        gang.after(0.5, alive=(2, 3))
        began = gang.now
        gang.it.close()
        assert gang.now - began < 1

    def test_goes_on_with_a_spare_in_node_0s_place(self, make: Any) -> None:
        gang = make(3, 2, heir=1, voices=(2, 3, 4), max_restarts=2, fresh_port=True)
        gang.after(2, alive=(2, 3, 4))
        assert gang.begun[0]["attempt"] == 1
        assert (gang.begun[0]["node_rank"], gang.begun[0]["first_rank"]) == (1, 2)
        told = gang.told(3, "go")
        assert (told["node_rank"], told["replaced"]) == (0, {"s0": "s3"})
        # Where rank 0 is now, and a port that is free there.
        assert (told["address"], told["port"]) == ("10.0.0.3", PORT + 103)
        assert gang.told(2, "go")["address"] == "10.0.0.3"
        assert gang.sent(4) == []

    def test_waits_for_a_node_that_still_stops(self, make: Any) -> None:
        gang = make(3, 2, heir=1, voices=(3, 4), max_restarts=2)
        gang.after(5, alive=(3, 4))
        assert not gang.rests
        gang.join(2)
        gang.say(2, "ended", failure=None, asked=True, alone=True)
        gang.stops(2)
        gang.after(2, alive=(2, 3, 4))
        assert gang.begun
        assert gang.told(3, "go")["replaced"] == {"s0": "s3"}
        assert gang.rests
        assert gang.it._failures == []  # forgotten: nobody but node 0 was blamed

    def test_replaces_a_node_that_does_not_come(self, make: Any) -> None:
        gang = make(3, 3, heir=1, voices=(3, 4, 5), max_restarts=2)
        gang.after(SILENCE_S + 3, alive=(3, 4, 5))
        assert gang.told(3, "go")["replaced"] == {"s0": "s3", "s2": "s4"}

    def test_says_farewell_to_node_0(self, make: Any) -> None:
        gang = make(3, 2, heir=1, voices=(2, 3, 4), max_restarts=2)
        gang.after(2, alive=(2, 3, 4))
        link = gang.join(0)
        assert [kind for kind, _ in link.sent] == ["lead", "end"]
        assert link.sent[-1][1]["note"] == "s3 took its place"

    def test_that_has_no_place_runs_nothing(self, make: Any) -> None:
        gang = make(2, 3, heir=2, voices=(1, 3, 4), nprocs=(2, 2, 4, 2, 2), max_restarts=2)
        gang.after(2, alive=(1, 3, 4))
        assert (gang.begun, gang.stood_by, gang.rests) == ([], [1], [])
        assert gang.told(1, "go")["replaced"] == {"s0": "s3"}
        for member in (1, 3):
            gang.say(member, "ended", failure=None, asked=False)
            gang.stops(member)
        gang.after(1, alive=(1, 3, 4))
        assert (gang.it.verdict["state"], gang.it.verdict["replaced"]) == ("SUCCEEDED", {"s0": "s3"})

    def test_blames_node_0(self, make: Any) -> None:
        gang = make(2, 1, heir=1, voices=(2,), max_restarts=0)
        gang.after(1, alive=(2,))
        assert gang.it.verdict["state"] == "FAILED"
        assert (gang.cause["server"], gang.cause["node_rank"], gang.cause["lost"]) == ("s0", 0, True)


class TestACoordinatorThatIsCutOff:
    def test_begins_nothing_while_the_others_may_have_gone_on(self, make: Any) -> None:
        gang = make(2, 3, max_restarts=2)
        gang.after(SILENCE_S + 1, alive=(2,))  # with one spare of three
        gang.stops(0)
        gang.after(20, alive=(2,))
        assert gang.begun == []
        assert gang.it.verdict is None
        gang.after(JOIN_S, alive=(2,))
        assert gang.begun == []
        assert gang.it.verdict["state"] == "FAILED"
        assert gang.it.verdict["replaced"] == {}
        assert "only 2 of 5 servers are here; the others may go on without s0" in gang.it.verdict["note"]
        assert gang.it.has_last_word is False

    def test_goes_on_once_enough_are_back(self, make: Any) -> None:
        gang = make(2, 3, max_restarts=2)
        gang.after(SILENCE_S + 1, alive=(2,))
        gang.stops(0)
        gang.after(20, alive=(2,))
        gang.join(3)
        gang.after(1, alive=(2, 3))
        assert gang.told(2, "go")["replaced"] == {"s1": "s2"}

    def test_goes_on_with_its_own_nodes_though_every_spare_is_gone(self, make: Any) -> None:
        gang = make(2, 4, max_restarts=2)
        gang.after(SILENCE_S + 1, alive=(1,))
        gang.fail(1)
        gang.stops(0, 1)
        gang.after(3, alive=(1,))
        assert gang.begun[0]["attempt"] == 1

    def test_ends_without_a_word_to_its_members_when_it_is_deposed(self, make: Any) -> None:
        gang = make(2, 3, max_restarts=2)
        gang.after(SILENCE_S + 1, alive=(2,))
        gang.stops(0)
        gang.after(2, alive=(2,))
        link = list(gang.it._nodes)[2].link
        gang.it._step_down({"kind": "end", "note": "s4 took its place"})
        assert "end" not in [kind for kind, _ in link.sent]
        assert (gang.it.verdict["state"], gang.it.verdict["note"]) == ("FAILED", "s4 took its place")
        assert gang.it.has_last_word is False

    def test_of_two_nodes_has_the_last_word_as_ever(self, make: Any) -> None:
        gang = make(2, max_restarts=2)
        gang.after(SILENCE_S + 1)
        gang.stops(0)
        gang.after(JOIN_S + 5)
        assert gang.it.verdict["state"] == "FAILED"
        assert gang.it.has_last_word is True
