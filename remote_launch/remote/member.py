"""The other nodes' part in a launch: each keeps a connection to the coordinator (node 0, or its successor),
and stops by itself when it loses it. See ``gang``."""

from __future__ import annotations

import signal
import time

from . import procs
from .calls import Call
from .causes import OUTSIDE, choose_cause, counts, lost
from .coordinator import Coordinator
from .gang import BEAT_S, EOF_PATIENCE_S, GANG_GRACE_S
from .gangturn import SILENCE_S, QueuedMember
from .jobdir import number, text
from .places import STANDS_BY, taken_place
from .reign import Reign
from .restarts import free_port
from .succession import Succession

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .gang import GangSettings, Host
    from .link import Link, LinkError

KILL_PATIENCE_S = 2.0  # a killed job waits no longer than this for the launch's verdict
UNHEARD_S = 2.5 * BEAT_S  # the coordinator may be lost: a kill is told to the others too
SPREAD_S = 5.0  # for that


class Member:
    """One node that does not coordinate."""

    is_coordinator = False
    has_last_word = False

    def __init__(self, settings: GangSettings, host: Host) -> None:
        self.verdict: dict[str, Any] | None = None
        self._settings = settings
        self._host = host
        self._reign = Reign(settings)
        where = settings.address, settings.port
        self._call = Call(settings, host, 0, where, self._on_came, self._on_said, self._on_hung_up)
        self._succession = Succession(settings, host, self._reign, self)
        self._joined = False
        now = time.monotonic()
        self._started_at = self._heard_at = now
        self._eof_at: float | None = None
        self._next_beat = now
        self._ended: dict[str, Any] | None = None  # our own end, as it was told
        self._failure_at = 0.0
        self._left_over: int | None = 0 if settings.is_spare else None  # None: something runs here
        self._is_resting = settings.is_spare  # no attempt is under way here
        self._queue = QueuedMember(host, self._send, self._end)
        if host.turn is not None:
            self._left_over, self._is_resting = 0, True
        self._gone_at: float | None = None
        self._killed: dict[str, Any] | None = None
        self._stop: dict[str, Any] | None = None  # the coordinator's stop message
        self._lost: dict[str, Any] | None = None  # the coordinator was lost
        self._lost_at = now
        self._went_alone = False  # this attempt was stopped here because the coordinator was lost
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
        """The coordinator alone judges that a launch has stalled."""

    def stalled(self, failure: dict[str, Any]) -> None:
        """See ``ask_for_stacks``."""

    def kill(self, kill: dict[str, Any]) -> None:
        """A person killed this node's job (or told another member so): the launch is to be killed."""
        if self._killed is None:
            self._succession.spread(kill)
        self._killed = kill
        if self._left_over is not None:
            self._gone_at = time.monotonic()  # the coordinator has this long to answer
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

    def _on_came(self, _: Call) -> None:
        self._host.log(f"joined {self._leader}" + (" again" if self._joined else ""))
        if self._lost is not None and self._settings.is_spare and self._is_resting:
            self._host.say(STANDS_BY)
        self._joined, self._eof_at, self._lost = True, None, None
        self._heard_at = time.monotonic()
        self._tell_all()

    def _on_said(self, call: Call, message: dict[str, Any]) -> None:
        self._heard_at = call.heard_at
        self._on_message(message)

    def _on_hung_up(self, _: Call, error: LinkError) -> None:
        self._host.log(f"connection to {self._leader} ended: {error}")
        self._eof_at = time.monotonic()

    def _send(self, kind: str, message: dict[str, Any]) -> None:
        self._call.send(kind, {**message, "sent_at": time.monotonic()})

    @property
    def _leader(self) -> str:
        return f"node {self._reign.leader}"

    def _tell_all(self) -> None:
        """On a new connection: all that the coordinator may have missed."""
        self._queue.joined()
        if self._succession.door is not None:
            self._send("door", {"port": self._succession.door.port})
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
            self._queue.heard(message)
        elif kind == "lead":
            self._see_doors(message)
        elif kind == "plan":
            self._on_plan(message)
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

    def _see_doors(self, message: dict[str, Any]) -> None:
        known = len(self._reign.doors)
        self._reign.see_doors(message.get("doors"))
        if len(self._reign.doors) != known:
            self._host.log(f"knows {len(self._reign.doors)} doors")

    def _on_plan(self, message: dict[str, Any]) -> None:
        plan = self._reign.note(message.get("plan"))
        if plan is not None:
            self._host.restarts.adopt(plan.ages_s)
            port = free_port(self._settings.address_of(self._settings.node))
            self._send("agree", {"order": list(plan.order), "port": port})

    def _stop_here(self, first: int, grace_s: float) -> None:
        if self._left_over is None:
            self._host.stop(first, grace_s)

    def _rest(self, message: dict[str, Any]) -> None:
        self._is_resting = True
        cause = message.get("cause")
        self._host.rest(cause if isinstance(cause, dict) else None, message)

    def _on_go(self, message: dict[str, Any]) -> None:
        """Begin the attempt that the coordinator says, once: it says so again after a broken connection."""
        attempt = message.get("attempt")
        if not isinstance(attempt, int) or attempt <= self._host.attempt or self._left_over is None:
            return
        if not self._is_resting:
            self._rest(message)
        place = dict(message)
        place["reason"] = taken_place(message.get("node_rank")) if self._settings.is_spare else None
        self._ended = self._left_over = self._gone_at = self._stop = self._lost = self._pause = None
        self._is_resting = self._went_alone = False
        self._host.begin(place)

    def _end(self, verdict: dict[str, Any]) -> None:
        """``verdict``: the coordinator's last message, or what is known here without it."""
        if self.verdict is None:
            cause, replaced = verdict.get("cause"), verdict.get("replaced")
            self.verdict = {
                "state": str(verdict.get("state")), "by": text(verdict, "by"), "note": text(verdict, "note"),
                "cause": cause if isinstance(cause, dict) else None,
                "replaced": replaced if isinstance(replaced, dict) else {},
            }
        self._call.close()

    def tick(self, now: float) -> None:
        if self.verdict is not None:
            return
        self._call.tick(now)
        if now >= self._next_beat:
            self._next_beat = now + BEAT_S
            self._send("beat", self._host.stalls.beat())
        if self._call.is_up:
            self._queue.tell()
        is_unheard = not self._call.is_up or now - self._heard_at > UNHEARD_S
        patience_s = KILL_PATIENCE_S + (SPREAD_S if is_unheard and self._reign.doors else 0.0)
        if self._killed is not None and self._gone_at is not None and now - self._gone_at > patience_s:
            self._end({"state": "KILLED", "by": text(self._killed, "by")})
        elif self._lost is None and self._coordinator_is_lost(now):
            self._lost_at = now
            self._go_alone()
        elif self._lost is not None and now - self._lost_at > self._settings.join_timeout_s:
            self._judge_alone()
        if self.verdict is None:
            is_calling = self.is_alone or (self._killed is not None and is_unheard)
            self._succession.tick(now, calls=is_calling)

    @property
    def is_alone(self) -> bool:
        """True while it has lost the coordinator, stands still, and may have another attempt."""
        stands_still = self._went_alone and self._left_over == 0
        has_end = self._killed is not None or self.verdict is not None
        return stands_still and self._lost is not None and not has_end

    def give_up_leader(self) -> None:
        """Our voice is another's: who is back now is too late."""
        self._call.close()

    def follow(self, call: Call, message: dict[str, Any]) -> None:
        """Another member coordinates now."""
        self._call.close()
        self._reign.follow(int(number(message, "reign") or 0), call.member)
        self._see_doors(message)
        self._call = call
        call.hand_over(self._on_came, self._on_said, self._on_hung_up)
        self._on_came(call)

    def succeed(self, links: list[Link], attempt: int) -> None:
        """Coordinate: the others have given their voices. ``attempt``: the newest that one of them has
        begun."""
        gone, own = self._reign.leader, self._settings.node
        self._reign.leader = own
        self._host.log(f"reign {self._reign.number}: coordinates in the place of node {gone}")
        if attempt > self._host.attempt:
            self._host.stand_by(attempt)
        gang = Coordinator(self._settings, self._host, self._reign, self._succession.door)
        self._host.coordinate(gang)
        gang.succeed(self._lost or {}, gone, links)
        if self._ended is not None:
            gang.child_ended(self._ended["failure"], self._ended["asked"])

    def _coordinator_is_lost(self, now: float) -> bool:
        settings = self._settings
        silence_s = max(settings.silence_s, SILENCE_S) if self._queue.waits else settings.silence_s
        why = ""
        if not self._joined:
            if now - self._started_at > settings.join_timeout_s:
                where = f"{settings.address}:{settings.port}"
                why = f"it could not be reached at {where} within {settings.join_timeout_s:g} s"
        elif self._eof_at is not None and now - self._eof_at > EOF_PATIENCE_S:
            why = "its supervisor is gone, or the network to it"
        elif now - self._heard_at > silence_s:
            why = f"no word from it for {now - self._heard_at:.0f} s"
        if why:
            leader = self._reign.leader
            rank = (self._reign.plan.place(leader, settings) or {}).get("node_rank", leader)
            self._lost = lost(rank, self._host.server_name(leader), why, now - self._heard_at)
        return bool(why)

    def _go_alone(self) -> None:
        """The coordinator is lost: stop. Where there may be another attempt it is called for a while."""
        message = str((self._lost or {}).get("message"))
        self._host.log(message)
        if self._killed is None and (self._stop or {}).get("killed"):
            self.kill(self._stop or {})  # some may not have been told
        self._stop_here(signal.SIGTERM, min(self._host.grace_s, GANG_GRACE_S))
        if not self._joined or not self._host.restarts.limit or self._host.attempt < 0:
            self._judge_alone()
        elif self._killed is None:
            self._went_alone = True
            if self._call.is_up:
                self._call.drop(f"{self._leader} is silent")
            self._host.say(f"{message}; stopped here, waiting for it for {self._settings.join_timeout_s:g} s")

    def _judge_alone(self) -> None:
        """Judge by what is known here: the coordinator's last word on the cause, or our own failure and the
        loss."""
        ended = self._ended or {}
        if self._killed is not None or (self._stop or {}).get("killed"):
            self._end({"state": "KILLED", "by": text(self._killed or self._stop or {}, "by")})
        elif (self._stop or {}).get("cause"):
            self._end({"state": "FAILED", "cause": (self._stop or {}).get("cause")})
        else:
            # What the coordinator takes down with it here fails before it is missed.
            own = ended if counts(ended.get("failure"), bool(ended.get("asked"))) else {}
            failures = [failure for failure in (own.get("failure"), self._lost) if failure is not None]
            self._end({"state": "FAILED", "cause": choose_cause(failures)})

    def wait_s(self, now: float) -> float | None:
        if self.verdict is not None:
            return None
        times = [self._next_beat] + ([self._call.next_try] if self._call.is_down else [])
        return max(0.0, min(min(times) - now, BEAT_S / 4, self._succession.wait_s(now)))

    def close(self) -> None:
        self._call.close()
        self._succession.close()
