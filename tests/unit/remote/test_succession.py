"""Who coordinates when node 0 is lost: never two, never a minority, and the lowest of those who are there. No
process, no socket, no real time."""

from __future__ import annotations

import itertools
import random
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import succession as module
from remote_launch.remote.gang import GangSettings
from remote_launch.remote.reign import Plan, Reign, may_begin, may_succeed
from remote_launch.remote.restarts import Restarts
from remote_launch.remote.succession import Succession
from tests.support.fake_door import FakeDoor

if TYPE_CHECKING:
    from collections.abc import Callable

SILENCE_S = 10.0
STEP_S = 0.25


def settings_of(member: int, nnodes: int, spares: int, **gang: Any) -> GangSettings:
    count = nnodes + spares
    told = {
        "nnodes": nnodes, "spares": spares, "address": "10.0.0.1", "port": 20000, "token": "t" * 32,
        "addresses": [f"10.0.0.{number}" for number in range(count)], "silence_s": SILENCE_S, **gang,
    }
    return GangSettings({"gang": told, "node_rank": member, "launch_id": "x"})


class FakeLink:
    """The door's end of a connection."""

    sock, wants_to_write = object(), False

    def __init__(self, net: Net, call: FakeCall) -> None:
        self.net, self.call, self.node = net, call, call.own
        self.heard_at = net.now

    def open(self, line: dict[str, Any]) -> dict[str, Any]:
        self.heard_at = self.net.now
        return line

    def send(self, kind: str, message: dict[str, Any]) -> None:
        self.net.queue.append((self.call.member, self.call.own, self, {"kind": kind, **message}))

    def close(self) -> None:
        self.call.link = None


class FakeCall:
    """The caller's end."""

    def __init__(
        self, settings: GangSettings, host: Any, member: int, _: object, came: Any, said: Any, lost: Any
    ) -> None:
        self.net, self.own, self.member = host.net, settings.node, member
        self.came, self.said, self.lost = came, said, lost
        self.link: FakeLink | None = None
        self.heard_at = 0.0

    @property
    def is_up(self) -> bool:
        return self.link is not None

    def tick(self, _: float) -> None:
        peer = self.net.peers[self.member]
        if self.link is None and self.net.reaches(self.own, self.member) and peer.is_awake:
            self.link = FakeLink(self.net, self)
            self.heard_at = self.net.now
            peer.caller(self.link)
            self.came(self)

    def send(self, kind: str, message: dict[str, Any]) -> None:
        if self.link is not None:
            message = {"kind": kind, "attempt": self.net.peers[self.own].attempt, **message}
            self.net.queue.append((self.own, self.member, self.link, message))

    def drop(self, _: str) -> None:
        self.hang_up()
        self.lost(self, None)

    def close(self) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            self.net.peers[self.member].succession._lose(self.own, link)


class Peer:
    """One member, with its part of the choice."""

    def __init__(self, net: Net, member: int, settings: GangSettings, **spec: Any) -> None:
        self.net, self.member = net, member
        self.attempt = 0
        self.is_there = self.is_awake = True
        self.alone = False
        self.won: int | None = None  # the reign
        self.follows: int | None = None
        self.gave_up = 0
        self.killed: list[dict[str, Any]] = []
        self.selector = SimpleNamespace(modify=lambda *_: None, get_key=self._no, unregister=self._no)
        self.restarts = Restarts({"max_restarts": 3, **spec})
        self.reign = Reign(settings)
        self.succession = Succession(settings, self, self.reign, self)  # type: ignore[arg-type]
        self.late: deque[Any] = deque()  # what came while it was asleep

    def _no(self, _: object) -> None:
        raise KeyError

    def log(self, _: str) -> None:
        pass

    def server_name(self, member: int) -> str:
        return f"s{member}"

    # -- as its member

    @property
    def is_alone(self) -> bool:
        return self.alone

    def give_up_leader(self) -> None:
        self.gave_up += 1

    def follow(self, call: FakeCall, message: dict[str, Any]) -> None:
        self.reign.follow(message["reign"], call.member)
        self.follows, self.alone = call.member, False

    def succeed(self, links: list[FakeLink], attempt: int) -> None:
        self.won, self.attempt, self.alone = self.reign.number, attempt, False
        self.reign.leader = self.member
        for link in links:
            link.send("lead", self.reign.lead())

    def kill(self, kill: dict[str, Any]) -> None:
        self.killed.append(kill)

    # -- what happens

    def knows(self, plan: Plan) -> None:
        self.reign.plan = plan
        self.restarts.adopt(plan.ages_s)

    def caller(self, link: FakeLink) -> None:
        if self.won is not None:
            link.send("lead", self.reign.lead())
        else:
            self.succession._on_caller(link, [])  # type: ignore[arg-type]

    def hears(self, sender: int, link: FakeLink, message: dict[str, Any]) -> None:
        if link.call.own == self.member:
            if link.call.link is link:
                link.call.heard_at = self.net.now
                link.call.said(link.call, message)
        elif self.won is None:
            self.succession._read(sender, link, [message])  # type: ignore[arg-type,list-item]

    def tick(self) -> None:
        if self.won is None:
            self.succession.tick(self.net.now, calls=self.alone)


class Net:
    """Members that can reach each other, but for what a test cuts."""

    def __init__(self, nnodes: int, spares: int, **gang: Any) -> None:
        spec = gang.pop("spec", {})
        self.now = 100.0
        self.queue: deque[tuple[int, int, FakeLink, dict[str, Any]]] = deque()
        self.cuts: set[frozenset[int]] = set()
        self.peers: list[Peer] = []
        count = nnodes + spares
        for member in range(count):
            self.peers.append(Peer(self, member, settings_of(member, nnodes, spares, **gang), **spec))
        for peer in self.peers:
            peer.reign.see_doors({str(member): 1000 + member for member in range(1, count)})
        self.dies(0)

    def __getitem__(self, member: int) -> Peer:
        return self.peers[member]

    def reaches(self, one: int, other: int) -> bool:
        there = self.peers[one].is_there and self.peers[other].is_there
        return there and frozenset((one, other)) not in self.cuts

    def dies(self, member: int) -> None:
        peer = self.peers[member]
        peer.is_there = False
        self._break(lambda one, other: member in (one, other))

    def cut(self, *sides: set[int]) -> None:
        """Nobody of one side reaches anybody of another."""
        self.cuts = {
            frozenset((one, other))
            for first, second in itertools.combinations(sides, 2) for one in first for other in second
        }
        self._break(lambda one, other: frozenset((one, other)) in self.cuts)

    def _break(self, is_broken: Callable[[int, int], bool]) -> None:
        for peer in self.peers:
            for call in list(peer.succession._calls.values()):
                if call.link is not None and is_broken(call.own, call.member):  # type: ignore[attr-defined]
                    call.drop("cut")

    def alone(self, *members: int) -> None:
        for member in members:
            self.peers[member].alone = True

    def wakes(self, member: int) -> None:
        peer = self.peers[member]
        peer.is_awake = True
        while peer.late:
            peer.hears(*peer.late.popleft())

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += STEP_S
            for peer in self.peers:
                if peer.is_there and peer.is_awake:
                    peer.tick()
            self.deliver()

    def deliver(self) -> None:
        while self.queue:
            sender, receiver, link, message = self.queue.popleft()
            peer = self.peers[receiver]
            if not self.reaches(sender, receiver):
                continue
            if peer.is_awake:
                peer.hears(sender, link, message)
            else:
                peer.late.append((sender, link, message))

    @property
    def winners(self) -> dict[int, int]:
        """By reign."""
        won = [(peer.won, peer.member) for peer in self.peers if peer.won is not None]
        assert len({reign for reign, _ in won}) == len(won), f"two in one reign: {won}"
        return dict(won)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Net]:
    monkeypatch.setattr(module, "Door", FakeDoor)
    monkeypatch.setattr(module, "Call", FakeCall)
    return Net


class TestTheChoice:
    def test_is_the_lowest_of_those_who_are_alone(self, make: Any) -> None:
        net = make(3, 2)
        net.alone(1, 2, 3, 4)
        net.run(5)
        assert net.winners == {1: 1}
        assert [net[member].follows for member in (2, 3, 4)] == [1, 1, 1]
        assert net[1].reign.leader == net[4].reign.leader == 1

    def test_waits_for_more_than_half(self, make: Any) -> None:
        net = make(3, 2)
        net.alone(1, 3)
        net.run(30)
        assert net.winners == {}
        assert net[1].gave_up == net[3].gave_up == 0  # node 0 may still come back to them
        net.alone(2)
        net.run(3)
        assert net.winners == {1: 1}

    @pytest.mark.parametrize(("nnodes", "spares"), [(2, 2), (3, 1)])
    def test_is_none_for_half(self, make: Any, nnodes: int, spares: int) -> None:
        net = make(nnodes, spares)
        net.dies(2)
        net.alone(1, 3)
        net.run(60)
        assert net.winners == {}

    def test_is_none_for_spares_alone(self, make: Any) -> None:
        """Nobody of them knows that the nodes have stopped."""
        net = make(2, 3)
        net.dies(1)
        net.alone(2, 3, 4)
        net.run(60)
        assert net.winners == {}

    def test_is_none_where_no_spare_fits_the_place(self, make: Any) -> None:
        net = make(3, 0)
        net.alone(1, 2)
        net.run(60)
        assert net.winners == {}
        net = make(2, 1, nprocs=[4, 2, 2])
        net.alone(1, 2)
        net.run(60)
        assert net.winners == {}

    def test_is_none_where_the_only_spare_is_a_node_that_was_replaced(self, make: Any) -> None:
        """Its part is over: node 0 is better waited for."""
        net = make(3, 1)
        for member in (1, 3):
            net[member].knows(Plan((0, 1), 1, [0, 1, 3], {"s2": "s3"}, [5.0]))
        net.alone(1, 2, 3)
        net.run(60)
        assert net.winners == {}
        assert net[1].gave_up == 0

    def test_is_none_when_no_restart_is_left(self, make: Any) -> None:
        net = make(2, 1)
        newest = Plan((0, 3), 3, [0, 1], {}, [30.0, 20.0, 10.0])
        net[2].knows(newest)
        net.alone(1, 2)
        net.run(60)
        assert net.winners == {}

    def test_goes_by_the_newest_plan_that_one_of_them_knows(self, make: Any) -> None:
        net = make(2, 3)
        net[4].knows(Plan((0, 1), 1, [0, 3], {"s1": "s3"}, [5.0]))
        net[4].attempt = 1
        net.alone(2, 4)
        net.dies(3)
        net.run(60)
        assert net.winners == {}
        net.alone(1)  # of the attempt before: it knows nothing of the newest's nodes
        net.run(60)
        assert net.winners == {}

    def test_takes_over_what_the_newest_plan_says(self, make: Any) -> None:
        net = make(2, 3)
        net[3].knows(Plan((0, 1), 1, [0, 3], {"s1": "s3"}, [5.0]))
        net[3].attempt = 1
        net.dies(1)
        net.alone(2, 3, 4)
        net.run(5)
        assert net.winners == {1: 2}
        assert (net[2].reign.plan.placed, net[2].attempt) == ([0, 3], 1)
        assert net[2].restarts.words(2) == "restart 2 of 3"
        assert len(net[2].restarts.ages_s()) == 1

    def test_of_one_who_comes_late_is_the_one_that_was_chosen(self, make: Any) -> None:
        net = make(3, 3)
        net.alone(2, 3, 4, 5)
        net.run(5)
        assert net.winners == {1: 2}
        net.alone(1)
        net.run(3)
        assert net[1].follows == 2
        assert net.winners == {1: 2}

    def test_leaves_node_0_its_members_when_it_is_back(self, make: Any) -> None:
        net = make(3, 2)
        net.alone(1, 3)
        net.run(5)
        for member in (1, 3):
            net[member].alone = False
        net.run(1)
        net.alone(2, 4)
        net.run(30)
        assert net.winners == {}

    def test_asks_who_did_not_lose_node_0_in_vain(self, make: Any) -> None:
        net = make(2, 3)
        net.alone(2, 3)
        net.run(60)
        assert net[1].gave_up == net[4].gave_up == 0
        assert net.winners == {}

    def test_can_be_made_again(self, make: Any) -> None:
        net = make(2, 3)
        net.alone(1, 2, 3, 4)
        net.run(5)
        assert net.winners == {1: 1}
        net.dies(1)
        for member in (2, 3, 4):
            net[member].knows(Plan((1, 1), 1, [2, 1], {"s0": "s2"}, [9.0]))
        net.alone(2, 3, 4)
        net.run(5)
        assert net.winners == {1: 1, 2: 2}

    def test_tells_a_kill_to_all(self, make: Any) -> None:
        net = make(3, 3)
        net.alone(1, 3)
        net.run(3)
        net[3].succession.spread({"by": "me", "signal": "TERM", "grace_s": 1.0})
        net.deliver()
        assert [bool(net[member].killed) for member in (1, 2, 4, 5)] == [True] * 4


class TestTrouble:
    def test_a_candidate_that_dies_is_followed_by_the_next(self, make: Any) -> None:
        net = make(3, 3)
        net.alone(1, 2, 3, 4)
        net.run(0.5)
        net[1].is_awake = False
        net.run(2)
        net.dies(1)
        net.alone(5)
        net.run(5)
        assert list(net.winners.values()) == [2]

    def test_a_candidate_that_falls_asleep_with_the_voices_wins_nothing_that_counts(self, make: Any) -> None:
        net = make(3, 3)
        net.alone(1, 2, 3, 4, 5)
        while net[1].reign.number == 0:  # until it has asked for them
            net.run(STEP_S)
            net[1].is_awake = net[1].reign.number == 0
        assert net.winners == {}
        net.run(SILENCE_S + 10)
        assert net.winners == {2: 2}
        net.wakes(1)
        net.run(5)
        late = net[1].reign
        if net[1].won is not None:  # of an old reign, in which nobody takes a plan any more
            assert net[1].won < 2
            plan = Plan((net[1].won, 1), 1, [1, 2, 3], {}, [])
            assert all(net[member].reign.note(plan.to_wire()) is None for member in (2, 3, 4, 5))
        else:
            assert (net[1].follows, late.number) == (2, 2)

    def test_a_claim_of_an_old_reign_gets_no_voice(self, make: Any) -> None:
        net = make(3, 2)
        net[3].reign.follow(4, 2)
        net.alone(1, 3)
        net.run(1)
        call = net[3].succession._calls[1]
        net.queue.clear()
        for reign in (3, 4):
            net[3].succession._on_answer(call, {"kind": "claim", "reign": reign})
        assert not [message for *_, message in net.queue if message["kind"] == "voice"]
        net[3].succession._on_answer(call, {"kind": "claim", "reign": 5})
        assert [message["reign"] for *_, message in net.queue if message["kind"] == "voice"] == [5]

    def test_a_claim_gets_no_voice_of_one_who_has_just_been_found_again(self, make: Any) -> None:
        """Node 0 may have it begin an attempt, and all in one turn: what gives its voice has stopped."""
        net = make(3, 2)
        net.alone(1, 3)
        net.run(1)
        net.queue.clear()
        net[3].alone = False
        net[3].succession._on_answer(net[3].succession._calls[1], {"kind": "claim", "reign": 1})
        assert not net.queue
        assert (net[3].gave_up, net[3].reign.number) == (0, 0)

    def test_a_coordinator_of_an_old_reign_is_not_followed(self, make: Any) -> None:
        net = make(3, 2)
        net[3].reign.follow(4, 2)
        net.alone(1, 3)
        net.run(1)
        call = net[3].succession._calls[1]
        net[3].succession._on_answer(call, {"kind": "lead", "reign": 3, "member": 1})
        assert net[3].follows is None

    def test_both_sides_of_a_cut_never_win(self, make: Any) -> None:
        net = make(2, 5)
        net.cut({1, 2, 3}, {4, 5, 6})
        net.alone(*range(1, 7))
        net.run(60)
        assert net.winners == {}
        net.cut()
        net.run(5)
        assert net.winners == {1: 1}

    @pytest.mark.parametrize("seed", range(40))
    def test_whatever_is_cut_or_sleeps_there_is_one_in_a_reign(self, make: Any, seed: int) -> None:
        chance = random.Random(seed)
        net = make(chance.randint(2, 4), chance.randint(1, 4))
        members = range(1, len(net.peers))
        for _ in range(30):
            what, member = chance.random(), chance.choice(members)
            if what < 0.4:
                net.alone(member)
            elif what < 0.6:
                side = {one for one in members if chance.random() < 0.5}
                net.cut(side, set(members) - side)
            elif what < 0.75:
                net[member].is_awake = False
            else:
                net.wakes(member)
            net.run(chance.choice([STEP_S, 1.0, 3.0, 12.0]))
            assert len(net.winners) <= len(net.peers)
        for reign, winner in net.winners.items():
            voices = [peer for peer in net.peers if peer.reign.number >= reign]
            assert 2 * len(voices) > len(net.peers), f"{winner} won reign {reign} with a minority"


class TestThePlan:
    def test_no_successor_misses_an_attempt_that_was_begun(self) -> None:
        """Every set of members that may have let an attempt begin shares one with every set that may choose a
        successor without knowing of it."""
        for nnodes, spares in [(2, 0), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2)]:
            settings = settings_of(0, nnodes, spares)
            before, members = Plan.first(settings), range(nnodes + spares)
            groups = [
                set(group) for size in range(1, len(members) + 1)
                for group in itertools.combinations(members, size)
            ]
            for placed in itertools.permutations(members, nnodes):
                plan = Plan((0, 1), 1, list(placed), {}, [])
                begins = [group for group in groups if may_begin(plan, group, before, len(members))]
                chooses = [group for group in groups if may_succeed(group, before, settings)]
                assert all(begin & choose for begin in begins for choose in chooses)

    def test_begins_without_the_spares_while_its_nodes_stay(self) -> None:
        before = Plan((0, 0), 0, [0, 1], {}, [])
        same, other = Plan((0, 1), 1, [0, 1], {}, []), Plan((0, 1), 1, [0, 2], {}, [])
        assert may_begin(same, {0, 1}, before, 6)
        assert not may_begin(other, {0, 2}, before, 6)
        assert may_begin(other, {0, 2, 3}, before, 6)
        assert not may_begin(other, {0, 3, 4, 5}, before, 6)  # one of its nodes has not noted it
        theirs = Plan((1, 1), 1, [0, 1], {}, [])  # another coordinator's: not all may know the one before
        assert not may_begin(theirs, {0, 1}, before, 6)
        assert may_begin(theirs, {0, 1, 3}, before, 6)

    @pytest.mark.parametrize(
        "told",
        [
            None, 7, [], {}, {"order": [0, 1]}, {"order": [0, "1"], "attempt": 1, "placed": [0, 1]},
            {"order": [0, 1], "attempt": 1, "placed": [0]}, {"order": [0, 1], "attempt": 1, "placed": [0, 0]},
            {"order": [0, 1], "attempt": 1, "placed": [0, 3]},
            {"order": [0, 1], "attempt": 1, "placed": [0, True]},
            {"order": [0, 1], "attempt": "x", "placed": [0, 1]},
        ],
    )
    def test_that_has_no_shape_is_none(self, told: Any) -> None:
        assert Plan.of(told, settings_of(1, 2, 1)) is None

    def test_has_ages_that_are_numbers_alone(self) -> None:
        told = Plan((0, 1), 1, [0, 1], {}, []).to_wire()
        told["ages_s"] = [1, 2.5, True, "3", None, -1.0, float("nan"), float("inf"), 10**400]
        plan = Plan.of(told, settings_of(1, 2, 1))
        assert plan is not None
        assert plan.ages_s == [1.0, 2.5]

    def test_is_noted_once_it_is_newer_and_of_the_reign(self) -> None:
        reign = Reign(settings_of(1, 2, 1))
        assert reign.note(Plan((0, 2), 1, [0, 2], {}, []).to_wire()) is not None
        assert reign.note(Plan((0, 1), 1, [0, 1], {}, []).to_wire()) is None
        reign.give(2, 2)
        assert reign.note(Plan((0, 3), 2, [0, 2], {}, []).to_wire()) is None
        assert reign.note(Plan((2, 1), 2, [1, 2], {"s0": "s2"}, [1.0]).to_wire()) is not None
        assert (reign.plan.placed, reign.plan.replaced) == ([1, 2], {"s0": "s2"})

    def test_doors_are_taken_from_a_table_alone_that_has_their_shape(self) -> None:
        reign = Reign(settings_of(1, 2, 1))
        reign.see_doors({"1": 1001, "2": 99999, "9": 5, "x": 5, "0": True})
        reign.see_doors([1])
        assert reign.doors == {1: ("10.0.0.1", 1001)}
