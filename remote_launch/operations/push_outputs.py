"""Copy one server's outputs to the others: they come here, as by rl pull, and go on from here. No server
needs a way to another one."""

from __future__ import annotations

import dataclasses
import os
import posixpath
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from remote_launch.errors import SyncError, UsageError, WorkspaceError
from remote_launch.operations.looking import look
from remote_launch.operations.outputs import differences, in_words, output_globs, per_node_globs
from remote_launch.operations.pull import Pulled, plan_pull, pull
from remote_launch.operations.sync import claim_workdir
from remote_launch.transport.rsync import rsync_push

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from remote_launch.core.globs import PathGlob
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.looking import File, Found, Look

_SAME_S = 2.0  # some filesystems keep no finer times


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """What goes from ``source`` to each target: the files that it lacks, or has otherwise."""

    source: str
    found: tuple[Found, ...]
    targets: Mapping[str, tuple[File, ...]]
    newer: Mapping[str, int]  # how many of them are newer there
    homes: Mapping[str, str | None]

    @property
    def size_bytes(self) -> dict[str, int]:
        return {name: sum(file.size_bytes for file in files) for name, files in self.targets.items()}

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "targets": [
                {
                    "server": name, "files": len(files), "size_bytes": self.size_bytes[name],
                    "newer": self.newer[name],
                    "paths": [file.path.encode("utf-8", "replace").decode() for file in files],
                }
                for name, files in self.targets.items()
            ],
        }  # fmt: skip


def plan_push(fleet: Fleet, source: str | None, targets: Sequence[str] = ()) -> PushPlan:
    """Ask all servers what they have. Without ``source`` it is the only one that has what others lack.
    Raises UsageError, and what a server answers."""
    globs = output_globs(fleet)
    if not globs:
        raise UsageError("the inventory names no outputs:", hint="outputs: [checkpoints/], docs/inventory.md")
    everyone = fleet.select()
    chosen = fleet.select(targets) if targets else everyone
    asked = {server.name: server for server in (*chosen, *(fleet.select([source]) if source else everyone))}
    looks = fleet.map(asked.values(), lambda server: look(fleet, server, globs))
    looks.raise_on_error("nothing was copied")
    seen = looks.values
    per_node = per_node_globs(fleet)
    source = source or _only_source({name: one.found for name, one in seen.items()}, per_node)
    found = seen[source].found
    if not all(one.whole for one in found):
        raise SyncError(
            f"{source}: there are more files under outputs: than can be listed",
            server=source,
            hint="name fewer of them in the inventory, or copy them by other means",
        )
    lacking = {
        server.name: _lacking(found, seen[server.name], per_node)
        for server in chosen
        if server.name != source
    }
    if not lacking:
        raise UsageError(f"{source} has no other server to copy to", hint="rl servers")
    for name, (files, _) in lacking.items():
        _check_target(name, seen[name], sum(file.size_bytes for file in files))
    return PushPlan(
        source=source,
        found=found,
        targets={name: tuple(files) for name, (files, _) in lacking.items()},
        newer={name: newer for name, (_, newer) in lacking.items()},
        homes={name: seen[name].home for name in lacking},
    )


def fetch_for_push(
    fleet: Fleet, plan: PushPlan, *, on_bytes: Callable[[str, int, int], None] | None = None
) -> Pulled:
    """Bring the source's outputs here, as rl pull does."""
    plans = plan_pull(fleet, fleet.select([plan.source]), output_globs(fleet), required=False)
    plans.raise_on_error("nothing was copied")
    pulled = pull(fleet, list(plans.values.values()), on_bytes=on_bytes)
    pulled.raise_on_error("nothing was copied")
    return pulled.values[plan.source]


def push(
    fleet: Fleet, plan: PushPlan, *, on_bytes: Callable[[str, int, int], None] | None = None
) -> Outcomes[Pulled]:
    """Send what ``fetch_for_push`` has brought to the targets; what is only there stays."""
    homes: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def send(server: Server) -> Pulled:
        claim_workdir(fleet, server)
        with homes[plan.homes[server.name] or server.name]:
            result = _send(fleet, plan, server, on_bytes)
        fleet.log(server.name, "push-outputs", files=result.files, size_bytes=result.size_bytes)
        return result

    return fleet.map([name for name, files in plan.targets.items() if files], send)


def _send(
    fleet: Fleet, plan: PushPlan, server: Server, on_bytes: Callable[[str, int, int], None] | None
) -> Pulled:
    local = fleet.project.outputs_dir / plan.source
    wanted = {file.path for file in plan.targets[server.name]}
    result = Pulled(server=server.name, local=local)
    for found in plan.found:
        names = [
            file.path
            for file in found.files
            # One may have gone from there before it came here.
            if _full(found, file) in wanted and os.path.lexists(local / found.folder / file.path)
        ]
        if not names:
            continue

        def tell(size_bytes: int, _: int, before: int = result.size_bytes) -> None:
            if on_bytes is not None:
                on_bytes(server.name, before + size_bytes, plan.size_bytes[server.name])

        sent = rsync_push(
            fleet.transport(server.name),
            local / found.folder,
            posixpath.join(server.workdir, found.folder).rstrip("/"),
            files_from=b"".join(os.fsencode(name) + b"\0" for name in names),
            compress=bool(fleet.inventory.sync.compress),
            on_progress=tell,
        )
        result = dataclasses.replace(
            result,
            files=result.files + sent.files,
            size_bytes=result.size_bytes + sent.size_bytes,
            literal_bytes=result.literal_bytes + sent.literal_bytes,
        )
    return result


def _only_source(seen: Mapping[str, Sequence[Found]], per_node: Sequence[PathGlob]) -> str:
    found = differences(seen, per_node=per_node)
    sources = {difference.newest for difference in found if difference.others}
    if not found:
        return next(iter(seen))
    if len(sources) == 1 and all(difference.others and difference.is_same for difference in found):
        return sources.pop()
    raise UsageError(f"whose outputs? {in_words(found)}", hint="name the server: rl push-outputs NAME")


def _full(found: Found, file: File) -> str:
    return posixpath.join(found.folder, file.path)


def _lacking(
    source: Sequence[Found], target: Look, per_node: Sequence[PathGlob]
) -> tuple[list[File], int]:
    """Return the files that a target lacks or has otherwise, by their paths in the workdir, and how many of
    the latter are newer there. What each node writes for itself stays where it is."""
    there = {_full(found, file): file for found in target.found for file in found.files}
    files: dict[str, File] = {}
    newer = 0
    for found in source:
        for file in found.files:
            path = _full(found, file)
            have = there.get(path)
            if path in files or any(glob.covers(path) for glob in per_node) or (
                have and have.size_bytes == file.size_bytes and abs(have.mtime - file.mtime) < _SAME_S
            ):
                continue
            files[path] = dataclasses.replace(file, path=path)
            newer += have is not None and have.mtime > file.mtime
    return list(files.values()), newer


def _check_target(name: str, seen: Look, size_bytes: int) -> None:
    if seen.running and size_bytes:
        raise WorkspaceError(
            name, "a job runs there: its outputs stay as they are", hint="rl job-list --rsync shows it"
        )
    if size_bytes > seen.free_bytes:
        raise SyncError(
            f"{name}: {size_bytes / 1e9:,.1f} GB are to come, and {seen.free_bytes / 1e9:,.1f} GB are free",
            server=name,
            hint="free some space there (rl clean), or name fewer outputs",
        )
