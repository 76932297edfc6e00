"""The other nodes' part in a launch: each keeps a connection to node 0, and stops by itself when it loses it.
See ``gang``."""

from __future__ import annotations

import errno
import selectors
import signal
import socket
import time

from . import procs
from .causes import OUTSIDE, choose_cause, counts, lost
from .gang import BEAT_S, EOF_PATIENCE_S, GANG_GRACE_S, Watched
from .gangturn import SILENCE_S
from .jobdir import Refusal, number, text
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
        self._left_over: int | None = 0 if settings.is_spare else None  # None: something runs here
        self._is_resting = settings.is_spare  # no attempt is under way here
        self._told_turn: dict[str, Any] | None = None  # how far our slots are, as node 0 knows it
        if host.turn is not None:
            self._left_over, self._is_resting = 0, True
        self._gone_at: float | None = None
        self._killed: dict[str, Any] | None = None
        self._stop: dict[str, Any] | None = None  # node 0's stop message
        self._lost: dict[str, Any] | None = None  # node 0 was lost
        self._lost_at = now
        self._went_alone = False  # this attempt was stopped here because node 0 was lost
        self._pause: dict[str, Any] | None = None  # it came while something still ran here

    # -- what the own node tells

    def child_ended(self, failure: dict[str, Any] | None, asked: bool) -> None:
        self._failure_at = (number(failure, "time") if failure else None) or time.time()
        self._ended = {"failure": failure, "asked": asked}
        self._tell_ended()

    def _tell_ended(self) -> None:
        if self._ended is not None:
            age_s = max(0.0, time.time() - self._failure_at)
            self._send("ended", {**self._ended, "age_s": age_s, "alone": self._went_alone})

    def tree_gone(self, left_over: int) -> None:
        self._left_over = left_over
        self._gone_at = time.monotonic()
        self._send("stopped", {"left_over": left_over})
        if self._pause is not None:
            self._rest(self._pause)

    def ask_for_stacks(self) -> None:
        """Node 0 alone judges that a launch has stalled."""

    def stalled(self, failure: dict[str, Any]) -> None:
        """See ``ask_for_stacks``."""

    def kill(self, kill: dict[str, Any]) -> None:
        """A person killed this node's job: the launch is to be killed."""
        self._killed = kill
        if self._left_over is not None:
            self._gone_at = time.monotonic()  # node 0 has this long to answer
        self._send("kill", kill)

    def leave(self) -> None:
        """This supervisor was told to stop, though not by rl, while nothing ran here."""
        self._send("left", {})
        if self._is_resting:
            self._end({"state": "FAILED", "note": OUTSIDE, "cause": (self._stop or {}).get("cause")})

    @property
    def may_go_on(self) -> bool:
        """True while another attempt may come, so that a kill has something to end even between two."""
        return self.verdict is None and (self._host.restarts.limit > 0 or self._settings.is_spare)

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
            self._joined, self._eof_at, self._heard_at, self._lost = True, None, link.heard_at, None
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
        self._told_turn = None
        if self._killed is not None:
            self._send("kill", self._killed)
        self._tell_ended()
        if self._left_over is not None:
            self._send("stopped", {"left_over": self._left_over})

    # -- decisions

    def _on_message(self, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind == "end":
            self._stop_here(signal.SIGTERM, min(self._host.grace_s, GANG_GRACE_S))
            self._end(message)
        elif kind == "go":
            self._on_go(message)
        elif kind == "slots":
            self._on_slots(message)
        if message.get("attempt") != self._host.attempt:
            return
        if kind == "pause" and not self._is_resting and self._left_over is None:
            self._pause = message
        elif kind == "pause" and not self._is_resting:
            self._rest(message)
        if kind == "stop":
            self._stop = message
            first = procs.signal_number(message.get("signal")) or signal.SIGTERM
            grace_s = number(message, "grace_s", GANG_GRACE_S)
            self._stop_here(first, GANG_GRACE_S if grace_s is None else grace_s)
        elif kind == "stacks":
            self._host.stalls.dump()

    def _on_slots(self, message: dict[str, Any]) -> None:
        if message.get("do") == "stand by":
            self._host.leave_queue("stands by as a spare")
        elif self._host.turn is not None:
            try:
                self._host.turn.do(message)
            except (Refusal, OSError) as error:
                self._send("left", {})
                self._end({"state": "FAILED", "note": f"the queue: {error}"})

    def _tell_turn(self) -> None:
        turn = self._host.turn
        if turn is None or self._host.attempt >= 0 or self._link is None or self._link.node is None:
            return
        state = turn.state()
        if state != self._told_turn:
            self._told_turn = state
            self._send("slots", state)

    def _stop_here(self, first: int, grace_s: float) -> None:
        if self._left_over is None:
            self._host.stop(first, grace_s)

    def _rest(self, message: dict[str, Any]) -> None:
        self._is_resting = True
        cause = message.get("cause")
        self._host.rest(cause if isinstance(cause, dict) else None, message)

    def _on_go(self, message: dict[str, Any]) -> None:
        """Begin the attempt that node 0 says, once: it says so again when the connection was broken."""
        attempt = message.get("attempt")
        if not isinstance(attempt, int) or attempt <= self._host.attempt or self._left_over is None:
            return
        if not self._is_resting:
            self._rest(message)
        place = dict(message)
        place["reason"] = None
        if self._settings.is_spare:
            place["reason"] = f"takes part as node {message.get('node_rank')}, in the place of a lost one"
        self._ended = self._left_over = self._gone_at = self._stop = self._lost = self._pause = None
        self._is_resting = self._went_alone = False
        self._host.begin(place)

    def _end(self, verdict: dict[str, Any]) -> None:
        """``verdict``: node 0's last message, or what is known here without it."""
        if self.verdict is None:
            cause, replaced = verdict.get("cause"), verdict.get("replaced")
            self.verdict = {
                "state": str(verdict.get("state")), "by": text(verdict, "by"), "note": text(verdict, "note"),
                "cause": cause if isinstance(cause, dict) else None,
                "replaced": replaced if isinstance(replaced, dict) else {},
            }
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
        self._tell_turn()
        if self._killed is not None and self._gone_at is not None and now - self._gone_at > KILL_PATIENCE_S:
            self._end({"state": "KILLED", "by": text(self._killed, "by")})
        elif self._lost is None and self._coordinator_is_lost(now):
            self._lost_at = now
            self._go_alone()
        elif self._lost is not None and now - self._lost_at > self._settings.join_timeout_s:
            self._judge_alone()

    def _coordinator_is_lost(self, now: float) -> bool:
        settings = self._settings
        queued = self._host.turn is not None and self._host.attempt < 0
        why = ""
        if not self._joined:
            if now - self._started_at > settings.join_timeout_s:
                where = f"{settings.address}:{settings.port}"
                why = f"it could not be reached at {where} within {settings.join_timeout_s:g} s"
        elif self._eof_at is not None and now - self._eof_at > EOF_PATIENCE_S:
            why = "its supervisor is gone, or the network to it"
        elif now - self._heard_at > (max(settings.silence_s, SILENCE_S) if queued else settings.silence_s):
            why = f"no word from it for {now - self._heard_at:.0f} s"
        if why:
            self._lost = lost(0, self._host.server_name(0), why, now - self._heard_at)
        return bool(why)

    def _go_alone(self) -> None:
        """Node 0 is lost: stop. Where there may be another attempt it is called for a while."""
        message = str((self._lost or {}).get("message"))
        self._host.log(message)
        self._stop_here(signal.SIGTERM, min(self._host.grace_s, GANG_GRACE_S))
        ended = self._killed is not None or (self._stop or {}).get("killed")
        if self._joined and self._host.restarts.limit and not ended and self._host.attempt >= 0:
            self._went_alone = True
            if self._link is not None:
                self._lose_link(self._link, LinkError("node 0 is silent"))
            self._host.say(f"{message}; stopped here, waiting for it for {self._settings.join_timeout_s:g} s")
        else:
            self._judge_alone()

    def _judge_alone(self) -> None:
        """Judge by what is known here: node 0's last word on the cause, or our own failure and the loss."""
        ended = self._ended or {}
        if self._killed is not None or (self._stop or {}).get("killed"):
            self._end({"state": "KILLED", "by": text(self._killed or self._stop or {}, "by")})
        elif (self._stop or {}).get("cause"):
            self._end({"state": "FAILED", "cause": (self._stop or {}).get("cause")})
        else:
            # What node 0 takes down with it here fails before it is missed.
            own = ended if counts(ended.get("failure"), bool(ended.get("asked"))) else {}
            failures = [failure for failure in (own.get("failure"), self._lost) if failure is not None]
            self._end({"state": "FAILED", "cause": choose_cause(failures)})

    def wait_s(self, now: float) -> float | None:
        times = [self._next_beat] + ([self._next_try] if self._link is None else [])
        return max(0.0, min(min(times) - now, BEAT_S / 4))

    def close(self) -> None:
        if self._link is not None:
            self._watched.drop(self._link)
