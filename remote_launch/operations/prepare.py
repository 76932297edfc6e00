"""Make servers ready: environment, code, packages. All servers at once; each step is told as it happens.

One round trip finds out what a server has; where nothing changed it is the only one. What is to be done
runs on the server, under a lock, by ``remote/prepare.py``."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.conda import find_conda_file
from remote_launch.core.environments.recipes import recipe_for
from remote_launch.core.environments.sources import find_source
from remote_launch.errors import RemoteLaunchError
from remote_launch.operations.downloads import Downloads
from remote_launch.operations.followed_recipe import StepResult
from remote_launch.operations.progress import Progress, Tell
from remote_launch.operations.provision import programs_to_send, run_recipe, supply
from remote_launch.operations.sync import SyncPlan, plan_sync, refuse_own_folder, refused_workdir, sync_server
from remote_launch.operations.told import mapping, text
from remote_launch.operations.verbs import call
from remote_launch.transport.rsync import rsync_push

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from remote_launch.core.environments.sources import Source
    from remote_launch.core.environments.steps import Recipe
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

PARTS = ("rsync", "setup", "update-packages")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrepareResult:
    """What was done on one server, and what it has now."""

    server: str
    steps: tuple[StepResult, ...]
    duration_s: float
    python: str  # the interpreter
    versions: dict[str, str | None]  # of python, torch and cuda
    shared_with: str | None = None  # the server whose home this one shares: what was made is made for both

    @property
    def unchanged(self) -> bool:
        return all(step.same for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "duration_s": round(self.duration_s, 3),
            "python": self.python,
            "versions": self.versions,
            "shared_with": self.shared_with,
            "unchanged": self.unchanged,
            "steps": [step.to_dict() for step in self.steps],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreparePlan:
    """What will be done, by server, in order: what ``--dry-run`` prints."""

    parts: tuple[str, ...]
    sync: SyncPlan
    recipes: dict[str, Recipe]
    sources: dict[str, Source | None]  # what the packages come from
    force: bool = False

    def to_dict(self) -> dict[str, Any]:
        servers: dict[str, list[dict[str, object]]] = {}
        for name, recipe in self.recipes.items():
            rows: list[dict[str, object]] = []
            if "rsync" in self.parts:
                rows.append(
                    {"step": "rsync", "files": len(self.sync.files), "size_bytes": self.sync.size_bytes}
                )
            if "setup" in self.parts:
                rows += [step.to_dict() for step in recipe.environment.steps]
            if "update-packages" in self.parts and recipe.packages is not None:
                rows += [step.to_dict() for step in recipe.packages.steps]
            servers[name] = rows
        return {"servers": servers, "warning": self.sync.warning}


def plan_prepare(
    fleet: Fleet, servers: Sequence[Server], parts: Sequence[str] = PARTS, *, force: bool = False
) -> PreparePlan:
    """Return the recipes of all servers. Reads the project; asks no server anything. Raises ConfigError."""
    sync = plan_sync(fleet)
    names = [file.path for file in sync.files]
    sources = {
        environment: (
            find_source(sync.root, names, environment),
            find_conda_file(sync.root, names, environment),
        )
        for environment in {server.environment for server in servers}
    }
    return PreparePlan(
        parts=tuple(parts),
        sync=sync,
        recipes={server.name: recipe_for(server, *sources[server.environment]) for server in servers},
        sources={server.name: sources[server.environment][0] for server in servers},
        force=force,
    )


def prepare(
    fleet: Fleet,
    servers: Sequence[Server],
    plan: PreparePlan,
    on_progress: Callable[[Progress], None],
    *,
    adopt: bool = False,
) -> Outcomes[PrepareResult]:
    """Carry the plan out on all servers at once. ``on_progress`` is called from several threads."""
    run = _Run(fleet, plan, on_progress, adopt=adopt)
    return fleet.map(servers, run.prepare)


class _Run:
    """One prepare of several servers."""

    def __init__(
        self, fleet: Fleet, plan: PreparePlan, on_progress: Callable[[Progress], None], *, adopt: bool
    ) -> None:
        self._fleet = fleet
        self._plan = plan
        self._on_progress = on_progress
        self._adopt = adopt
        self._run_id = uuid.uuid4().hex
        self._downloads = Downloads(fleet)
        # Servers may share a home: what is made there is made once, by whichever came first.
        self._homes: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._at: dict[str, str] = {}  # by home, the server that makes it
        self._made: set[str] = set()

    def prepare(self, server: Server) -> PrepareResult:
        tell = Tell(server.name, self._on_progress)
        try:
            result = self._prepare(server, tell)
        except RemoteLaunchError as error:
            tell.end("prepare", error.message.partition("\n")[0], error=True)
            raise
        tell.end("prepare", "nothing to do" if result.unchanged else "ready")
        return result

    def _prepare(self, server: Server, tell: Tell) -> PrepareResult:
        begun = time.monotonic()
        answer = self._check(server)
        if self._is_ready(answer) and not self._plan.force:
            return self._result(server, self._all_same(server), begun, answer)
        home = text(answer.get("home")) or server.name
        lock = self._homes[home]
        if not lock.acquire(blocking=False):
            tell.line("waiting", f"for {self._at.get(home, 'a server')}, which shares its home")
            lock.acquire()
        try:
            if home in self._made:  # another server of this run was here: is it truly the same folder?
                answer = self._check(server)
                if self._is_ready(answer):
                    answer["shared_with"] = self._at[home]  # who looked first need not be who made it
                    return self._result(server, self._all_same(server), begun, answer)
            self._at[home] = server.name
            steps = self._make(server, answer, tell)
            self._made.add(home)
        finally:
            lock.release()
        return self._result(server, steps, begun, answer)

    def _check(self, server: Server) -> dict[str, Any]:
        """Ask the server what it has. Raises WorkspaceError where the workdir is not for us."""
        refuse_own_folder(self._fleet, server)
        recipe = self._plan.recipes[server.name]
        request = {
            "op": "check",
            "claim": {
                "project_id": self._fleet.project.project_id,
                "project": self._fleet.inventory.name,
                "adopt": self._adopt,
                "create": True,
            },
            "manifest": {"digest": self._plan.sync.digest, "stats": self._plan.sync.stats},
            "recipe": {
                "python": recipe.python,
                "prefix": recipe.prefix,
                "parts": self._parts(recipe),
                "programs": programs_to_send(server, recipe),
            },
            "run": self._run_id,
            "server": server.name,
        }
        answer = call(self._fleet, server, "prepare", request)
        workspace = mapping(answer.get("workspace"))
        if workspace.get("status") == "refused":
            raise refused_workdir(server, workspace)
        return answer

    def _parts(self, recipe: Recipe) -> list[dict[str, object]]:
        """The recipe's parts that were asked for. The packages alone need an environment that is there."""
        parts: list[dict[str, object]] = []
        if "setup" in self._plan.parts or "update-packages" in self._plan.parts:
            parts.append({**recipe.environment.to_wire(), "only_check": "setup" not in self._plan.parts})
        if "update-packages" in self._plan.parts and recipe.packages is not None:
            parts.append(recipe.packages.to_wire())
        return parts

    def _is_ready(self, answer: dict[str, Any]) -> bool:
        parts = answer.get("parts")
        return (
            isinstance(parts, list)
            and all(part is True for part in parts)
            and (answer.get("files_same") is True or "rsync" not in self._plan.parts)
        )

    def _all_same(self, server: Server) -> list[StepResult]:
        plan, recipe = self._plan, self._plan.recipes[server.name]
        names = ["rsync"] if "rsync" in plan.parts else []
        if "setup" in plan.parts:
            names += [step.name for step in recipe.environment.steps]
        if "update-packages" in plan.parts and recipe.packages is not None:
            names += [step.name for step in recipe.packages.steps]
        return [StepResult(name=name, duration_s=0.0, line="", same=True) for name in names]

    def _make(self, server: Server, answer: dict[str, Any], tell: Tell) -> list[StepResult]:
        done: list[StepResult] = []
        plan, recipe = self._plan, self._plan.recipes[server.name]
        if "rsync" in plan.parts:
            done.append(self._sync(server, answer, tell))
        elif recipe.source_files:
            self._send_sources(server, recipe)
        parts = self._parts(recipe)
        if parts:
            supply(self._fleet, server, recipe, answer, tell)
            sent = self._downloads.send_ahead(server, recipe, answer, tell.line)
            rounds = [parts]
            if server.environment.offline and len(parts) > 1:
                # Wheels are chosen for the environment's own Python, so that has to be there first.
                rounds = [parts[:1], [{**parts[0], "only_check": True}, parts[1]]]
            for number, some in enumerate(rounds):
                if number:
                    self._send_wheels(server, answer, tell)
                request = {"recipe": {**_head(recipe), "parts": some}, "files": dict(recipe.files)}
                request["force"] = plan.force
                made = run_recipe(self._fleet, server, recipe, request, tell, self._downloads, sent)
                known = {step.name for step in done}
                done += [step for step in made.steps if step.name not in known]
                answer["versions"] = made.versions
        return done

    def _send_wheels(self, server: Server, answer: dict[str, Any], tell: Tell) -> None:
        from remote_launch.operations.offline import send_wheels  # pip's side: 25 ms that few need

        source = self._plan.sources[server.name]
        if source is not None:
            send_wheels(self._fleet, server, source, answer, tell, refresh=self._plan.force)

    def _send_sources(self, server: Server, recipe: Recipe) -> None:
        """The files that the packages are read from, as they are now."""
        names = [name.encode("utf-8", "surrogateescape") + b"\0" for name in recipe.source_files]
        root, transport = self._fleet.project.root, self._fleet.transport(server.name)
        rsync_push(transport, root, server.workdir, files_from=b"".join(names))

    def _sync(self, server: Server, answer: dict[str, Any], tell: Tell) -> StepResult:
        begun = time.monotonic()
        if answer.get("files_same") is True and not self._plan.force:
            return StepResult(name="rsync", duration_s=0.0, line="", same=True)
        tell.begin("rsync")
        result = sync_server(
            self._fleet,
            server,
            self._plan.sync,
            workspace=mapping(answer.get("workspace")),
            on_progress=lambda sent, percent: tell.line("rsync", f"{percent} %, {sent / 1e6:.1f} MB"),
        )
        size = result.bytes_sent
        sent = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB" if size >= 1e3 else "1 kB"
        noun = "file" if result.files_sent == 1 else "files"
        line = f"{result.files_sent} {noun}, {sent} sent" if result.files_sent else "nothing new"
        line += f", {result.deleted} deleted" if result.deleted else ""
        tell.end("rsync", line)
        return StepResult(name="rsync", duration_s=time.monotonic() - begun, line=line)

    def _result(
        self, server: Server, steps: list[StepResult], begun: float, answer: dict[str, Any]
    ) -> PrepareResult:
        versions = mapping(answer.get("versions"))
        return PrepareResult(
            server=server.name,
            steps=tuple(steps),
            duration_s=time.monotonic() - begun,
            python=self._plan.recipes[server.name].python,
            versions={name: text(versions.get(name)) for name in ("python", "torch", "cuda")},
            shared_with=text(answer.get("shared_with")),
        )


def _head(recipe: Recipe) -> dict[str, object]:
    return {"python": recipe.python, "prefix": recipe.prefix, "lock": recipe.lock}
