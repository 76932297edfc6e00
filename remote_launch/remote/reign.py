"""Who coordinates a launch, and what its attempts were agreed to be.

Node 0 coordinates at first, in reign 0. When it is lost the others choose a successor (see ``succession``),
who coordinates in a reign with a higher number. Each member gives its voice once a reign, and takes no orders
of a lower one.

Two trainings at once must never be, whatever is cut off from whatever, and however long somebody slept. So
every further attempt has a plan, which members take note of before it begins:

- An attempt begins when all its nodes have noted its plan, and half of all members; or, instead of these, all
  nodes of the attempt before, which the same coordinator had begun.
- A successor needs the voices of more than half of all members, so one of them knows the newest plan that may
  have been begun; and the voice of one of that plan's nodes. Who gives its voice has stopped, so that attempt
  gets on no more.
"""

from __future__ import annotations

from .jobdir import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from typing import Any, Callable

    from .gang import GangSettings

_LIMIT = 100_000  # of members, and of what a plan lists
_LONGEST_S = 1e10


class Plan:
    """``order``: the reign and the count of its plans; a later one counts more. ``placed``: the members that
    are node 0, 1 …; ``replaced``: the servers that are out, each with the spare that took its place;
    ``ages_s``: how long ago each of the restarts was that count."""

    def __init__(
        self, order: tuple[int, int], attempt: int, placed: list[int], replaced: dict[str, str],
        ages_s: list[float],
    ) -> None:
        self.order = order
        self.attempt = attempt
        self.placed = placed
        self.replaced = replaced
        self.ages_s = ages_s

    @classmethod
    def first(cls, settings: GangSettings) -> Plan:
        """Return what everybody knows without being told."""
        return cls((0, 0), 0, list(range(settings.nnodes)), {}, [])

    @classmethod
    def of(cls, told: Any, settings: GangSettings) -> Plan | None:
        """Return the plan that a message holds; None where it holds none."""
        if not isinstance(told, dict):
            return None
        replaced, ages_s, attempt = told.get("replaced"), told.get("ages_s"), number(told, "attempt")
        lists = [one if isinstance(one, list) else [] for one in (told.get("order"), told.get("placed"))]
        if len(lists[0]) != 2 or len(lists[1]) != settings.nnodes or attempt is None:
            return None
        if not all(type(one) is int and 0 <= one < _LIMIT for one in [*lists[0], *lists[1]]):
            return None
        if len(set(lists[1])) < settings.nnodes or max(lists[1]) >= settings.members:
            return None
        names = replaced if isinstance(replaced, dict) else {}
        ages = ages_s if isinstance(ages_s, list) else []
        return cls(
            (lists[0][0], lists[0][1]), int(attempt), lists[1],
            {str(gone): str(comes) for gone, comes in names.items()},
            [float(age) for age in ages[:_LIMIT] if type(age) in (int, float) and 0 <= age < _LONGEST_S],
        )

    def to_wire(self) -> dict[str, Any]:
        return {
            "order": list(self.order), "attempt": self.attempt, "placed": self.placed,
            "replaced": self.replaced, "ages_s": self.ages_s,
        }

    def out(self, members: int, server_name: Callable[[int], str]) -> set[int]:
        """Return the members whose place another one has taken."""
        return {member for member in range(members) if server_name(member) in self.replaced}

    def place(self, member: int, settings: GangSettings) -> dict[str, int] | None:
        """Return what a member is in this attempt; None for one that stands by."""
        return settings.place(self.placed.index(member)) if member in self.placed else None


def may_begin(plan: Plan, noted: AbstractSet[int], before: Plan, members: int) -> bool:
    """Whether an attempt may begin: ``noted`` by these members, after the one ``before``."""
    if not noted >= set(plan.placed) or not noted & set(before.placed):
        return False
    has_all = plan.order[0] == before.order[0] and noted >= set(before.placed)
    return has_all or 2 * len(noted) >= members


def may_succeed(
    voices: AbstractSet[int], newest: Plan, settings: GangSettings, out: AbstractSet[int] = frozenset()
) -> bool:
    """Whether who has these voices may coordinate, given the newest plan that they know; with somebody for
    every place, for else the lost coordinator is better waited for. ``out``: who takes no place any more."""
    if 2 * len(voices) <= settings.members or not voices & set(newest.placed):
        return False
    spares = [settings.nproc(member) for member in sorted(voices - set(newest.placed) - out)]
    for node, member in enumerate(newest.placed):
        if member in voices:
            continue
        if settings.nproc(node) not in spares:
            return False
        spares.remove(settings.nproc(node))
    return True


class Reign:
    """What one member knows. ``number``: the highest reign that it has given its voice in, or followed;
    ``voice``: who has it in that; ``leader``: who coordinates, or did; ``plan``: the newest; ``doors``: where
    the members listen."""

    def __init__(self, settings: GangSettings) -> None:
        self.number = 0
        self.voice = self.leader = 0
        self.plan = Plan.first(settings)
        self.doors: dict[int, tuple[str, int]] = {}
        self._settings = settings

    def give(self, number: int, member: int) -> None:
        """Give the voice of a reign."""
        self.number, self.voice = number, member

    def follow(self, number: int, leader: int) -> None:
        self.number, self.voice, self.leader = number, leader, leader

    def note(self, told: Any) -> Plan | None:
        """Take note of a plan as a message has it, unless a newer one is known, or it is not of the reign."""
        plan = Plan.of(told, self._settings)
        if plan is None or plan.order < self.plan.order or plan.order[0] != self.number:
            return None
        self.plan = plan
        return plan

    def see_doors(self, told: Any) -> None:
        """Given the table of a message {member: port}, take it for the newest."""
        ports = told if isinstance(told, dict) else {}
        for name, port in ports.items():
            member = int(name) if str(name).isdecimal() and len(str(name)) < 6 else -1
            if 0 <= member < len(self._settings.addresses) and type(port) is int and 0 < port < 65536:
                self.doors[member] = (self._settings.addresses[member], port)

    def lead(self) -> dict[str, Any]:
        """Return what the coordinator says of itself to each member."""
        ports = {str(member): port for member, (_, port) in self.doors.items()}
        return {"reign": self.number, "member": self.leader, "doors": ports}
