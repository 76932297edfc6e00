"""What node 0 decides: whom it blames, whether there is another attempt and with whom. No process, no socket,
no real time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from remote_launch.remote import nodes as nodes_module
from remote_launch.remote.coordinator import ABSENT_PATIENCE_S, Coordinator
from remote_launch.remote.gang import EOF_PATIENCE_S, GangSettings
from remote_launch.remote.restarts import Restarts

SILENCE_S, JOIN_S = 10.0, 60.0
PORT = 40000


class FakeLink:
    """A connection to a member: what was sent."""

    sock, wants_to_write = object(), False

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, message: dict[str, Any]) -> None:
        self.sent.append((kind, message))

    def close(self) -> None:
        pass


class FakeDoor:
    def __init__(self, *_: object) -> None:
        pass

    def tick(self, now: float) -> None:
        pass

    def close(self) -> None:
        pass


class Gang:
    """A coordinator of ``nnodes`` nodes and some spares; they say what a test has them say."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, nnodes: int = 3, spares: int = 0, *, joined: bool = True,
        nprocs: tuple[int, ...] | None = None, turn: Any = None, **spec: Any,
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
        }
        settings = GangSettings({"gang": gang, "node_rank": 0, "launch_id": "x", **spec})
        self.it = Coordinator(settings, self)  # type: ignore[arg-type]
        if joined:
            for member in range(1, nnodes + spares):
                self.join(member)

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
            self.it.tick(self.now)

    def sent(self, member: int) -> list[str]:
        """The kinds of messages to a member, without beats."""
        link: Any = list(self.it._nodes)[member].link
        return [kind for kind, _ in link.sent if kind != "beat"] if link else []

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

    def test_is_given_up_when_a_lost_node_stays_away(self, make: Any) -> None:
        gang = make(max_restarts=1)
        gang.after(SILENCE_S + 1, alive=(1,))
        gang.stops(0, 1)
        gang.after(JOIN_S + 5, alive=(1,))
        assert gang.it.verdict["state"] == "FAILED"
        assert "s2 did not come back" in gang.it.verdict["note"]
        assert gang.cause["lost"] is True

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
