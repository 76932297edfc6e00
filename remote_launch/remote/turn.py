"""A job's wait for its slots: in the line of its machine, until it is the first and enough are free.

What a job of the queue asks for is ``spec.queue``: {"need", "kind" ("slot", "gpu", or null: slots where the
server has ``slots``, else cards), "slots" (how many the inventory says that it has; null: none)}.
"""

from __future__ import annotations

import contextlib
import time

from . import gpus
from .jobdir import Refusal, text, write_atomic
from .slots import Slots, machine_of, slots_folder
from .tickets import Ticket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

LOOK_EVERY_S = (0.1, 0.2, 0.5, 1.0)  # by how many are ahead
CARDS_EVERY_S = 5.0  # asking the driver takes half a second of a core
_NOUNS = {"slot": "slot", "gpu": "card"}


def open_slots(spec: dict[str, Any], env: dict[str, str]) -> Slots:
    """Given the spec of a job that queues and its environment, return the slots that it may have. Raises
    Refusal where there will never be enough."""
    need, kind, count = _checked(spec["queue"])
    problems: list[str] = []
    if kind == "slot" or (kind is None and count):
        names = [str(number) for number in range(count or 0)]
        kind, usable, variable = "slot", names, ""
        where = "slots: of the server in the inventory says how many it has"
    else:
        kind, (names, usable, variable, problems) = "gpu", _cards(env)
        where = "rl servers --gpus shows them; for a queue without cards give the server slots: N"
    if need > len(usable):
        noun = _plural(need, _NOUNS[kind])
        has = f"has {len(names)}" if usable == names else f"may use {len(usable)} of {len(names)}"
        why = f"the job needs {noun}, and this server {'; '.join([has, *problems])}"
        raise Refusal("SlotsError", why, where)
    return Slots(slots_folder(env), kind, names, usable, variable)


def _checked(queue: Any) -> tuple[int, str | None, int | None]:
    need, kind, count = (queue.get(name) for name in ("need", "kind", "slots")) if isinstance(
        queue, dict
    ) else (None, None, None)
    if type(need) is not int or need < 1 or kind not in (None, "slot", "gpu"):
        raise Refusal("RequestError", "queue: how many slots, and of which kind?")
    if count is not None and (type(count) is not int or not 0 < count < 10_000):
        raise Refusal("RequestError", "queue: slots is not a number")
    return need, kind, count


def _cards(env: dict[str, str]) -> tuple[list[str], list[str], str, list[str]]:
    """Return the indices of all cards, of those that a job may have (whole ones that the environment leaves
    visible), the variable that does that, and what is wrong with the driver, in words."""
    told = gpus.survey()
    found = told["cards"]
    found = [card for card in found if card["vendor"] == found[0]["vendor"]]
    names = [str(card["index"]) for card in found]
    variable = gpus.SHOWS.get(found[0]["vendor"], "CUDA_VISIBLE_DEVICES") if found else ""
    shown = [(str(card["index"]), card) for card in found]
    hides = gpus.ROCR if gpus.ROCR in env and variable == gpus.SHOWS["amd"] else ""
    for name in (hides, variable):
        if name in env:
            shown = [(str(place), card) for place, card in enumerate(_named(env[name], shown))]
    # A program sees one part of a card that is split by MIG, and then no other card.
    usable = sorted({card["index"] for _, card in shown if not card["mig"]})
    return names, [str(index) for index in usable], hides or variable, told["problems"]


def _named(setting: str, cards: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the cards that a setting names, by number or uuid: all before the first word that names none."""
    found: list[dict[str, Any]] = []
    for word in (word.strip() for word in setting.split(",")):
        if word.isdigit():
            match = [card for number, card in cards if number == word]
        else:
            match = [card for _, card in cards if word and str(card["uuid"]).startswith(word)]
        if not match:
            break
        found += match[:1]
    return found


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


class Turn:
    """One job's way to its slots. It stands in the line after ``line_up``, or takes what is free after
    ``go_along``, by leave of another job of its launch that is the first in the line."""

    def __init__(self, slots: Slots, spec: dict[str, Any], log: Callable[[str], None]) -> None:
        self.slots = slots
        self.need = int(spec["queue"]["need"])
        self.has_slots = False
        self.ahead: int | None = None  # None: not in the line
        self.number: int | None = None
        self._taken_at: float | None = None
        self._note = {name: spec.get(name) for name in ("job_id", "launch_id", "server", "workdir")}
        self._note["command"] = str(spec.get("command") or "")[:500]
        self._note.update(need=self.need, since=time.time(), may_have=slots.usable)
        self._machine = machine_of(slots.folder)
        self._log = log
        self._ticket: Ticket | None = None
        self._since = time.monotonic()
        self._keeps_place = self._goes_along = False
        self._look_at = 0.0
        self._trouble = ""  # why it could not be looked
        self._cards_at = -CARDS_EVERY_S
        self._busy: dict[str, str] = {}  # cards that somebody else is using: who

    # -- as the supervisor has it; ``record`` is started.json

    def start(self, record: dict[str, Any], *, alone: bool) -> int:
        """Queue. A job alone may find its slots free: then it isn't queued at all. Return the number of the
        attempt, -1 for none yet. Raises Refusal, OSError."""
        self._since = time.monotonic()
        if alone:
            self.line_up()
            self.tick(self._since)
        if self.has_slots:
            record.update(self._taken())
            return 0
        record.update(started_at=None, queued=self.record())
        return -1

    def begin(self, record: dict[str, Any]) -> float:
        """The wait is over; return what the time is."""
        waited_s = time.monotonic() - self._since
        record.update(started_at=time.time(), queued=None, waited_s=waited_s, **self._taken())
        return float(record["started_at"])

    def _taken(self) -> dict[str, Any]:
        return {"slots": self.slots.held, "ticket": self.number, "taken_at": self._taken_at}

    def wait(self, now: float, record: dict[str, Any], path: str) -> None:
        """Look whether it is our turn, and have ``path`` show how it stands."""
        looks_at, trouble = self._look_at, self._trouble
        try:
            self.tick(now)
            if self._look_at != looks_at:
                trouble = ""
        except (Refusal, OSError) as error:
            trouble = f"the queue: {error}"
        if trouble and trouble != self._trouble:
            self._log(trouble)
        self._trouble = trouble
        if record.get("queued") and record["reason"] != self.words():
            record.update(reason=self.words(), queued=self.record())
            with contextlib.suppress(OSError):
                write_atomic(path, record, durable=False)

    # -- the way to the slots

    def line_up(self, *, keep: bool = False) -> None:
        """Take a place in the line. With ``keep`` it is given up by ``leave_line`` only, not with the slots.
        Raises Refusal, OSError."""
        if self._ticket is None and not self.has_slots:
            self._keeps_place = keep
            self._ticket = Ticket(self.slots.folder, self.slots.kind, self._note)
            self.number = self._ticket.number
            self._look_at = 0.0

    def go_along(self) -> None:
        self._goes_along = True
        self._look_at = 0.0

    def leave_line(self) -> None:
        if self._ticket is not None:
            self._ticket.drop()
            self._ticket = self.ahead = None

    def end(self) -> None:
        """Nothing of the job is left: others need not wait until its end has been told."""
        self.leave_line()
        self._give_back(self.slots.held)

    def tick(self, now: float) -> None:
        """Look whether it is our turn; where it is, take what is free."""
        self.slots.tick(now, *(self._ticket.paths if self._ticket else ()))
        if self.has_slots or now < self._look_at or not (self._ticket or self._goes_along):
            return
        self._look_at = now + LOOK_EVERY_S[-1]
        if self._ticket is not None:
            self.ahead = self._ticket.ahead()
        self._look_at = now + LOOK_EVERY_S[min(self.ahead or 0, len(LOOK_EVERY_S) - 1)]
        if self.ahead:  # it has lost its place; who is first now may need all that there is
            self._give_back(self.slots.held)
        if not self.ahead and self._take(now):
            self.has_slots, self._taken_at = True, time.time()
            self.slots.note({**self._note, "taken_at": self._taken_at, "ticket": self.number})
            self._log(f"has {_NOUNS[self.slots.kind]} {', '.join(self.slots.held)}")
            if not self._keeps_place:
                self.leave_line()

    def _take(self, now: float) -> bool:
        """Take free slots; what was taken is kept, for nobody else is to take any now."""
        self._fill()
        slots = self.slots
        if slots.kind == "gpu" and (len(slots.held) == self.need or self._busy):
            if now < self._cards_at + CARDS_EVERY_S:
                return False
            self._busy = gpus.in_use(gpus.cards(), slots.usable)
            self._cards_at = time.monotonic()
            self._give_back(name for name in slots.held if name in self._busy)
            self._fill()
        return len(slots.held) == self.need

    def _give_back(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.slots.give_back(name)

    def _fill(self) -> None:
        slots, had = self.slots, len(self.slots.held)
        for name in slots.usable:
            if len(slots.held) < self.need and name not in slots.held and name not in self._busy:
                slots.take(name)
        if len(slots.held) > had:
            slots.held.sort(key=slots.usable.index)
            slots.note(self._note)

    def wait_s(self, now: float) -> float | None:
        if self.has_slots or not (self._ticket or self._goes_along):
            return None
        return max(0.0, self._look_at - now)

    def words(self) -> str:
        """Say for people how it stands."""
        noun = _NOUNS[self.slots.kind]
        if self.has_slots:
            return f"has its {noun}s, waits for the other nodes"
        if self._trouble:
            return self._trouble
        if self.ahead:
            return _plural(self.ahead, "job") + " ahead"
        if self._ticket is None and not self._goes_along:
            return "waits for the launch's other nodes to get theirs first"
        usable = self.slots.usable
        which = _plural(len(usable), noun)
        if usable != self.slots.names:  # it is no use to it that others are free
            which = f"{which.partition(' ')[2]} {', '.join(usable)}"
        named = self.need == len(usable) < len(self.slots.names)
        wish = which if named else f"{self.need} of {which}"
        busy = [f"; {noun} {name} is used by {self._busy[name]}" for name in usable if name in self._busy]
        return f"next, waits for {wish}{''.join(busy)}"

    def record(self) -> dict[str, Any]:
        """Return what started.json has of it while it waits."""
        return {
            "need": self.need, "kind": self.slots.kind, "of": len(self.slots.usable), "ahead": self.ahead,
            "ticket": self.number, "since": self._note["since"],
        }

    def state(self) -> dict[str, Any]:
        """Return what node 0 is told of it (see ``gangturn``)."""
        return {
            "machine": f"{self._machine}/{self.slots.kind}", "need": self.need, "has": self.has_slots,
            "usable": self.slots.usable,
        }

    def do(self, message: dict[str, Any]) -> None:
        """Do what node 0 says."""
        what = text(message, "do")
        if what == "line up":
            self.line_up(keep=message.get("keep") is True)
        elif what == "go along":
            self.go_along()
        elif what == "leave line":
            self.leave_line()

    def variables(self) -> dict[str, str]:
        """Return what the job's environment says of its slots."""
        held = ",".join(self.slots.held)
        if self.slots.kind != "gpu":
            return {"RL_SLOTS": held}
        variables = {"RL_SLOTS": held, self.slots.variable: held}
        if self.slots.variable == "CUDA_VISIBLE_DEVICES":
            variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the driver's; CUDA's own puts the fastest first
        elif self.slots.variable == gpus.ROCR:
            variables[gpus.SHOWS["amd"]] = ",".join(map(str, range(len(self.slots.held))))
        return variables
