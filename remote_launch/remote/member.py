"""The other nodes' part in a launch: each keeps a connection to node 0, and stops by itself when it loses it.
See ``gang``."""

from __future__ import annotations

import errno
import selectors
import signal
import socket
import time

from . import procs
from .gang import BEAT_S, EOF_PATIENCE_S, GANG_GRACE_S, Watched, counts, lost
from .jobdir import number, text
from .link import HANDSHAKE_S, Link, LinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .gang import GangSettings, Host

RETRY_S = 0.5
KILL_PATIENCE_S = 2.0  # a killed job waits no longer than this for the launch's verdict


class Member:
    """One node that is not node 0."""

    def __init__(self, settings: GangSettings, host: Host) -> None:
        self.verdict: dict[str, Any] | None = None
        self._settings = settings
        self._host = host
        self._watched = Watched(host.selector)
        self._link: Link | None = None
        self._joined = False
        now = time.monotonic()
        self._started_at = self._heard_at = now
        self._eof_at: float | None = None
        self._next_try = self._next_beat = now
        self._ended: dict[str, Any] | None = None  # our own end, as it was told
        self._failure_at = 0.0
        self._left_over: int | None = None
        self._gone_at: float | None = None
        self._killed: dict[str, Any] | None = None
        self._stop: dict[str, Any] | None = None  # node 0's stop message
        self._lost: dict[str, Any] | None = None  # node 0 was lost

    # -- what the own node tells

    def child_ended(self, failure: dict[str, Any] | None, asked: bool) -> None:
        self._failure_at = (number(failure, "time") if failure else None) or time.time()
        self._ended = {"failure": failure, "asked": asked}
        self._tell_ended()

    def _tell_ended(self) -> None:
        if self._ended is not None:
            self._send("ended", {**self._ended, "age_s": max(0.0, time.time() - self._failure_at)})

    def tree_gone(self, left_over: int) -> None:
        self._left_over = left_over
        self._gone_at = time.monotonic()
        self._send("stopped", {"left_over": left_over})

    def ask_for_stacks(self) -> None:
        """Node 0 alone judges that a launch has stalled."""

    def stalled(self, failure: dict[str, Any]) -> None:
        """See ``ask_for_stacks``."""

    def kill(self, kill: dict[str, Any]) -> None:
        """A person killed this node's job: the launch is to be killed."""
        self._killed = kill
        self._send("kill", kill)

    # -- the connection

    def _connect(self, now: float) -> None:
        self._next_try = now + RETRY_S
        settings = self._settings
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                settings.address, settings.port, type=socket.SOCK_STREAM
            )[0]
            sock = socket.socket(family, kind, proto)
        except OSError as error:
            self._host.log(f"node 0: {error}")
            return
        link = Link(sock, settings.launch, settings.token)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            link.close()
            return
        self._link = link
        self._watched.watch(link, lambda events: self._on_link(link, events))

    def _on_link(self, link: Link, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                link.flush()
                self._watched.update(link)
            if events & selectors.EVENT_READ:
                for line in link.lines():
                    self._on_line(link, line)
        except LinkError as error:
            self._lose_link(link, error)

    def _on_line(self, link: Link, line: bytes) -> None:
        node = self._settings.node
        if link.node is None and not link.has_answered:
            link.answer(line, node)
            self._watched.update(link)
        elif link.node is None:
            link.accept_welcome(line, node)
            self._host.log("joined node 0" + (" again" if self._joined else ""))
            self._joined, self._eof_at, self._heard_at = True, None, link.heard_at
            self._tell_all()
        else:
            message = link.open(line)
            self._heard_at = link.heard_at
            self._on_message(message)

    def _lose_link(self, link: Link, error: LinkError) -> None:
        self._watched.drop(link)
        if self._link is not link:
            return
        self._link = None
        if link.node is not None:
            self._host.log(f"connection to node 0 ended: {error}")
            self._eof_at = time.monotonic()

    def _send(self, kind: str, message: dict[str, Any]) -> None:
        link = self._link
        if link is None or link.node is None:
            return
        try:
            link.send(kind, {"attempt": self._host.attempt, **message})
            self._watched.update(link)
        except LinkError as error:
            self._lose_link(link, error)

    def _tell_all(self) -> None:
        """On a new connection: all that node 0 may have missed."""
        if self._killed is not None:
            self._send("kill", self._killed)
        self._tell_ended()
        if self._left_over is not None:
            self._send("stopped", {"left_over": self._left_over})

    # -- decisions

    def _on_message(self, message: dict[str, Any]) -> None:
        if message.get("attempt") != self._host.attempt:
            return
        if message.get("kind") == "stop":
            self._stop = message
            if self._left_over is None:
                first = procs.signal_number(message.get("signal")) or signal.SIGTERM
                grace_s = number(message, "grace_s", GANG_GRACE_S)
                self._host.stop(first, GANG_GRACE_S if grace_s is None else grace_s)
        elif message.get("kind") == "stacks":
            self._host.stalls.dump()
        elif message.get("kind") == "end":
            self._end(str(message.get("state")), text(message, "by"), message.get("cause"))

    def _end(self, state: str, by: str | None, cause: Any) -> None:
        if self.verdict is None:
            self.verdict = {"state": state, "by": by, "cause": cause if isinstance(cause, dict) else None}
        if self._link is not None:
            self._watched.drop(self._link)
            self._link = None

    def tick(self, now: float) -> None:
        if self.verdict is not None:
            return
        if self._link is not None and self._link.node is None and now - self._link.opened_at > HANDSHAKE_S:
            self._lose_link(self._link, LinkError("no handshake"))
        if self._link is None and now >= self._next_try:
            self._connect(now)
        if now >= self._next_beat:
            self._next_beat = now + BEAT_S
            self._send("beat", self._host.stalls.beat())
        if self._killed is not None and self._gone_at is not None and now - self._gone_at > KILL_PATIENCE_S:
            self._end("KILLED", text(self._killed, "by"), None)
        elif self._lost is None and self._coordinator_is_lost(now):
            self._go_alone()

    def _coordinator_is_lost(self, now: float) -> bool:
        settings = self._settings
        why = ""
        if not self._joined:
            if now - self._started_at > settings.join_timeout_s:
                where = f"{settings.address}:{settings.port}"
                why = f"it could not be reached at {where} within {settings.join_timeout_s:g} s"
        elif self._eof_at is not None and now - self._eof_at > EOF_PATIENCE_S:
            why = "its supervisor is gone, or the network to it"
        elif now - self._heard_at > settings.silence_s:
            why = f"no word from it for {now - self._heard_at:.0f} s"
        if why:
            self._lost = lost(0, self._host.server_name(0), why, now - self._heard_at)
        return bool(why)

    def _go_alone(self) -> None:
        """Node 0 is lost: stop, and judge by what is known here: its last word on the cause, or our own
        failure, or the loss."""
        self._host.log(str((self._lost or {}).get("message")))
        if self._left_over is None:
            self._host.stop(signal.SIGTERM, min(self._host.grace_s, GANG_GRACE_S))
        ended = self._ended or {}
        if self._killed is not None or (self._stop or {}).get("killed"):
            self._end("KILLED", text(self._killed or self._stop or {}, "by"), None)
        elif (self._stop or {}).get("cause"):
            self._end("FAILED", None, (self._stop or {}).get("cause"))
        elif counts(ended.get("failure"), bool(ended.get("asked"))):
            self._end("FAILED", None, ended.get("failure"))
        else:
            self._end("FAILED", None, self._lost)

    def wait_s(self, now: float) -> float | None:
        times = [self._next_beat] + ([self._next_try] if self._link is None else [])
        return max(0.0, min(min(times) - now, BEAT_S / 4))

    def close(self) -> None:
        if self._link is not None:
            self._watched.drop(self._link)
