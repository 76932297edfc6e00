"""How the nodes of a launch get their slots, one machine after the other in an order that is the same for all
launches, each keeping what it has.

A launch that waits on a machine holds slots of earlier ones only, so no two launches can wait for each other.
Nodes that share a machine take their slots while the first of them still is the first in that machine's line.
No node begins before all have theirs; a spare gets its own with the others, for one that had to queue at a
restart would be none.

Members tell node 0 {"machine", "need", "has", "usable"} in a "slots" message, at each connection and at each
change. It answers with "slots" messages: {"do": "line up" (with "keep"), "go along", "leave line", "stand
by"}.
"""

from __future__ import annotations

from .causes import stopped_from_outside
from .jobdir import Refusal, number, text
from .places import STANDS_BY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .gang import Host
    from .nodes import Node, Nodes
    from .turn import Turn

SILENCE_S = 300.0  # nothing runs yet: a network may be away for a while


class GangTurn:
    """Node 0's side."""

    def __init__(self, nodes: Nodes, own: Turn) -> None:
        self.all_have = False
        self.refusal: str | None = None
        self._nodes = nodes
        self._own = own
        self._told: dict[int, dict[str, Any]] = {}
        self._asked: dict[int, str] = {}

    def look(self, server_name: Callable[[int], str]) -> dict[str, Any] | None:
        """Get on; return the verdict on a launch that will not get its slots."""
        try:
            self.tick()
        except (Refusal, OSError) as error:
            self.refusal = f"{server_name(0)}: the queue: {error}"
        left = next((node for node in self._nodes.placed if node.left), None)
        if left is not None:
            cause = stopped_from_outside(left.rank, server_name(left.member), 0.0)
            return {"state": "FAILED", "by": None, "cause": cause}
        return {"state": "FAILED", "by": None, "cause": None, "note": self.refusal} if self.refusal else None

    def all_are_heard(self, now: float, late_s: float) -> bool:
        """Whether all nodes have been heard lately."""
        return all(
            node.is_own or (node.link is not None and now - node.heard_at <= late_s)
            for node in self._nodes.placed
        )

    def end(self) -> None:
        """The launch begins."""
        for node in self._nodes.others:
            if node.place is None:
                node.left = node.left or node.lost  # it would have to queue when it is needed
                self._nodes.stand_by(node)

    def heard(self, node: Node, message: dict[str, Any]) -> None:
        """A member has told how it stands."""
        usable = message.get("usable")
        self._told[node.member] = {
            "machine": text(message, "machine") or "", "need": int(number(message, "need") or 0),
            "has": message.get("has") is True,
            "usable": [str(name) for name in usable] if isinstance(usable, list) else [],
        }

    def joined(self, node: Node) -> None:
        """A member may have missed what it was asked."""
        self._asked.pop(node.member, None)

    def tick(self) -> None:
        self._told[0] = self._own.state()
        here = [node for node in self._nodes if node.place or not (node.lost or node.left)]
        if any(node.member not in self._told for node in here) or self.refusal:
            return
        machines: dict[str, list[Node]] = {}
        for node in here:
            machines.setdefault(self._told[node.member]["machine"], []).append(node)
        for nodes in machines.values():
            # Who has the least choice first: another one might take the only card that it can have.
            nodes.sort(key=lambda node: len(self._told[node.member]["usable"]))
            self._check(nodes)
        if self.refusal is None:
            self.all_have = all(self._serve(machines[name]) for name in self._due(machines))

    def _due(self, machines: dict[str, list[Node]]) -> list[str]:
        """Return the machines up to the first whose nodes have not all got their slots."""
        names = sorted(machines)
        for count, name in enumerate(names, 1):
            if not all(self._told[node.member]["has"] for node in machines[name]):
                return names[:count]
        return names

    def _check(self, nodes: list[Node]) -> None:
        told = [self._told[node.member] for node in nodes]
        need = sum(one["need"] for one in told)
        usable = {name for one in told for name in one["usable"]}
        if need > len(usable):
            nodes_there = f"its {len(nodes)} nodes on one machine"
            self.refusal = f"{nodes_there} need {need} slots there, and it has {len(usable)}"

    def _serve(self, nodes: list[Node]) -> bool:
        """Have the nodes of one machine take their slots; True when all have."""
        first, *rest = nodes
        if not self._told[first.member]["has"]:
            self._ask(first, {"do": "line up", "keep": bool(rest)})
            return False
        for node in rest:
            if not self._told[node.member]["has"]:
                self._ask(node, {"do": "go along"})
                return False
        if rest:
            self._ask(first, {"do": "leave line"})
        return True

    def _ask(self, node: Node, message: dict[str, Any]) -> None:
        if self._asked.get(node.member) == message["do"]:
            return
        self._asked[node.member] = message["do"]
        if node.member == 0:
            self._own.do(message)
        else:
            self._nodes.send(node, "slots", message)


class QueuedMember:
    """A member's side."""

    def __init__(
        self, host: Host, send: Callable[[str, dict[str, Any]], None], end: Callable[[dict[str, Any]], None]
    ) -> None:
        self._host = host
        self._send = send
        self._end = end
        self._told: dict[str, Any] | None = None  # how far our slots are, as node 0 knows it

    @property
    def waits(self) -> bool:
        return self._host.turn is not None and self._host.attempt < 0

    def joined(self) -> None:
        """Node 0 may have missed what it was told."""
        self._told = None

    def tell(self) -> None:
        """Tell node 0 what it does not know yet."""
        if self._host.turn is not None and self.waits:
            state = self._host.turn.state()
            if state != self._told:
                self._told = state
                self._send("slots", state)

    def heard(self, message: dict[str, Any]) -> None:
        """Do what node 0 says."""
        if message.get("do") == "stand by":
            self._host.leave_queue(STANDS_BY)
        elif self._host.turn is not None:
            try:
                self._host.turn.do(message)
            except (Refusal, OSError) as error:
                self._send("left", {})
                self._end({"state": "FAILED", "note": f"the queue: {error}"})
