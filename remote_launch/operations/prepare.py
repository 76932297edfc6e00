"""Make servers ready: environment, code, packages. All servers at once; each step is told as it happens."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from remote_launch.core.environments import (
    Step,
    environment_python,
    hint_for,
    package_steps,
    requirements_file,
    setup_steps,
)
from remote_launch.errors import CommandError, PrepareError, last_lines
from remote_launch.operations.sync import SyncPlan, claim_workdir, plan_sync, sync_server
from remote_launch.transport.command import Command, quote_path
from remote_launch.transport.programs_here import uv_here
from remote_launch.transport.rsync import rsync_push

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

PARTS = ("setup", "rsync", "update-packages")
_UV_PLACES = "~/.local/bin/uv", "~/.cargo/bin/uv"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Something that happened on a server: a step began (``text`` empty), printed a line, or ended."""

    server: str
    step: str
    text: str = ""
    ended: bool = False
    error: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrepareResult:
    """What was done on one server."""

    server: str
    steps: tuple[tuple[str, float, str], ...]  # name, seconds, last line
    duration_s: float
    python: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "duration_s": round(self.duration_s, 3),
            "python": self.python,
            "steps": [
                {"step": name, "duration_s": round(seconds, 3), "last_line": line}
                for name, seconds, line in self.steps
            ],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreparePlan:
    """What will be done, by server, in order: what ``--dry-run`` prints."""

    parts: tuple[str, ...]
    sync: SyncPlan
    setup: dict[str, list[Step]]
    packages: dict[str, list[Step]]

    def to_dict(self) -> dict[str, Any]:
        servers: dict[str, list[dict[str, object]]] = {}
        for name in self.setup:
            rows: list[dict[str, object]] = []
            if "setup" in self.parts:
                rows += [step.to_dict() for step in self.setup[name]]
            if "rsync" in self.parts:
                rows.append(
                    {"step": "rsync", "files": len(self.sync.files), "size_bytes": self.sync.size_bytes}
                )
            if "update-packages" in self.parts:
                rows += [step.to_dict() for step in self.packages[name]]
            servers[name] = rows
        return {"servers": servers, "warning": self.sync.warning}


def plan_prepare(fleet: Fleet, servers: Sequence[Server], parts: Sequence[str] = PARTS) -> PreparePlan:
    """Return the steps for every server. Reads the project; asks no server anything. Raises ConfigError."""
    sync = plan_sync(fleet)
    environment = fleet.inventory.environment
    requirements = requirements_file(environment, [file.path for file in sync.files])
    return PreparePlan(
        parts=tuple(parts),
        sync=sync,
        setup={server.name: setup_steps(server, environment) for server in servers},
        packages={server.name: package_steps(server, environment, requirements) for server in servers},
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
    return fleet.map(servers, lambda server: _prepare_server(fleet, server, plan, on_progress, adopt=adopt))


def _prepare_server(
    fleet: Fleet, server: Server, plan: PreparePlan, on_progress: Callable[[Progress], None], *, adopt: bool
) -> PrepareResult:
    begun = time.monotonic()
    done: list[tuple[str, float, str]] = []
    claim_workdir(fleet, server, adopt=adopt)
    for part in plan.parts:
        if part == "rsync":
            done.append(_sync_step(fleet, server, plan, on_progress, adopt=adopt))
            continue
        for step in plan.setup[server.name] if part == "setup" else plan.packages[server.name]:
            done.append(_run_step(fleet, server, step, on_progress))  # noqa: PERF401
    return PrepareResult(
        server=server.name,
        steps=tuple(done),
        duration_s=time.monotonic() - begun,
        python=environment_python(server, fleet.inventory.environment),
    )


def _sync_step(
    fleet: Fleet, server: Server, plan: PreparePlan, on_progress: Callable[[Progress], None], *, adopt: bool
) -> tuple[str, float, str]:
    name, begun = "rsync", time.monotonic()
    on_progress(Progress(server=server.name, step=name))
    result = sync_server(
        fleet,
        server,
        plan.sync,
        adopt=adopt,
        on_progress=lambda sent, percent: on_progress(
            Progress(server=server.name, step=name, text=f"{percent} %, {sent / 1e6:.1f} MB")
        ),
    )
    size = result.bytes_sent
    sent = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"
    noun = "file" if result.files_sent == 1 else "files"
    line = f"{result.files_sent} {noun}, {sent} sent" if result.files_sent else "nothing new"
    line += f", {result.deleted} deleted" if result.deleted else ""
    on_progress(Progress(server=server.name, step=name, text=line, ended=True))
    return name, time.monotonic() - begun, line


def _run_step(
    fleet: Fleet, server: Server, step: Step, on_progress: Callable[[Progress], None]
) -> tuple[str, float, str]:
    begun = time.monotonic()
    on_progress(Progress(server=server.name, step=step.name))
    env = dict(step.env)
    if step.needs_uv:
        env["UV"] = _find_uv(fleet, server, on_progress, step.name)
    path = fleet.log_file(server.name, step.name)
    lines: list[str] = []
    with path.open("wb") as file:
        held = {1: b"", 2: b""}  # a line that the next chunk goes on with, by stream

        def on_output(chunk: bytes, stream: int) -> None:
            file.write(chunk)
            *whole, held[stream] = (held[stream] + chunk.replace(b"\r", b"\n")).split(b"\n")
            for line in whole:
                text = line.decode("utf-8", "replace").strip()
                if text:
                    lines.append(text)
                    del lines[:-200]
                    on_progress(Progress(server=server.name, step=step.name, text=text))

        command = Command(step.args, cwd=server.workdir, env=env, shell=step.script, label=step.name)
        done = fleet.transport(server.name).run(
            command, on_stdout=lambda chunk: on_output(chunk, 1), on_stderr=lambda chunk: on_output(chunk, 2)
        )
        for stream in held:
            on_output(b"\n", stream)
    seconds = time.monotonic() - begun
    fleet.log(
        server.name, step.name, exit_code=done.exit_code, duration_s=round(seconds, 3), output=path.name
    )
    if not done.ok:
        output = "\n".join(lines)
        on_progress(
            Progress(
                server=server.name,
                step=step.name,
                text=lines[-1] if lines else "failed",
                ended=True,
                error=True,
            )
        )
        raise PrepareError(
            server.name,
            step.name,
            f"exit code {done.exit_code}\n{last_lines(output, 12)}",
            tail=last_lines(output),
            hint=hint_for(step, output) or f"the whole output: {path}",
        )
    line = lines[-1] if lines else "done"
    on_progress(Progress(server=server.name, step=step.name, text=line, ended=True))
    return step.name, seconds, line


def _find_uv(fleet: Fleet, server: Server, on_progress: Callable[[Progress], None], step: str) -> str:
    """Return the path of uv on the server; where it has none, send this machine's own."""
    sent = f"{server.workdir}/.rl/bin/uv"
    transport = fleet.transport(server.name)
    look = (
        'for p in uv "$@"; do '
        'q=$(command -v "$p") && "$q" --version >/dev/null 2>&1 && { echo "$q"; exit 0; }; '
        "done; uname -sm; exit 1"
    )
    found = transport.run(Command([*_UV_PLACES, sent], shell=look, label="look for uv"), timeout_s=30)
    if found.ok:
        return found.text.splitlines()[-1]
    import platform

    here, there = f"{platform.system()} {platform.machine()}", (found.text.splitlines() or ["?"])[-1]
    mine = uv_here()
    if mine is None or here != there:
        why = (
            "this machine has none either"
            if mine is None
            else f"this machine's is for {here}, the server is {there}"
        )
        raise PrepareError(
            server.name,
            step,
            f"uv is not on the server, and {why}",
            hint="pip install uv (here, or on the server), or set environment.manager: venv",
        )
    on_progress(Progress(server=server.name, step=step, text="sending uv"))
    rsync_push(transport, mine.parent, f"{server.workdir}/.rl/bin", files_from=mine.name.encode() + b"\0")
    check = transport.run(
        Command([], shell=f"{quote_path(sent)} --version && echo {quote_path(sent)}", label="uv --version"),  # noqa: S604
        timeout_s=30,
    )
    try:
        return check.check("the uv that was sent does not run there").text.splitlines()[-1]
    except CommandError as error:
        raise PrepareError(
            server.name,
            step,
            error.message,
            hint="install uv on the server, or set environment.manager: venv",
        ) from error
