"""Remove what rl keeps on servers: environments, code, the folders of ended jobs, caches."""

from __future__ import annotations

import dataclasses
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.recipes import recipe_for
from remote_launch.core.programs import archive_name
from remote_launch.errors import WorkspaceError
from remote_launch.operations.sync import refuse_own_folder
from remote_launch.operations.told import mapping, mappings, number, text
from remote_launch.operations.verbs import call, who

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.errors import RemoteLaunchError
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

KINDS = ("environment", "code", "jobs", "cache")
_TIMEOUT_S = 3600.0  # a folder of many files on a slow disk


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much there is of one kind. ``linked_bytes`` of it are a cache's too: they are freed with that."""

    files: int
    size_bytes: int
    linked_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What one server keeps, or what was removed of it, by kind. ``kept`` says why a kind is left alone."""

    server: str
    workdir: str
    amounts: dict[str, Amount]
    kept: dict[str, str]
    jobs: int = 0  # that have ended
    running: int = 0
    environment: str | None = None  # "there", "absent", "foreign", "existing": an interpreter that was there
    home: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "workdir": self.workdir,
            "environment": self.environment,
            "amounts": {kind: dataclasses.asdict(amount) for kind, amount in self.amounts.items()},
            "jobs_ended": self.jobs,
            "jobs_running": self.running,
            "kept": self.kept,
        }

    @property
    def error(self) -> RemoteLaunchError | None:
        """Return what was left alone as an error, None when nothing was."""
        if not self.kept:
            return None
        hint = "rl job-list shows the jobs, rl job-kill ends them" if self.running else None
        return WorkspaceError(self.server, self.kept_text, hint=hint)

    @property
    def kept_text(self) -> str:
        """Return what is left alone, and why."""
        by_reason: dict[str, list[str]] = {}
        for kind, reason in self.kept.items():
            by_reason.setdefault(reason, []).append(kind)
        return "; ".join(
            f"{' and '.join(kinds)} {'stay' if len(kinds) > 1 or kinds == ['jobs'] else 'stays'}: {reason}"
            for reason, kinds in by_reason.items()
        )


def measure(fleet: Fleet, servers: Sequence[Server], kinds: Collection[str] = KINDS) -> Outcomes[Stored]:
    """Ask all servers what they keep, and how much of it there is."""
    return fleet.map(servers, lambda server: _ask(fleet, server, "look", kinds))


def clean(
    fleet: Fleet, servers: Sequence[Server], kinds: Collection[str], homes: dict[str, str | None]
) -> Outcomes[Stored]:
    """Remove these kinds from all servers. ``homes`` is what ``measure`` found: of servers with the same
    folder one is at it at a time."""
    locks: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def remove(server: Server) -> Stored:
        with locks[homes.get(server.name) or server.name]:
            return _ask(fleet, server, "remove", kinds)

    return fleet.map(servers, remove)


def _ask(fleet: Fleet, server: Server, op: str, kinds: Collection[str]) -> Stored:
    refuse_own_folder(fleet, server)
    recipe = recipe_for(server, None)
    folder = recipe.environment.mark.rpartition("/")[0]
    request = {
        "op": op,
        "kinds": [kind for kind in KINDS if kind in kinds],
        "project_id": fleet.project.project_id,
        "project": fleet.inventory.name,
        "server": server.name,
        "archive": archive_name(),
        "who": who(),
        "prefix": recipe.prefix,
        "python": recipe.python,
        "lock": recipe.lock,
        "marks": [f"{folder}/.rl-packages", recipe.environment.mark],
    }
    answer = call(fleet, server, "storage", request, timeout_s=_TIMEOUT_S)
    amounts = mapping(answer.get("amounts"))
    return Stored(
        server=server.name,
        workdir=server.workdir,
        amounts={kind: _amount(mapping(amounts[kind])) for kind in KINDS if kind in amounts},
        kept={
            kind: text(item.get("why")) or "?"
            for item in mappings(answer.get("kept"))
            if (kind := text(item.get("kind"))) in KINDS and kind is not None
        },
        jobs=number(answer.get("ended_jobs")) or 0,
        running=len(mappings(answer.get("running"))),
        environment=text(answer.get("environment")),
        home=text(answer.get("home")),
    )


def _amount(told: dict[str, Any]) -> Amount:
    values = {name: max(0, number(told.get(name)) or 0) for name in ("files", "size_bytes", "linked_bytes")}
    return Amount(**values)
