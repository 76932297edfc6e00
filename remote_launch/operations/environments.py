"""What environment each server has: one round trip a server."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from remote_launch.core.jobs import iso
from remote_launch.operations.prepare import plan_prepare
from remote_launch.operations.told import epoch_s, mapping, number, text, texts
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.environments.steps import Recipe
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

_SIZE_TIMEOUT_S = 600.0
READY = "up_to_date"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentReport:
    """A server's environment as it is.

    ``state``: up_to_date; changed (the inventory asks for another one), packages_changed, packages_missing;
    unfinished (a prepare broke off), broken (its interpreter is gone), other_platform, foreign (a folder that
    rl has not made), absent."""

    server: str
    manager: str
    prefix: str | None
    python: str  # the interpreter
    state: str
    versions: dict[str, str | None]
    packages: int | None
    made_at: float | None
    size_bytes: int | None = None
    linked_bytes: int | None = None  # of it, what a cache has too
    shared_with: tuple[str, ...] = ()
    home: str | None = None

    def to_dict(self) -> dict[str, Any]:
        told = dataclasses.asdict(self)
        del told["home"]
        return {**told, "made_at": iso(self.made_at), "shared_with": list(self.shared_with)}


def describe_environments(
    fleet: Fleet, servers: Sequence[Server], *, sizes: bool = False
) -> Outcomes[EnvironmentReport]:
    """Ask all servers. ``sizes`` takes as long as their disks do: an environment with torch has 30,000
    files. Raises ConfigError."""
    recipes = plan_prepare(fleet, servers).recipes

    def ask(server: Server) -> EnvironmentReport:
        recipe = recipes[server.name]
        request = {"op": "describe", **question(recipe), "sizes": sizes}
        answer = call(fleet, server, "storage", request, timeout_s=_SIZE_TIMEOUT_S if sizes else 60)
        return _report(server, recipe, answer)

    return with_shared(fleet.map(servers, ask))


def question(recipe: Recipe) -> dict[str, Any]:
    """Given a recipe, return what a server must know to describe its environment."""
    parts = [recipe.environment, *([recipe.packages] if recipe.packages else [])]
    return {
        "prefix": recipe.prefix,
        "python": recipe.python,
        "parts": [{"mark": part.mark, "fingerprint": part.fingerprint} for part in parts],
    }


def with_shared(outcomes: Outcomes[EnvironmentReport]) -> Outcomes[EnvironmentReport]:
    """Say of each which others have the very same folder."""
    homes: dict[str, list[str]] = {}
    for name, report in outcomes.values.items():
        if report.home:
            homes.setdefault(report.home, []).append(name)

    def others(report: EnvironmentReport) -> EnvironmentReport:
        shared = tuple(name for name in homes.get(report.home or "", ()) if name != report.server)
        return dataclasses.replace(report, shared_with=shared)

    return type(outcomes)(
        outcome if outcome.value is None else dataclasses.replace(outcome, value=others(outcome.value))
        for outcome in outcomes
    )


def _report(server: Server, recipe: Recipe, answer: dict[str, Any]) -> EnvironmentReport:
    versions, size = mapping(answer.get("versions")), mapping(answer.get("size"))
    return EnvironmentReport(
        server=server.name,
        manager=recipe.manager,
        prefix=recipe.prefix,
        python=recipe.python,
        state=environment_state(answer),
        versions={name: text(versions.get(name)) for name in ("python", "torch", "cuda")},
        packages=number(answer.get("packages")),
        made_at=epoch_s(answer.get("made_at")),
        size_bytes=number(size.get("size_bytes")),
        linked_bytes=number(size.get("linked_bytes")),
        home=text(answer.get("home")),
    )


def environment_state(answer: Mapping[str, Any]) -> str:
    """Given what a server tells of the folder and of the marks in it, return the report's state."""
    folder = text(answer.get("state"))
    if folder == "foreign":
        return "foreign"
    made, *packages = texts(answer.get("parts")) or ["absent"]
    if made == "absent":
        return "unfinished" if folder == "there" else "absent"
    if made == "platform":
        return "other_platform"
    if text(answer.get("interpreter")) is None:
        return "broken"
    if made == "changed":
        return "changed"
    if packages and packages[0] != "done":
        return "packages_missing" if packages[0] == "absent" else "packages_changed"
    return READY
