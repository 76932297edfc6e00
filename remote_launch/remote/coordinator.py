"""The coordinator's part in a launch: it listens, hears all nodes, and decides. Node 0's at first, its
successor's when it is lost. See ``gang`` for the messages."""

from __future__ import annotations

import signal
import time

from . import procs
from .agreement import Agreement, Enquiry
from .causes import choose_cause, counts, lost, stop_message, stopped_from_outside
from .gang import BEAT_S, GANG_GRACE_S
from .gangturn import SILENCE_S, GangTurn
from .jobdir import number, text
from .nodes import Nodes
from .places import Places
from .reign import Reign
from .restarts import free_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

    from .door import Door
    from .gang import GangSettings, Host
    from .link import Link
    from .nodes import Node

ABSENT_PATIENCE_S = 5.0  # in a stop, for a node that has not joined yet


class Coordinator:
    """Phases: RUN (joins included) -> STOP (all are told; waiting until each is stopped or lost) ->
    ``verdict``, or PAUSE (waiting until the next attempt is due and every node is there) -> RUN."""

    is_coordinator = True

    def __init__(
        self, settings: GangSettings, host: Host, reign: Reign | None = None, door: Door | None = None
    ) -> None:
        self.verdict: dict[str, Any] | None = None
        self.has_last_word = True  # unless the others may have gone on, or have
        self._settings = settings
        self._host = host
        self._failures: list[dict[str, Any]] = []
        self._stop_at = 0.0
        self._stop: dict[str, Any] | None = None  # the stop message, once there is a reason
        self._pause: dict[str, Any] | None = None  # the pause message, between two attempts
        self._go: dict[str, Any] = {}  # what the go messages of this attempt have in common
        self._resume_at = 0.0
        self._next_beat = 0.0
        self._is_heir = False  # the attempt that is being stopped was another coordinator's
        self._has_new_doors = False
        self._reign = reign or Reign(settings)
        plan = self._reign.plan
        self._nodes = Nodes(settings, host, plan, self._on_join, self._on_message, door)
        self._places = Places(settings, host, self._nodes, plan.replaced)
        self._agreement = Agreement(settings, host, self._nodes, self._reign)
        self._enquiry = Enquiry(settings, host, self._reign, self._step_down)
        self._turn: GangTurn | None = None  # while the launch is queued
        if host.turn is not None and host.attempt < 0:
            self._turn = GangTurn(self._nodes, host.turn)
            self._pause = {"cause": None}

    def succeed(self, cause: dict[str, Any], gone: int, links: Iterable[Link]) -> None:
        """Begin in the place of a coordinator that was lost. The launch stops, and goes on from there.
        ``gone``: who that was; it has no part any more. ``links``: who has called here."""
        self._is_heir = True
        self._failures = [cause]
        self._stop_at = time.monotonic()
        self._stop = stop_message(cause, None, GANG_GRACE_S)
        self._nodes.inherit(gone, self._places.replaced, links)

    # -- what the own node tells

    def child_ended(self, failure: dict[str, Any] | None, asked: bool) -> None:
        failed_at = number(failure, "time") if failure else None
        self._ended(self._nodes.own, failure, asked, time.time() - failed_at if failed_at else 0.0)

    def tree_gone(self, left_over: int) -> None:
        if left_over:
            self._host.log(f"{left_over} processes are left on this node")
        self._nodes.own.stopped, self._nodes.own.left_over = True, left_over

    def kill(self, kill: dict[str, Any]) -> None:
        """A person killed this node's job (or told a member so): kill the launch."""
        self._begin_stop(killed=kill)

    def leave(self) -> None:
        """This supervisor was told to stop, though not by rl, while nothing ran here."""
        self._nodes.own.left = True  # no other attempt
        if self._pause is not None:
            own = self._nodes.own
            server = self._host.server_name(own.member)
            self._end({"state": "FAILED", "by": None, "cause": stopped_from_outside(own.rank, server, 0.0)})

    @property
    def may_go_on(self) -> bool:
        """True while another attempt may come, so that a kill has something to end even between two."""
        return self.verdict is None and self._host.restarts.limit > 0

    def ask_for_stacks(self) -> None:
        """The launch has stalled: each node is to write its stacks down."""
        self._nodes.broadcast("stacks", {})

    def stalled(self, failure: dict[str, Any]) -> None:
        """No node has had any output for too long."""
        self._fail(failure)

    # -- decisions

    def _on_join(self, node: Node) -> None:
        """Tell a node that has connected, perhaps once more, how things stand."""
        node.is_awaited = False
        if self._reign.number or self._reign.doors:
            self._nodes.send(node, "lead", self._reign.lead())
        if self.verdict is not None or node.left:
            self._nodes.send(node, "end", self.verdict or self._places.farewell(node))
            return
        node.lost = False
        if self._turn is not None:
            self._turn.joined(node)
            return
        self._agreement.joined(node)
        if node.place is None:
            self._nodes.stand_by(node)
            return
        if self._stop is not None:
            self._nodes.send(node, "stop", self._stop)
        if self._pause is not None:
            left_s = max(0.0, self._resume_at - time.monotonic())
            self._nodes.send(node, "pause", {**self._pause, "delay_s": left_s})
        elif self._stop is None and self._go:
            self._nodes.send(node, "go", {**self._go, **node.place})

    def _on_message(self, node: Node, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        node.late_s = node.delay.of(number(message, "sent_at"))
        if kind == "kill":
            self._begin_stop(killed=message)
        elif kind == "left":
            node.left = True
        elif kind == "slots" and self._turn is not None:
            self._turn.heard(node, message)
        elif kind == "agree":
            self._agreement.heard(node, message)
        elif kind == "door":
            self._reign.see_doors({str(node.member): message.get("port")})
            self._has_new_doors = True
        if node.place is None or (message.get("attempt") != self._host.attempt and not self._is_heir):
            return
        if kind == "beat":
            self._host.stalls.heard(node.rank, message)
        if kind == "ended":
            failure = message.get("failure")
            failure = failure if isinstance(failure, dict) else None
            if message.get("alone") and not self._is_heir:
                self._lose(node, f"it had missed node {self._settings.node}, and stopped by itself")
                return
            age_s = (number(message, "age_s") or 0.0) + node.late_s
            self._ended(node, failure, bool(message.get("asked")), age_s)
        elif kind == "stopped":
            node.stopped, node.left_over = True, int(number(message, "left_over") or 0)

    def _ended(self, node: Node, failure: dict[str, Any] | None, asked: bool, age_s: float) -> None:
        if failure is None and not asked:
            node.ended_well = True
        elif counts(failure, asked) and not node.failed and failure is not None:
            node.failed = True
            # On one clock, ours: the servers' clocks may differ by more than the failures are apart.
            server = self._host.server_name(node.member)
            self._fail({**failure, "node_rank": node.rank, "server": server, "time": time.time() - age_s})
        elif asked and self._stop is None:  # a kill by rl would have been told before
            node.left = True
            self._fail(stopped_from_outside(node.rank, self._host.server_name(node.member), age_s))

    def _fail(self, failure: dict[str, Any]) -> None:
        if self._pause is not None:
            return  # told once more by a node that has come back
        self._failures.append(failure)
        self._host.log(f"failure on node {failure['node_rank']}: {failure.get('message')}")
        self._begin_stop(killed=None)

    def _begin_stop(self, killed: dict[str, Any] | None) -> None:
        if self.verdict is not None:
            return
        if self._pause is not None:
            self._end({"state": "KILLED", "by": text(killed or {}, "by"), "cause": None})
            return
        if self._stop is not None:
            if killed is not None and self._host.restarts.limit:
                self._stop.update(killed=True, by=text(killed, "by"))  # no other attempt, then
            return
        self._stop_at = time.monotonic()
        grace_s = min(self._host.grace_s, GANG_GRACE_S)
        if killed is not None:
            grace_s = number(killed, "grace_s", grace_s) or 0.0
        self._stop = stop_message(choose_cause(self._failures), killed, grace_s)
        self._nodes.broadcast("stop", self._stop)
        first = procs.signal_number(self._stop["signal"]) or signal.SIGTERM
        if not self._nodes.own.stopped:
            self._host.stop(first, self._stop["grace_s"])

    def tick(self, now: float) -> None:
        self._nodes.tick(now)
        if now >= self._next_beat:
            self._next_beat = now + BEAT_S
            self._nodes.broadcast("beat", {}, spares=True)
            if self._has_new_doors:
                self._has_new_doors = False
                self._nodes.broadcast("lead", self._reign.lead(), spares=True)
        if self.verdict is not None:
            return
        for node in self._nodes.others:
            self._look_after(node, now)
        if self._turn is not None:
            self._queue(self._turn, now)
        elif self._pause is not None:
            self._try_to_go_on(now)
            if self.verdict is None:
                self._enquiry.tick(now, [node.member for node in self._nodes if not node.is_here])
        elif self._stop is None and all(node.ended_well and node.stopped for node in self._nodes.placed):
            self._end({"state": "SUCCEEDED", "by": None, "cause": None})
        elif self._stop is not None and all(node.stopped or node.lost for node in self._nodes.placed):
            self._attempt_over(now, self._stop)

    def _look_after(self, node: Node, now: float) -> None:
        """Lose a node that never joined, is silent, or whose connection stays broken. One that has said it is
        done may be gone."""
        waits = self._pause is not None or node.place is None
        if node.lost or (node.stopped and not waits):
            return
        silence_s = self._settings.silence_s
        if not node.joined and self._stop is not None:
            # It has no part in the failure, and nothing to stop that we know of. Another attempt needs it.
            joined = [other for other in self._nodes.placed if other.joined]
            is_last = self._stop["killed"] or self._host.restarts.delay_s() is None
            is_last = is_last or not all(map(self._places.may_return, joined))
            why = is_last or self._nodes.why_lost(node, now, silence_s)
            node.lost = now - self._stop_at > ABSENT_PATIENCE_S and bool(why)
            return
        if self._turn is not None:
            silence_s = max(silence_s, SILENCE_S)
        why = self._nodes.why_lost(node, now, silence_s)
        if not why:
            return
        node.lost, node.is_awaited = True, False
        self._nodes.drop(node)
        if waits:
            self._host.log(f"node {node.member}: {why}")
            if self._turn is not None and node.place is not None:
                cause = lost(node.rank, self._host.server_name(node.member), why, 0.0)
                self._end({"state": "FAILED", "by": None, "cause": cause})
        else:
            self._lose(node, why)

    def _lose(self, node: Node, why: str) -> None:
        if not node.failed:
            node.failed = True
            heard_s_ago = time.monotonic() - node.heard_at + node.late_s
            self._fail(lost(node.rank, self._host.server_name(node.member), why, heard_s_ago))

    # -- the queue

    def _queue(self, turn: GangTurn, now: float) -> None:
        """Have all nodes take their slots; then begin, when all are to be heard: from then on silence is a
        loss."""
        verdict = turn.look(self._host.server_name)
        if verdict is not None:
            self._end(verdict)
        elif turn.all_have and turn.all_are_heard(now, self._settings.silence_s / 2):
            self._turn = None
            turn.end()
            port = free_port(self._settings.address) if self._settings.fresh_port else None
            self._begin({"attempt": 0, "port": port, "cause": None})

    # -- the next attempt

    def _attempt_over(self, now: float, stop: dict[str, Any]) -> None:
        cause = None if stop["killed"] else choose_cause(self._failures)
        delay_s = self._host.restarts.delay_s()
        if stop["killed"]:
            self._end({"state": "KILLED", "by": stop["by"], "cause": None})
        elif cause is None or delay_s is None or not all(map(self._places.may_return, self._nodes.placed)):
            self._end({"state": "FAILED", "by": None, "cause": cause})
        else:
            restarts = self._host.restarts
            restarts.count()
            words = restarts.words(self._agreement.next_attempt)
            self._pause = {"cause": cause, "words": words, "delay_s": delay_s}
            self._resume_at = now + delay_s
            if self._nodes.own.place is not None:
                self._host.rest(cause, self._pause)
            self._nodes.broadcast("pause", self._pause)

    def _try_to_go_on(self, now: float) -> None:
        if now < self._resume_at:
            return
        self._places.fill()
        absent = [node for node in self._nodes.placed if not node.is_ready]
        is_late = now > self._resume_at + self._settings.join_timeout_s
        if not absent:
            self._agreement.propose(self._places.replaced)
            is_late = is_late and not self._agreement.is_awaited(now)
        if not absent and self._agreement.is_reached:
            self._begin({**self._agreement.begin(), "cause": (self._pause or {}).get("cause")})
        elif any(node.left for node in absent) or is_late:
            note, self.has_last_word = self._agreement.why_not(absent)
            self._end({"state": "FAILED", "by": None, "cause": (self._pause or {})["cause"], "note": note})

    def _begin(self, what: dict[str, Any]) -> None:
        """Begin the next attempt {attempt, port, address, replaced, cause}."""
        self._failures, self._stop, self._pause, self._is_heir = [], None, None, False
        self._go = what
        self._enquiry.close()
        own, placed = self._nodes.own, self._nodes.placed
        for node in placed:
            node.begin()
        if own.place is None:
            self._host.stand_by(what["attempt"])
        else:
            self._host.begin({**what, **own.place, "reason": self._places.role(own)})
        for node in placed:
            self._nodes.send(node, "go", {**what, **(node.place or {})})

    def _step_down(self, told: dict[str, Any]) -> None:
        """The others have gone on without this one."""
        if self.verdict is not None:
            return
        note = text(told, "note") or "the launch went on without it"
        self.verdict = {**self._places.farewell(self._nodes.own), "note": note, "replaced": {}}
        self.has_last_word = False
        for node in self._nodes:
            self._nodes.drop(node)  # who is here still finds the others by itself

    def _end(self, verdict: dict[str, Any]) -> None:
        """Judge, once: who has been told the verdict keeps it."""
        if self.verdict is not None:
            return
        self.verdict = {**verdict, "replaced": self._agreement.begun.replaced}
        self._nodes.broadcast("end", self.verdict, spares=True)

    def wait_s(self, now: float) -> float | None:
        return max(0.0, min(self._next_beat - now, BEAT_S / 8 if self._stop else BEAT_S))

    def close(self) -> None:
        self._enquiry.close()
        self._nodes.close()
