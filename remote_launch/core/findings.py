"""What a check of the servers has found, in words a user can act on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from remote_launch.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Level = Literal["ok", "note", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")  # an error: something won't work
_DETAILS_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check says of one server or more. ``message`` is a sentence without the servers' names, equal
    on servers that have the same; what differs on each (a size, a version) goes into ``detail``. Texts may
    hold what a server has told: clean them before they go to a terminal."""

    check: str  # its id, as in CHECKS
    servers: tuple[str, ...]
    level: Level
    message: str
    do: str | None = None  # the next step for the user
    detail: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for --json

    def to_dict(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "servers": list(self.servers),
            "level": self.level,
            "message": self.message,
            "detail": self.detail,
            "do": self.do,
            "data": dict(self.data),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check as the list of them shows it."""

    id: str
    group: str
    what: str


def fold(findings: Iterable[Finding]) -> list[Finding]:
    """Given findings, return them with those that say the same of several servers made one; in the order of
    their first."""
    groups: dict[tuple[str, str, str, str | None], list[Finding]] = {}
    for finding in findings:
        key = (finding.check, finding.level, finding.message, finding.do)
        groups.setdefault(key, []).append(finding)
    return [group[0] if len(group) == 1 else _fold_group(group) for group in groups.values()]


def _fold_group(group: list[Finding]) -> Finding:
    servers = tuple(dict.fromkeys(name for finding in group for name in finding.servers))
    data = {", ".join(finding.servers): dict(finding.data) for finding in group}
    return dataclasses.replace(group[0], servers=servers, detail=_details(group), data=data)


def _details(group: list[Finding]) -> str:
    """Return what is said of each: once where it is the same, else with the servers' names, and not too
    many."""
    by_text: dict[str, list[str]] = {}
    for finding in group:
        if finding.detail:
            by_text.setdefault(finding.detail, []).extend(finding.servers)
    if len(by_text) < 2:
        return next(iter(by_text), "")
    shown = [f"{text} ({', '.join(servers)})" for text, servers in by_text.items()]
    more = len(shown) - _DETAILS_SHOWN
    return ", ".join(shown[:_DETAILS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def worst(findings: Iterable[Finding]) -> Level:
    """Return the highest level among them, "ok" for none."""
    return LEVELS[max((LEVELS.index(finding.level) for finding in findings), default=0)]


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return warnings and errors, the worst first, else in their order."""
    bad = [finding for finding in findings if finding.level in ("warning", "error")]
    return sorted(bad, key=lambda finding: -LEVELS.index(finding.level))
