"""The checks of ``rl doctor``: their names, in the order in which they are shown."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from remote_launch.core.findings import Check, Finding, Level
from remote_launch.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from remote_launch.core.inventory import Server

NETWORK = "Between the servers"
CHECKS = (
    Check(id="ssh", group="Connection", what="the login, and how long it takes"),
    Check(id="login-shell", group="Connection", what="start-up files that print: they break rsync"),
    Check(id="clock", group="Connection", what="the server's clock against this computer's"),
)
ALL_REDUCE = "all-reduce"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What is known of one server: its answer (untrusted), and how that came."""

    server: Server
    facts: Mapping[str, Any]
    connect_s: float
    trip_s: float  # a command there and back
    noise: str  # what the login shell printed on stdout
    asked_at: float  # on this computer's clock
    answered_at: float

    def finding(
        self, check: str, level: Level, message: str, *, do: str | None = None, detail: str = "", **data: Any
    ) -> Finding:
        """Return a finding about this server alone."""
        return Finding(
            check=check,
            servers=(self.server.name,),
            level=level,
            message=message,
            do=do,
            detail=detail,
            data=data,
        )


def chosen_checks(only: Iterable[str]) -> frozenset[str]:
    """Given the names of checks (none: all), return them. Raises UsageError for one that there isn't."""
    known = [check.id for check in CHECKS]
    names = frozenset(only)
    for name in sorted(names - set(known)):
        raise UsageError(
            f"no check {name!r}{did_you_mean(name, known)}", hint=f"rl doctor --list: {', '.join(known)}"
        )
    return names or frozenset(known)
