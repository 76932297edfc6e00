"""The nodes of a launch as the coordinator sees them: what is known of each, and the connection to it."""

from __future__ import annotations

import selectors
import time

from .door import Door
from .gang import EOF_PATIENCE_S, Watched
from .link import Link, LinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Collection, Iterable, Iterator

    from .gang import GangSettings, Host
    from .reign import Plan

# For the verdict to be read, also by a node that is too busy to do it at once, and by a spare whose start is
# still under way.
LINGER_S = 10.0
_WINDOW_S = 30.0


class Delay:
    """How late a member's messages are read, by when it says that it sent them: later than the quickest of
    the last while. Who reads them may have stood still; how far the clocks differ doesn't matter."""

    def __init__(self) -> None:
        self._least = self._before = float("inf")  # in this window and the last, with the clocks' difference
        self._since = float("-inf")

    def of(self, sent_at: float | None) -> float:
        """Return by how many seconds a message that has just been read is late."""
        if sent_at is None:
            return 0.0
        now = time.monotonic()
        took = now - sent_at
        if now - self._since > _WINDOW_S:
            self._before, self._least, self._since = self._least, took, now
        self._least = min(self._least, took)
        return took - min(self._before, self._least)


class Node:
    """What is known of one member: a node of the launch, or (``place`` None) a spare."""

    def __init__(
        self, member: int, place: dict[str, int] | None, now: float, *, is_own: bool = False
    ) -> None:
        self.member = member
        self.place = place
        self.is_own = is_own
        self.link: Link | None = None
        self.joined = is_own
        self.is_awaited = place is None and not is_own  # at the end too: its start, or call, is under way
        self.heard_at = now
        self.eof_at: float | None = None
        self.delay = Delay()
        self.late_s = 0.0  # of the last message
        self.lost = False
        self.left = False  # for good: it was stopped from outside, or replaced
        self.was_deposed = False  # it coordinated, and was lost
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
        return self.is_here and self.stopped and not self.left

    @property
    def is_here(self) -> bool:
        return self.is_own or (self.link is not None and not self.lost)


class Nodes:
    """All members of a launch. ``came(node)`` is called when one has connected, ``said(node, message)`` with
    each message. ``door``: where they come in; None opens node 0's."""

    def __init__(
        self, settings: GangSettings, host: Host, plan: Plan, came: Callable[[Node], None],
        said: Callable[[Node, dict[str, Any]], None], door: Door | None = None,
    ) -> None:
        now = time.monotonic()
        own = settings.node
        self._all = [
            Node(member, plan.place(member, settings), now, is_own=member == own)
            for member in range(settings.members)
        ]
        self._own = self._all[own]
        self._settings = settings
        self._opened_at = now
        self._host = host
        self._came = came
        self._said = said
        self._watched = Watched(host.selector)
        if door is None:
            door = Door(settings, host, self._on_newcomer, (settings.address, settings.port))
        door.joined = self._on_newcomer
        self._door = door

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._all)

    @property
    def own(self) -> Node:
        return self._own

    @property
    def others(self) -> list[Node]:
        return [node for node in self._all if not node.is_own]

    @property
    def placed(self) -> list[Node]:
        """The nodes of the launch as it is now, without spares."""
        return [node for node in self._all if node.place is not None]

    def inherit(self, gone: int, replaced: Collection[str], links: Iterable[Link]) -> None:
        """Take the nodes over from a coordinator that was lost: the member ``gone``, which has no part any
        more, as the servers that were ``replaced`` before. Members have called already, by these links."""
        now = time.monotonic()
        for node in self._all:
            node.joined, node.heard_at, node.was_deposed = True, now, node.member == gone
            if node.member == gone or self._host.server_name(node.member) in replaced:
                node.lost = node.left = True
            node.is_awaited = not node.left and not node.is_own
        self._own.stopped = True
        for link in links:
            self._on_newcomer(link, [])

    def _on_newcomer(self, link: Link, lines: list[bytes]) -> None:
        node = self._all[link.node or 0]
        if node.is_own:
            self._watched.drop(link)
            return
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

    def why_lost(self, node: Node, now: float, silence_s: float) -> str:
        """Say why a node is to be taken for lost: it never joined, is silent, or its connection stays broken;
        "" where it isn't."""
        settings = self._settings
        if not node.joined:
            where, patience_s = f"{settings.address}:{settings.port}", settings.join_timeout_s
            late = now - self._opened_at > patience_s
            return f"its supervisor did not reach node 0 ({where}) within {patience_s:g} s" if late else ""
        if node.eof_at is not None and now - node.eof_at > EOF_PATIENCE_S:
            return "its supervisor is gone, or the network to it"
        return f"no word from it for {now - node.heard_at:.0f} s" if now - node.heard_at > silence_s else ""

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

    def stand_by(self, spare: Node) -> None:
        """Say to a spare, in a launch of the queue, that it waits for no slots any more."""
        if self._host.turn is not None:
            self.send(spare, "slots", {"do": "stand by"})

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
        while now < deadline and any(node.link or node.is_awaited for node in self._all):
            now = time.monotonic()
            for key, events in self._host.selector.select(0.1):
                key.data(events)
        self._door.close()
