"""The coordinator's part in agreeing on the next attempt: its plan, and who has taken note of it. See
``reign``."""

from __future__ import annotations

import time

from .calls import Call
from .jobdir import number
from .reign import Plan, may_begin, may_succeed
from .restarts import free_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Callable

    from .gang import GangSettings, Host
    from .nodes import Node, Nodes
    from .reign import Reign


class Agreement:
    """``begun``: the plan of the attempt that was begun last, as far as anybody may know."""

    def __init__(self, settings: GangSettings, host: Host, nodes: Nodes, reign: Reign) -> None:
        self.begun = reign.plan
        self._settings = settings
        self._host = host
        self._nodes = nodes
        self._reign = reign
        self._proposal: Plan | None = None
        self._proposed_at = 0.0
        self._count = 0
        self._ports: dict[int, int | None] = {}  # of who has noted the proposal: a port that is free there

    @property
    def next_attempt(self) -> int:
        return max(self._host.attempt, self.begun.attempt) + 1

    def propose(self, replaced: dict[str, str]) -> None:
        """Tell everybody who is to take part, unless that was told already. All of them stand still."""
        placed = [node.member for node in sorted(self._nodes.placed, key=lambda node: node.rank)]
        if self._proposal is not None and self._proposal.placed == placed:
            return
        if not set(placed) & set(self.begun.placed):
            return  # nobody is there who knows that the attempt before has stopped
        self._count, self._proposed_at = self._count + 1, time.monotonic()
        order = (self._reign.number, self._count)
        ages_s = self._host.restarts.ages_s()
        self._proposal = self._reign.plan = Plan(order, self.next_attempt, placed, dict(replaced), ages_s)
        own = self._settings.node
        self._ports = {own: free_port(self._settings.address_of(own))}
        self._nodes.broadcast("plan", {"plan": self._proposal.to_wire()}, spares=True)

    def joined(self, node: Node) -> None:
        """A member may have missed the proposal."""
        if self._proposal is not None:
            self._nodes.send(node, "plan", {"plan": self._proposal.to_wire()})

    def heard(self, node: Node, message: dict[str, Any]) -> None:
        """A member has noted a plan."""
        if self._proposal is not None and message.get("order") == list(self._proposal.order):
            port = number(message, "port")
            self._ports[node.member] = None if port is None else int(port)

    @property
    def is_reached(self) -> bool:
        plan = self._proposal
        return plan is not None and may_begin(plan, set(self._ports), self.begun, self._settings.members)

    def is_awaited(self, now: float) -> bool:
        """Whether all are there, and may yet take note: who does not within that time is taken for lost."""
        return self._proposal is not None and now - self._proposed_at <= self._settings.silence_s

    def why_not(self, absent: list[Node]) -> tuple[str, bool]:
        """Say why there is to be no other attempt: not all nodes are here, or too few members to know that it
        would be the only one; and whether that is the launch's end for certain."""
        name = self._host.server_name
        away = {node.member for node in self._nodes if not node.is_here}
        note = f"only {len(self._nodes) - len(away)} of {len(self._nodes)} servers are here"
        if absent:
            names = ", ".join(name(node.member) for node in absent)
            note = f"{names} did not come back, and there is no spare"
        out = self.begun.out(self._settings.members, name)
        if may_succeed(away, self.begun, self._settings, out):
            note += f"; the others may go on without {name(self._settings.node)}"
            return f"no other attempt: {note}", False
        return f"no other attempt: {note}", True

    def begin(self) -> dict[str, Any]:
        """The attempt begins; return what it is and where rank 0 listens: {attempt, port, address, replaced},
        null for what stays."""
        plan = self._proposal or self.begun
        first = plan.placed[0]
        port = self._ports.get(first) if self._settings.fresh_port else None
        attempt = self.next_attempt
        self.begun, self._proposal = plan, None
        address = None if first == 0 else self._settings.address_of(first)
        return {"attempt": attempt, "port": port, "address": address, "replaced": plan.replaced}


class Enquiry:
    """A coordinator that misses members asks at their doors whether they have gone on without it: ``deposed``
    is called with what to say of that then."""

    def __init__(
        self, settings: GangSettings, host: Host, reign: Reign, deposed: Callable[[dict[str, Any]], None]
    ) -> None:
        self._settings = settings
        self._host = host
        self._reign = reign
        self._deposed = deposed
        self._calls: dict[int, Call] = {}

    def tick(self, now: float, missing: Iterable[int]) -> None:
        wanted = set(missing) & set(self._reign.doors)
        for member in set(self._calls) - wanted:
            self._calls.pop(member).close()
        for member in wanted - set(self._calls):
            where = self._reign.doors[member]
            self._calls[member] = Call(
                self._settings, self._host, member, where, lambda _: None, self._heard, lambda *_: None
            )
        for call in list(self._calls.values()):
            call.tick(now)

    def _heard(self, _: Call, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        is_past = (number(message, "reign") or 0) > self._reign.number
        if kind == "end":
            self._deposed(message)
        elif kind == "here" and is_past and not message.get("alone"):
            leader = int(number(message, "member") or 0)
            self._deposed({"note": f"{self._host.server_name(leader)} coordinates the launch now"})

    def close(self) -> None:
        for call in self._calls.values():
            call.close()
        self._calls = {}
