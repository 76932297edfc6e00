"""How the members of a launch that has lost its coordinator choose another one. See ``reign`` for why there
is never more than one that can begin an attempt.

Every member has a door, and knows those of the others from the coordinator. Who has lost the coordinator, and
stands still, calls them all. Who is alone gives its voice to the one of the lowest number, itself included,
that it finds alone too; and no second voice in the same reign. The others' answers say that they still have
a coordinator: then there is nothing to choose. A coordinator that was chosen meanwhile answers with "lead".

kind      from      fields                 says
--------  --------  ---------------------  -----------------------------------------------------------------
alone     caller    reign, plan            I have lost the coordinator; the highest reign that I gave my
                                           voice in, and the newest plan that I know
here      the door  alone, reign, member   whether I am alone as well; who coordinates
claim     the door  reign                  give me your voice, for this reign
voice     caller    reign, plan, attempt   you have it; and the last attempt that I have begun
kill      both      by, signal, grace_s    a person killed the launch

"here" and "alone" are said once a second. Each member waits only as long as for a lost node that may return;
a coordinator that is back before a voice was given is followed as if nothing had been.
"""

from __future__ import annotations

import selectors

from .calls import Call
from .door import Door
from .gang import BEAT_S, Watched
from .jobdir import Refusal, number
from .link import Link, LinkError
from .reign import Plan, may_succeed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from .gang import GangSettings, Host
    from .reign import Reign

    class Part(Protocol):
        """What a succession needs of its member. ``is_alone``: it has lost the coordinator, stands still, and
        may have another attempt."""

        @property
        def is_alone(self) -> bool: ...
        def give_up_leader(self) -> None: ...
        def follow(self, call: Call, message: dict[str, Any]) -> None: ...
        def succeed(self, links: list[Link], attempt: int) -> None: ...
        def kill(self, kill: dict[str, Any]) -> None: ...


class Succession:
    """One member's side, from the join to the end. It listens always, and calls while the member is alone."""

    def __init__(self, settings: GangSettings, host: Host, reign: Reign, part: Part) -> None:
        self.door: Door | None = None
        self._settings = settings
        self._host = host
        self._reign = reign
        self._part = part
        self._watched = Watched(host.selector)
        self._was_alone = False  # at the last tick
        self._is_over = False
        self._since = 0.0  # it has been alone, or not
        self._callers: dict[int, Link] = {}
        self._told: dict[int, dict[str, Any]] = {}  # the last "alone" of each caller
        self._calls: dict[int, Call] = {}
        self._alone: set[int] = set()  # of whom we call: who is alone
        self._voices: dict[int, dict[str, Any]] = {}  # that we were given, in the reign of our number
        self._next_beat = 0.0
        self._kill: dict[str, Any] | None = None  # by a person
        has_spares = settings.members > max(2, settings.nnodes)  # else nobody could take node 0's place
        if host.restarts.limit and has_spares and settings.address_of(settings.node):
            try:
                self.door = Door(settings, host, self._on_caller, (settings.address_of(settings.node), 0))
            except Refusal as refusal:
                host.log(f"no part in a choice of a coordinator but a voice: {refusal.message}")

    # -- those who call us

    def _on_caller(self, link: Link, lines: list[bytes]) -> None:
        member = link.node or 0
        old = self._callers.get(member)
        if old is not None:
            self._watched.drop(old)
        self._callers[member] = link
        self._told.pop(member, None)
        self._host.selector.modify(
            link.sock, selectors.EVENT_READ, lambda events: self._on_link(member, link, events)
        )
        self._answer(member, "here", self._here())
        if self._kill is not None:
            self._answer(member, "kill", self._kill)
        self._read(member, link, lines)

    def _on_link(self, member: int, link: Link, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                link.flush()
                self._watched.update(link)
            if events & selectors.EVENT_READ:
                self._read(member, link, link.lines())
        except LinkError:
            self._lose(member, link)

    def _read(self, member: int, link: Link, lines: list[bytes]) -> None:
        for line in lines:
            if self._callers.get(member) is not link:
                return  # it was lost, or followed by another one, meanwhile
            try:
                message = link.open(line)
            except LinkError:
                self._lose(member, link)
                return
            kind = message.get("kind")
            if kind == "alone":
                self._told[member] = message
            elif kind == "voice" and message.get("reign") == self._reign.number:
                self._voices[member] = message
            elif kind == "kill":
                self._part.kill(message)

    def _lose(self, member: int, link: Link) -> None:
        self._watched.drop(link)
        if self._callers.get(member) is link:
            del self._callers[member]
            self._told.pop(member, None)

    def _answer(self, member: int, kind: str, message: dict[str, Any]) -> None:
        link = self._callers.get(member)
        if link is None:
            return
        try:
            link.send(kind, message)
            self._watched.update(link)
        except LinkError:
            self._lose(member, link)

    def _here(self) -> dict[str, Any]:
        return {"alone": self._part.is_alone, "reign": self._reign.number, "member": self._reign.leader}

    # -- those whom we call

    def _on_door(self, call: Call) -> None:
        if self._kill is not None:
            call.send("kill", self._kill)
        else:
            call.send("alone", self._mine())

    def _mine(self) -> dict[str, Any]:
        return {"reign": self._reign.number, "plan": self._plan().to_wire()}

    def _plan(self) -> Plan:
        """Return the newest plan that we know, with the restarts as old as they are now."""
        self._reign.plan.ages_s = self._host.restarts.ages_s()
        return self._reign.plan

    def _on_answer(self, call: Call, message: dict[str, Any]) -> None:
        kind, reign = message.get("kind"), int(number(message, "reign") or 0)
        if kind == "lead" and reign >= self._reign.number:
            del self._calls[call.member]
            self._part.follow(call, message)
        elif kind == "here":
            (self._alone.add if message.get("alone") is True else self._alone.discard)(call.member)
        elif kind == "claim" and self._part.is_alone and call.member == self._first():
            self._on_claim(call, reign)
        elif kind == "kill":
            self._part.kill(message)

    def _on_claim(self, call: Call, reign: int) -> None:
        if reign > self._reign.number:
            self._give(reign, call.member)
        if reign == self._reign.number and self._reign.voice == call.member:
            call.send("voice", self._mine())

    def _give(self, reign: int, member: int) -> None:
        """Give our voice. From here on nobody of a lower reign is followed."""
        self._reign.give(reign, member)
        self._voices = {}
        self._host.log(f"reign {reign}: {self._host.server_name(member)} is to coordinate")
        self._part.give_up_leader()

    def _on_hung_up(self, call: Call, _: LinkError) -> None:
        self._alone.discard(call.member)

    # -- the choice

    def tick(self, now: float, *, calls: bool) -> None:
        """``calls``: this member has something to tell the others."""
        alone = self._part.is_alone
        if self.door is not None:
            self.door.tick(now)
        if alone != self._was_alone:
            self._was_alone = alone
            self._next_beat = self._since = now
        if calls and not self._calls:
            self._call_all()
        elif not calls:
            self._hang_up()
        for member, call in list(self._calls.items()):
            call.tick(now)
            if call.is_up and now - call.heard_at > self._settings.silence_s:
                self._alone.discard(member)
                call.drop("it is silent")
        is_due = now >= self._next_beat
        if is_due:
            self._next_beat = now + BEAT_S
            for call in list(self._calls.values() if alone else ()):
                call.send("alone", self._mine())
            for member in list(self._callers):
                self._answer(member, "here", self._here())
        if alone:
            self._choose(now, is_due=is_due)

    def _call_all(self) -> None:
        for member, where in self._reign.doors.items():
            if member not in (self._settings.node, self._reign.leader):
                self._calls[member] = Call(
                    self._settings, self._host, member, where, self._on_door, self._on_answer,
                    self._on_hung_up,
                )

    def _hang_up(self) -> None:
        for call in self._calls.values():
            call.close()
        self._calls = {}
        self._alone = set()

    def _first(self) -> int:
        """Return who is to coordinate, as far as we can see."""
        own = {self._settings.node} if self.door is not None else set()
        return min(self._alone | own, default=-1)

    def _choose(self, now: float, *, is_due: bool) -> None:
        """Ask for voices where we are the first, and enough would give theirs; with enough, coordinate."""
        own, reign = self._settings.node, self._reign
        if self._first() != own or self.door is None:
            return
        fresh = {
            member: told for member, told in self._told.items()
            if now - self._callers[member].heard_at <= self._settings.silence_s
        }
        voices = {member: told for member, told in self._voices.items() if member in fresh}
        if reign.voice == own and self._is_enough(voices):
            self._win(voices)
        elif is_due and now > self._since and self._is_enough(fresh):  # at first the others are called
            silent = [told for member, told in fresh.items() if member not in voices]
            others = [int(number(told, "reign") or 0) for told in silent]
            highest = max([reign.number, *others])
            if reign.voice != own or highest in others:  # ours, or theirs, is another's in this reign
                self._give(highest + 1, own)
            for member in fresh:
                self._answer(member, "claim", {"reign": reign.number})

    def _is_enough(self, told: dict[int, dict[str, Any]]) -> bool:
        newest = self._newest(told)
        out = newest.out(self._settings.members, self._host.server_name)
        return not self._host.restarts.is_spent(newest.ages_s) and may_succeed(
            {self._settings.node, *told}, newest, self._settings, out
        )

    def _newest(self, told: dict[int, dict[str, Any]]) -> Plan:
        plans = [Plan.of(message.get("plan"), self._settings) for message in told.values()]
        return max([self._plan(), *(plan for plan in plans if plan)], key=lambda plan: plan.order)

    def _win(self, voices: dict[int, dict[str, Any]]) -> None:
        self._is_over = True
        self._reign.plan = self._newest(voices)
        self._host.restarts.adopt(self._reign.plan.ages_s)
        attempts = [int(number(message, "attempt") or 0) for message in voices.values()]
        self._hang_up()
        links, self._callers = list(self._callers.values()), {}
        self._part.succeed(links, max([self._host.attempt, *attempts]))

    # -- the rest

    def spread(self, kill: dict[str, Any]) -> None:
        """Tell everybody that we have, or come to have, a connection to: a person killed the launch."""
        self._kill = {"by": kill.get("by"), "signal": kill.get("signal"), "grace_s": kill.get("grace_s")}
        for call in list(self._calls.values()):
            call.send("kill", self._kill)
        for member in list(self._callers):
            self._answer(member, "kill", self._kill)

    def wait_s(self, now: float) -> float:
        return 0.1 if self._calls else max(0.0, self._next_beat - now)

    def close(self) -> None:
        """Unless another part has the door and the links now."""
        self._hang_up()
        if not self._is_over and self.door is not None:
            for link in self._callers.values():
                self._watched.drop(link)
            self.door.close()
