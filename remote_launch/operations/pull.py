"""Bring files of the servers here: what a path there means is asked of each server, and rsync brings it into
a folder a server, since two nodes write the same names.

What a server answers names files to be written here: it is held against what was asked for."""

from __future__ import annotations

import dataclasses
import os
import posixpath
import shutil
from typing import TYPE_CHECKING, Any

from remote_launch.core.globs import parse_glob
from remote_launch.errors import SyncError, UsageError, did_you_mean
from remote_launch.operations.looking import Look, look
from remote_launch.transport.rsync import rsync_pull

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from remote_launch.core.globs import PathGlob
    from remote_launch.core.inventory import Server
    from remote_launch.errors import RemoteLaunchError
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.looking import Found

_OWN = ("/.rl", "/.jobs", "/.remote-scripts")
# As for logs: a confused rsync at the other end can make both wait for each other.
_PATIENCE_S = 120.0
_SLOWEST_BYTES_PER_S = 50_000
_LONGEST_S = 7 * 86_400.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One call of rsync: ``names`` in the folder ``source`` of the server, or all of it for none."""

    source: str
    dest: Path
    names: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    follow_links: bool = False  # a file that was named itself

    @property
    def files_from(self) -> bytes | None:
        if not self.names:
            return None
        return b"".join(os.fsencode(name) + b"\0" for name in self.names)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PullPlan:
    """What comes from one server: ``files`` and ``size_bytes`` are what is new or changed there."""

    server: str
    local: Path
    pieces: tuple[Piece, ...]
    found: tuple[Found, ...]
    same_as: str | None = None  # another server, whose folder this is too
    names: tuple[str, ...] = ()  # of the files that would come, relative to ``local``
    files: int = 0
    size_bytes: int = 0

    @property
    def files_there(self) -> int:
        """How many there are on the server, new or not; what is excluded counts too."""
        return sum(found.count - len(found.links_out) for found in self.found)

    def to_dict(self) -> dict[str, Any]:
        shown = [name.encode("utf-8", "replace").decode() for name in self.names]
        return {
            "server": self.server, "local": str(self.local), "files": self.files,
            "size_bytes": self.size_bytes, "files_there": self.files_there, "same_as": self.same_as,
            "paths": shown,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What came from one server. ``literal_bytes`` travelled; the rest was here already. ``files_there``
    are all that the server has of it."""

    server: str
    local: Path
    files: int = 0
    files_there: int = 0
    size_bytes: int = 0
    literal_bytes: int = 0
    same_as: str | None = None
    links_out: tuple[str, ...] = ()  # links that lead out of what was asked for: not brought

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "local": str(self.local), "links_out": list(self.links_out)}


def parse_place(fleet: Fleet, text: str) -> tuple[str | None, str]:
    """Given "SERVER:PATH" or "PATH", return both. Raises UsageError for a server that there isn't: a path
    with a colon begins with ./"""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name.startswith("~"):
        return None, text
    known = fleet.inventory.servers
    if name not in known:
        raise UsageError(
            f"{text}: no server {name!r}{did_you_mean(name, known)}",
            hint=f"known servers: {', '.join(known)}; for a path with a colon: ./{text}",
        )
    return name, path


def plan_pull(
    fleet: Fleet,
    servers: Sequence[Server],
    globs: Sequence[PathGlob],
    *,
    local: Path | None = None,
    excludes: Sequence[str] = (),
    required: bool = True,
) -> Outcomes[PullPlan]:
    """Ask every server what these paths are there and how much of it is new.

    What comes goes to ``.remote/outputs/<server>/<path>``; with ``local`` into that folder under its last
    name, or for several servers into one there for each. With ``required`` a path that isn't there is that
    server's error."""
    if local is not None and local.exists() and not local.is_dir():
        raise UsageError(f"{local} is not a folder", hint="name a folder: what comes is put into it")
    looks = fleet.map(servers, lambda server: look(fleet, server, globs))
    first: dict[Any, str] = {}
    for name, seen in looks.values.items():
        if seen.home:  # of copied disks, too: then what lies there tells them apart, if anything does
            first.setdefault((seen.home, seen.found), name)

    def plan(server: Server) -> PullPlan:
        error = looks[server.name].error
        if error is not None:
            raise error
        seen = looks.values[server.name]
        missing = [found for found in seen.found if found.kind in ("none", "other")]
        if required and missing:
            raise _not_there(server, missing[0])
        base = _base(fleet, server, local, several=len(servers) > 1)
        pieces = tuple(_pieces(fleet, server, seen, base, local, excludes))
        made = PullPlan(server=server.name, local=base, pieces=pieces, found=seen.found)
        same_as = first.get((seen.home, seen.found), server.name)
        if same_as != server.name:
            return dataclasses.replace(made, same_as=same_as)
        return _measured(fleet, made)

    return fleet.map(servers, plan)


def pull(
    fleet: Fleet, plans: Sequence[PullPlan], *, on_bytes: Callable[[str, int, int], None] | None = None
) -> Outcomes[Pulled]:
    """Bring what is planned. Broken off, it goes on from there the next time."""
    check_space(plans)
    by_name = {plan.server: plan for plan in plans}

    def bring(server: Server) -> Pulled:
        plan = by_name[server.name]
        links_out = tuple(name for found in plan.found for name in found.links_out)
        result = Pulled(
            server=plan.server, local=plan.local, same_as=plan.same_as, links_out=links_out,
            files_there=plan.files_there,
        )  # fmt: skip
        if plan.files or plan.names:
            for piece in plan.pieces:
                result = _bring(fleet, plan, piece, result, on_bytes)
            remove_links_out(plan.local, plan.names)
            fleet.log(server.name, "pull", files=result.files, size_bytes=result.size_bytes)
        return result

    return fleet.map(list(by_name), bring)


def pull_outputs(
    fleet: Fleet,
    servers: Sequence[Server],
    *,
    on_bytes: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, Pulled], list[RemoteLaunchError]]:
    """Bring what the inventory names as outputs; return what came from each server, and the errors."""
    globs = [parse_glob(text) for text in fleet.inventory.outputs]
    if not globs or not servers:
        return {}, []
    plans = plan_pull(fleet, servers, globs, required=False)
    try:
        pulled = pull(fleet, list(plans.values.values()), on_bytes=on_bytes)
    except SyncError as error:  # no room for them here
        return {}, [*plans.errors.values(), error]
    return pulled.values, [*plans.errors.values(), *pulled.errors.values()]


def check_space(plans: Sequence[PullPlan]) -> None:
    """Raise SyncError when what is to come does not go onto the disk here."""
    needed: dict[tuple[int, Path], int] = {}
    for plan in plans:
        place = plan.local
        while not place.is_dir() and place != place.parent:
            place = place.parent
        key = place.stat().st_dev, place
        needed[key] = needed.get(key, 0) + plan.size_bytes
    for (_, place), size_bytes in needed.items():
        free = shutil.disk_usage(place).free
        if size_bytes > free:
            raise SyncError(
                f"{size_bytes / 1e9:,.1f} GB are to come, and {place} has {free / 1e9:,.1f} GB free",
                hint="pull less of it (a path, --server, --exclude), or into a folder on another disk",
            )


def _not_there(server: Server, found: Found) -> SyncError:
    where = found.text if found.text.startswith(("/", "~")) else f"{server.workdir}/{found.text}"
    what = "is no file and no folder" if found.kind == "other" else "nothing of that name is there"
    return SyncError(
        f"{server.name}: {where}: {what}",
        server=server.name,
        hint=f"a path is relative to the project's folder there: rl run --server {server.name} -- ls -l",
    )


def _base(fleet: Fleet, server: Server, local: Path | None, *, several: bool) -> Path:
    if local is None:
        return fleet.project.outputs_dir / server.name
    return local / server.name if several else local


def _pieces(
    fleet: Fleet, server: Server, seen: Look, base: Path, local: Path | None, excludes: Sequence[str]
) -> list[Piece]:
    pieces = []
    for found in seen.found:
        if found.kind in ("none", "other"):
            continue
        folder = posixpath.dirname(found.base) if found.kind == "file" else found.base
        source = folder if found.base.startswith(("/", "~")) else posixpath.join(server.workdir, folder)
        inside = _inside(seen, folder)
        is_all = inside == ""
        if local is None and inside is not None:
            dest = base / inside
        else:
            dest = base / posixpath.basename(folder) if found.kind == "folder" and not is_all else base
        own = (*_OWN, f"/{fleet.inventory.jobs_folder_name}") if is_all else ()
        pieces.append(Piece(
            source=source.rstrip("/") or "/", dest=dest, names=found.names, excludes=(*own, *excludes),
            follow_links=found.kind == "file",
        ))  # fmt: skip
    return pieces


def _inside(seen: Look, folder: str) -> str | None:
    """Return a folder relative to the workdir ("" for itself); None for one outside."""
    if not folder.startswith(("/", "~")):
        return folder
    if folder == seen.workdir or folder.startswith(f"{seen.workdir}/"):
        return folder[len(seen.workdir) + 1 :]
    return None


def _measured(fleet: Fleet, plan: PullPlan) -> PullPlan:
    """Return the plan with what rsync would bring."""
    names: list[str] = []
    files = size_bytes = 0
    for piece in plan.pieces:
        result = _rsync(fleet, plan.server, piece, dry_run=True)
        below = os.path.relpath(piece.dest, plan.local)
        names += [os.path.normpath(f"{below}/{name}") for name in result.names if not name.endswith("/")]
        files += result.files
        size_bytes += result.size_bytes
    return dataclasses.replace(plan, names=tuple(names), files=files, size_bytes=size_bytes)


def _bring(
    fleet: Fleet,
    plan: PullPlan,
    piece: Piece,
    before: Pulled,
    on_bytes: Callable[[str, int, int], None] | None,
) -> Pulled:
    def tell(size_bytes: int, _: int) -> None:
        if on_bytes is not None:
            on_bytes(plan.server, before.size_bytes + size_bytes, plan.size_bytes)

    timeout_s = min(_LONGEST_S, _PATIENCE_S + plan.size_bytes / _SLOWEST_BYTES_PER_S)
    result = _rsync(fleet, plan.server, piece, on_progress=tell, timeout_s=timeout_s)
    return dataclasses.replace(
        before,
        files=before.files + result.files,
        size_bytes=before.size_bytes + result.size_bytes,
        literal_bytes=before.literal_bytes + result.literal_bytes,
    )


def _rsync(fleet: Fleet, server: str, piece: Piece, **options: Any) -> Any:
    return rsync_pull(
        fleet.transport(server),
        piece.source,
        piece.dest,
        files_from=piece.files_from,
        recursive=True,
        links=not piece.follow_links,
        follow_links=piece.follow_links,
        excludes=piece.excludes,
        compress=bool(fleet.inventory.sync.compress),
        **options,
    )


def remove_links_out(folder: Path, names: Sequence[str]) -> list[str]:
    """Given what has come into a folder, remove the links that lead out of it, and return them: rsync has
    been told to leave them there, and more than one of its versions could be talked into bringing some."""
    root = folder.resolve()
    removed = []
    for name in names:
        path = folder / name
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            path.unlink()
            removed.append(name)
    return removed
