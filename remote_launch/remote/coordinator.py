"""Node 0's part in a launch: it listens, hears all nodes, and decides. See ``gang`` for the messages."""

from __future__ import annotations

import selectors
import signal
import time

from . import procs
from .gang import (
    BEAT_S,
    EOF_PATIENCE_S,
    GANG_GRACE_S,
    Watched,
    choose_cause,
    counts,
    listen,
    lost,
    stopped_from_outside,
)
from .jobdir import number, text
from .link import HANDSHAKE_S, Link, LinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .gang import GangSettings, Host

PENDING_LIMIT = 64
LINGER_S = 2.0
ABSENT_PATIENCE_S = 5.0  # in a stop, for a node that has not joined yet


class Node:
    """What is known of one node of the launch."""

    def __init__(self, rank: int, now: float) -> None:
        self.rank = rank
        self.link: Link | None = None
        self.joined = rank == 0
        self.heard_at = now
        self.eof_at: float | None = None
        self.lost = False
        self.ended_well = False
        self.failed = False
        self.stopped = False


class Coordinator:
    """Phases: RUN (joins included) -> STOP (all are told; waiting until each is stopped or lost) ->
    ``verdict``."""

    def __init__(self, settings: GangSettings, host: Host) -> None:
        self.verdict: dict[str, Any] | None = None
        self._settings = settings
        self._host = host
        self._started_at = time.monotonic()
        self._nodes = [Node(rank, self._started_at) for rank in range(settings.nnodes)]
        self._failures: list[dict[str, Any]] = []
        self._stop_at = 0.0
        self._stop: dict[str, Any] | None = None  # the stop message, once there is a reason
        self._pending: list[Link] = []
        self._watched = Watched(host.selector)
        self._next_beat = 0.0
        self._listener = listen(settings.address, settings.port)
        host.selector.register(self._listener, selectors.EVENT_READ, lambda _: self._accept())

    # -- what the own node tells

    def child_ended(self, failure: dict[str, Any] | None, asked: bool) -> None:
        failed_at = number(failure, "time") if failure else None
        self._ended(self._nodes[0], failure, asked, time.time() - failed_at if failed_at else 0.0)

    def tree_gone(self, left_over: int) -> None:
        if left_over:
            self._host.log(f"{left_over} processes are left on this node")
        self._nodes[0].stopped = True

    def kill(self, kill: dict[str, Any]) -> None:
        """A person killed this node's job (or told a member so): kill the launch."""
        self._begin_stop(killed=kill)

    def ask_for_stacks(self) -> None:
        """The launch has stalled: each node is to write down what its processes are doing."""
        self._broadcast("stacks", {})

    def stalled(self, failure: dict[str, Any]) -> None:
        """No node has had any output for too long."""
        self._fail(failure)

    # -- connections

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if len(self._pending) >= PENDING_LIMIT:
            self._drop_pending(self._pending[0])  # the oldest: a member needs milliseconds, a stranger sits
        link = Link(sock, self._settings.launch, self._settings.token)
        self._pending.append(link)
        self._watched.watch(link, lambda _: self._on_pending(link))
        try:
            link.challenge()
        except LinkError:
            self._drop_pending(link)

    def _drop_pending(self, link: Link) -> None:
        if link in self._pending:
            self._pending.remove(link)
        self._watched.drop(link)

    def _on_pending(self, link: Link) -> None:
        try:
            lines = link.lines()
            if not lines:
                return
            rank = link.accept_hello(lines[0], self._settings.nnodes)
        except LinkError as error:
            self._host.log(f"a connection was refused: {error}")
            self._drop_pending(link)
            return
        self._pending.remove(link)
        # Before the join, which may send, and lose the link by that.
        self._host.selector.modify(
            link.sock, selectors.EVENT_READ, lambda mask: self._on_link(self._nodes[rank], link, mask)
        )
        self._join(self._nodes[rank], link)
        self._handle(self._nodes[rank], link, lines[1:])

    def _join(self, node: Node, link: Link) -> None:
        if node.link is not None:
            self._watched.drop(node.link)
        self._host.log(f"node {node.rank} joined" + (" again" if node.joined else ""))
        node.link, node.joined, node.eof_at, node.heard_at = link, True, None, link.heard_at
        if self.verdict is not None:
            self._send(node, "end", self.verdict)
        elif self._stop is not None:
            self._send(node, "stop", self._stop)

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
            self._on_message(node, message)

    def _lose_link(self, node: Node, link: Link, error: LinkError) -> None:
        self._watched.drop(link)
        if node.link is link:
            node.link = None
            node.eof_at = time.monotonic()
            self._host.log(f"connection to node {node.rank} ended: {error}")

    def _send(self, node: Node, kind: str, message: dict[str, Any]) -> None:
        link = node.link
        if link is None:
            return
        try:
            link.send(kind, {"attempt": self._host.attempt, **message})
            self._watched.update(link)
        except LinkError as error:
            self._lose_link(node, link, error)

    def _broadcast(self, kind: str, message: dict[str, Any]) -> None:
        for node in self._nodes:
            self._send(node, kind, message)

    # -- decisions

    def _on_message(self, node: Node, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if message.get("attempt") != self._host.attempt:
            return
        if kind == "beat":
            self._host.stalls.heard(node.rank, message)
        if kind == "ended":
            failure = message.get("failure")
            failure = failure if isinstance(failure, dict) else None
            self._ended(node, failure, bool(message.get("asked")), number(message, "age_s") or 0.0)
        elif kind == "stopped":
            node.stopped = True
        elif kind == "kill":
            self._begin_stop(killed=message)

    def _ended(self, node: Node, failure: dict[str, Any] | None, asked: bool, age_s: float) -> None:
        if failure is None and not asked:
            node.ended_well = True
        elif counts(failure, asked) and not node.failed and failure is not None:
            node.failed = True
            # On one clock, ours: the servers' clocks may differ by more than the failures are apart.
            server = self._host.server_name(node.rank)
            self._fail({**failure, "node_rank": node.rank, "server": server, "time": time.time() - age_s})
        elif asked and self._stop is None:  # a kill by rl would have been told before
            self._fail(stopped_from_outside(node.rank, self._host.server_name(node.rank), age_s))

    def _fail(self, failure: dict[str, Any]) -> None:
        self._failures.append(failure)
        self._host.log(f"failure on node {failure['node_rank']}: {failure.get('message')}")
        self._begin_stop(killed=None)

    def _begin_stop(self, killed: dict[str, Any] | None) -> None:
        if self._stop is not None:
            return
        self._stop_at = time.monotonic()
        grace_s = min(self._host.grace_s, GANG_GRACE_S)
        self._stop = {
            "killed": killed is not None, "by": None, "signal": "TERM", "grace_s": grace_s,
            "cause": choose_cause(self._failures),
        }
        if killed is not None:
            asked_grace_s = number(killed, "grace_s", grace_s)
            self._stop.update(
                by=text(killed, "by"), signal=text(killed, "signal") or "TERM", grace_s=asked_grace_s
            )
        self._broadcast("stop", self._stop)
        first = procs.signal_number(self._stop["signal"]) or signal.SIGTERM
        if not self._nodes[0].stopped:
            self._host.stop(first, self._stop["grace_s"])

    def tick(self, now: float) -> None:
        for link in list(self._pending):
            if now - link.opened_at > HANDSHAKE_S:
                self._drop_pending(link)
        if now >= self._next_beat:
            self._next_beat = now + BEAT_S
            self._broadcast("beat", {})
        if self.verdict is not None:
            return
        for node in self._nodes[1:]:
            self._look_after(node, now)
        if self._stop is None and all(node.ended_well and node.stopped for node in self._nodes):
            self._end({"state": "SUCCEEDED", "by": None, "cause": None})
        elif self._stop is not None and all(node.stopped or node.lost for node in self._nodes):
            killed = self._stop["killed"]
            cause = None if killed else choose_cause(self._failures)
            self._end({"state": "KILLED" if killed else "FAILED", "by": self._stop["by"], "cause": cause})

    def _look_after(self, node: Node, now: float) -> None:
        """Lose a node that never joined, is silent, or whose connection stays broken. One that has said it is
        done may be gone."""
        if node.lost or node.stopped:
            return
        settings = self._settings
        why = ""
        if not node.joined and self._stop is not None:
            # It has no part in the failure, and nothing to stop that we know of.
            node.lost = now - self._stop_at > ABSENT_PATIENCE_S
        elif not node.joined:
            if now - self._started_at > settings.join_timeout_s:
                where = f"{settings.address}:{settings.port}"
                why = f"its supervisor did not reach node 0 ({where}) within {settings.join_timeout_s:g} s"
        elif node.eof_at is not None and now - node.eof_at > EOF_PATIENCE_S:
            why = "its supervisor is gone, or the network to it"
        elif now - node.heard_at > settings.silence_s:
            why = f"no word from it for {now - node.heard_at:.0f} s"
        if not why:
            return
        node.lost = True
        if node.link is not None:
            self._watched.drop(node.link)  # a paused node's connection lives on: it must authenticate anew
            node.link = None
        self._fail(lost(node.rank, self._host.server_name(node.rank), why, now - node.heard_at))

    def _end(self, verdict: dict[str, Any]) -> None:
        self.verdict = verdict
        self._broadcast("end", verdict)

    def wait_s(self, now: float) -> float | None:
        return max(0.0, min(self._next_beat - now, BEAT_S / 4 if self._stop else BEAT_S))

    def close(self) -> None:
        """Wait (shortly) until the members have read the verdict: closing on unread beats would reset the
        connection under it."""
        deadline = time.monotonic() + LINGER_S
        while any(node.link for node in self._nodes) and time.monotonic() < deadline:
            for key, events in self._host.selector.select(0.1):
                key.data(events)
        self._listener.close()
