"""The other nodes of a launch as node 0 sees them: what is known of each, and the connection to it."""

from __future__ import annotations

import selectors
import time

from .door import Door
from .gang import Watched
from .link import Link, LinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

    from .gang import GangSettings, Host

# For the verdict to be read, also by a node that is too busy to do it at once, and by a spare whose start is
# still under way.
LINGER_S = 10.0


class Node:
    """What is known of one member: a node of the launch, or (``place`` None) a spare."""

    def __init__(self, member: int, place: dict[str, int] | None, now: float) -> None:
        self.member = member
        self.place = place
        self.link: Link | None = None
        self.joined = member == 0
        self.heard_at = now
        self.eof_at: float | None = None
        self.lost = False
        self.left = False  # for good: it was stopped from outside, or replaced
        self.begin()

    def begin(self) -> None:
        """Forget the attempt before."""
        self.ended_well = self.failed = False
        self.stopped = self.place is None
        self.left_over = 0

    @property
    def rank(self) -> int:
        return self.member if self.place is None else self.place["node_rank"]

    @property
    def is_ready(self) -> bool:
        """True when it can begin another attempt."""
        here = self.member == 0 or (self.link is not None and not self.lost)
        return here and self.stopped and not self.left


class Nodes:
    """All members of a launch. ``came(node)`` is called when one has connected, ``said(node, message)`` with
    each message."""

    def __init__(
        self, settings: GangSettings, host: Host, came: Callable[[Node], None],
        said: Callable[[Node, dict[str, Any]], None],
    ) -> None:
        now = time.monotonic()
        self._all = [
            Node(member, settings.place(member) if member < settings.nnodes else None, now)
            for member in range(settings.members)
        ]
        self._host = host
        self._came = came
        self._said = said
        self._watched = Watched(host.selector)
        self._door = Door(settings, host, self._on_newcomer)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._all)

    @property
    def own(self) -> Node:
        return self._all[0]

    @property
    def others(self) -> list[Node]:
        return self._all[1:]

    @property
    def placed(self) -> list[Node]:
        """The nodes of the launch as it is now, without spares."""
        return [node for node in self._all if node.place is not None]

    def _on_newcomer(self, link: Link, lines: list[bytes]) -> None:
        node = self._all[link.node or 0]
        # Before the join, which may send, and lose the link by that.
        self._host.selector.modify(
            link.sock, selectors.EVENT_READ, lambda mask: self._on_link(node, link, mask)
        )
        if node.link is not None:
            self._watched.drop(node.link)
        self._host.log(f"node {node.member} joined" + (" again" if node.joined else ""))
        node.link, node.joined, node.eof_at, node.heard_at = link, True, None, link.heard_at
        self._came(node)
        self._handle(node, link, lines)

    def _on_link(self, node: Node, link: Link, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                link.flush()
                self._watched.update(link)
            if events & selectors.EVENT_READ:
                self._handle(node, link, link.lines())
        except LinkError as error:
            self._lose_link(node, link, error)

    def _handle(self, node: Node, link: Link, lines: list[bytes]) -> None:
        for line in lines:
            try:
                message = link.open(line)
            except LinkError as error:
                self._lose_link(node, link, error)
                return
            node.heard_at = link.heard_at
            self._said(node, message)

    def _lose_link(self, node: Node, link: Link, error: LinkError) -> None:
        self._watched.drop(link)
        if node.link is link:
            node.link = None
            node.eof_at = time.monotonic()
            self._host.log(f"connection to node {node.member} ended: {error}")

    def drop(self, node: Node) -> None:
        """End the connection: who was lost must authenticate anew (a paused node's connection lives on)."""
        if node.link is not None:
            self._watched.drop(node.link)
            node.link = None

    def send(self, node: Node, kind: str, message: dict[str, Any]) -> None:
        """Send a message, when there is a connection to the node."""
        link = node.link
        if link is None:
            return
        try:
            link.send(kind, {"attempt": self._host.attempt, **message})
            self._watched.update(link)
        except LinkError as error:
            self._lose_link(node, link, error)

    def broadcast(self, kind: str, message: dict[str, Any], *, spares: bool = False) -> None:
        """Send a message to every node of the launch, or to all members."""
        for node in self._all:
            if spares or node.place is not None:
                self.send(node, kind, message)

    def tick(self, now: float) -> None:
        self._door.tick(now)

    def close(self) -> None:
        """Wait (a while) until the members have read the verdict: closing on unread beats would reset the
        connection under it."""
        now = time.monotonic()
        deadline = now + LINGER_S
        while now < deadline and any(
            node.link or (node.place is None and not node.joined) for node in self._all
        ):
            now = time.monotonic()
            for key, events in self._host.selector.select(0.1):
                key.data(events)
        self._door.close()
