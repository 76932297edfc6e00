"""A server's graphics cards as data: what it told of them, and which of them a node uses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from remote_launch.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class CardProcess:
    """A process on a card. ``is_own`` is None where its owner can't be seen."""

    pid: int
    user: str
    is_own: bool | None
    memory_mb: int | None
    command: str = ""

    @property
    def words(self) -> str:
        memory = f"{self.memory_mb} MiB" if self.memory_mb is not None else ""
        return f"{self.command or 'a process'} ({', '.join(filter(None, (f'pid {self.pid}', memory)))})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card. ``busy`` says who else holds it, ``trouble`` what is wrong with it; None is well."""

    vendor: str
    index: int
    uuid: str
    name: str
    memory_total_mb: int | None = None
    memory_used_mb: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    busy: str | None = None
    trouble: str | None = None
    is_split: bool = False  # MIG: a program can use its devices only
    devices: tuple[tuple[str, str], ...] = ()  # of a split card: (name, uuid)
    processes: tuple[CardProcess, ...] = ()

    @property
    def why_not(self) -> str | None:
        """Why it isn't taken by itself; None when it is free."""
        if self.trouble:
            return f"card {self.index} {self.trouble}"
        return f"card {self.index} is held by {self.busy}" if self.busy else None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a server told of its cards, of what is wrong, and which its login environment shows (VISIBLE)."""

    cards: tuple[Card, ...] = ()
    problems: tuple[str, ...] = ()
    visible: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def of_vendor(self) -> tuple[Card, ...]:
        """Return the cards of one vendor: where there are two, that with the most memory."""
        sizes: dict[str, int] = {}
        for card in self.cards:
            sizes[card.vendor] = sizes.get(card.vendor, 0) + (card.memory_total_mb or 0) + 1
        best = max(sizes, key=lambda vendor: sizes[vendor], default="")
        return tuple(card for card in self.cards if card.vendor == best)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardChoice:
    """The cards of one node: ``count`` is what ``--nproc-per-node gpu`` makes of them. ``env`` is empty where
    rl leaves the choice to the script."""

    server: str
    count: int
    cards: tuple[Card, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reason: str = ""
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        cards = [{"index": card.index, "uuid": card.uuid, "name": card.name} for card in self.cards]
        return {"cards": cards, "count": self.count, "env": dict(self.env), "reason": self.reason}

    def to_choices(self) -> dict[str, Any]:
        """Return what a job's record keeps of it: nothing where nothing was chosen."""
        return {"gpus": self.to_dict()} if self.reason else {}
