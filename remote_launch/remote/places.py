"""Who takes which part in a launch: a lost node's place may go to a spare. The coordinator decides."""

from __future__ import annotations

from .causes import OUTSIDE, lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .gang import GangSettings, Host
    from .nodes import Node, Nodes


def taken_place(node_rank: object) -> str:
    return f"takes part as node {node_rank}, in the place of a lost one"


STANDS_BY = "stands by as a spare"


class Places:
    """``replaced``: the servers that are out, each with the spare that took its place."""

    def __init__(self, settings: GangSettings, host: Host, nodes: Nodes, replaced: dict[str, str]) -> None:
        self.replaced: dict[str, str] = dict(replaced)
        self._settings = settings
        self._host = host
        self._nodes = nodes

    def may_return(self, node: Node) -> bool:
        """Whether there will be somebody for this node's place. One that never came is not waited for once
        more."""
        if node.left_over or (node.left and node.is_own):
            return False
        return (node.joined and not node.left) or self._spare_for(node) is not None

    def fill(self) -> None:
        """Give the places of those that are lost or have left to spares that are there."""
        for node in self._nodes.placed:
            spare = self._spare_for(node) if (node.lost or node.left) and not node.is_own else None
            if spare is not None:
                self._replace(node, spare)

    def farewell(self, node: Node) -> dict[str, Any]:
        """Return the verdict for a node that has no part in the launch any more."""
        server = self._host.server_name(node.member)
        spare = self.replaced.get(server)
        note = f"{spare} took its place" if spare else OUTSIDE
        if node.was_deposed and not spare:
            note = f"{self._host.server_name(self._settings.node)} coordinates the launch now"
        cause = lost(node.member, server, "the launch went on without it", 0.0)
        return {"state": "FAILED", "by": None, "cause": cause, "note": note}

    def role(self, node: Node) -> str | None:
        """Say what a spare does that takes part; None of a node that is in its own place."""
        if node.place is None or node.member < self._settings.nnodes:
            return None
        return taken_place(node.rank)

    def _spare_for(self, node: Node) -> Node | None:
        settings = self._settings
        for spare in self._nodes:
            same = settings.nproc(spare.member) == settings.nproc(node.rank)
            if spare.place is None and spare.is_ready and same:
                return spare
        return None

    def _replace(self, node: Node, spare: Node) -> None:
        gone, comes = self._host.server_name(node.member), self._host.server_name(spare.member)
        self._host.log(f"{comes} takes the place of {gone} as node {node.rank}")
        spare.place, node.place = node.place, None
        spare.begin()
        spare.stopped = node.left = True
        self.replaced[gone] = comes
        self._nodes.send(node, "end", self.farewell(node))
