"""Send the project to the servers: what rl sent and is gone here is deleted there, and nothing else ever
is. What the inventory names as outputs is the servers': it is neither sent nor deleted."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_launch.core.globs import parse_glob, rsync_excludes
from remote_launch.core.project import DEFAULT_EXCLUDES
from remote_launch.errors import ConfigError, WorkspaceError
from remote_launch.operations.told import text
from remote_launch.operations.verbs import call
from remote_launch.transport.listing import Listing, SentFile, list_files, stats_of
from remote_launch.transport.rsync import rsync_push

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

# Never sent, whatever exclude.txt says: the repository's history, our own folder, and on a server what jobs
# and rl keep there.
ALWAYS_EXCLUDED = ("/.git", "/.remote", "/.rl", ".jobs", ".remote-scripts")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SyncPlan:
    """What will be sent: the same for every server."""

    root: Path
    files: tuple[SentFile, ...]
    warnings: tuple[str, ...]

    @property
    def warning(self) -> str | None:
        """Return the warnings as one text; None without any."""
        return "\n".join(self.warnings) or None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def digest(self) -> str:
        """The hash of the names: changes when a file is added or goes, not when one is edited."""
        return hashlib.sha256(
            "\0".join(file.path for file in self.files).encode("utf-8", "surrogateescape")
        ).hexdigest()

    @property
    def stats(self) -> str | None:
        """The hash of the files' sizes, times and modes: changes when one is edited."""
        return stats_of(self.root, [file.path for file in self.files])

    def to_dict(self) -> dict[str, Any]:
        return {
            "root": str(self.root),
            "files": len(self.files),
            "size_bytes": self.size_bytes,
            "warning": self.warning,
            "paths": [file.path.encode("utf-8", "replace").decode() for file in self.files],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """What one server got."""

    server: str
    workdir: str
    files_sent: int
    bytes_sent: int
    deleted: int

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def project_files(fleet: Fleet) -> list[SentFile]:
    """Return the files of the project that a sync sends."""
    return _listing(fleet).files


def _listing(fleet: Fleet) -> Listing:
    project = fleet.project
    if project.exclude_name != DEFAULT_EXCLUDES and not project.exclude_file.exists():
        raise ConfigError(
            f"exclude_file: {project.exclude_file}: no such file",
            path=project.config,
            hint="correct the name; without it, all that it leaves out would be sent",
        )
    sync = fleet.inventory.sync
    excludes = [
        *ALWAYS_EXCLUDED,
        f"/{fleet.inventory.jobs_folder_name}",
        *rsync_excludes(fleet.inventory.outputs),
        *sync.exclude,
    ]
    return list_files(
        project.root,
        exclude_from=project.exclude_file,
        excludes=excludes,
        gitignore=sync.gitignore,
    )


def plan_sync(fleet: Fleet) -> SyncPlan:
    """List what will be sent; warn when it is a lot, and of links that can't be."""
    listing = _listing(fleet)
    warnings = (_size_warning(fleet, listing.files), _links_warning(listing.links_out))
    return SyncPlan(
        root=fleet.project.root,
        files=tuple(listing.files),
        warnings=tuple(filter(None, warnings)),
    )


def sync_server(
    fleet: Fleet,
    server: Server,
    plan: SyncPlan,
    *,
    adopt: bool = False,
    workspace: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SyncResult:
    """Bring one server's workdir up to date. ``workspace`` is the answer of a claim just made. Raises
    WorkspaceError where rl must not write, SyncError when rsync fails."""
    digest = plan.digest
    answer = workspace or claim_workdir(fleet, server, adopt=adopt)
    names_changed = answer.get("digest") != digest
    if names_changed:
        begin = {"op": "begin", "files": [file.path for file in plan.files], "digest": digest}
        call(fleet, server, "workspace", begin, timeout_s=120)
    sent = rsync_push(
        fleet.transport(server.name),
        fleet.project.root,
        server.workdir,
        files_from=b"".join(file.path.encode("utf-8", "surrogateescape") + b"\0" for file in plan.files),
        compress=bool(fleet.inventory.sync.compress),
        on_progress=on_progress,
    )
    deleted = 0
    if names_changed:
        outputs = [parse_glob(text).to_wire() for text in fleet.inventory.outputs]
        commit = {"op": "commit", "digest": digest, "outputs": outputs}
        deleted = int(call(fleet, server, "workspace", commit, timeout_s=120).get("deleted", 0))
    fleet.log(server.name, "rsync", files=sent.files, size_bytes=sent.size_bytes, deleted=deleted)
    return SyncResult(
        server=server.name,
        workdir=answer["workdir"],
        files_sent=sent.files,
        bytes_sent=sent.size_bytes,
        deleted=deleted,
    )


def claim_workdir(fleet: Fleet, server: Server, *, adopt: bool = False) -> dict[str, Any]:
    """Make the workdir rl's, or find that it is; return the server's answer. Raises WorkspaceError where it
    must not be touched."""
    refuse_own_folder(fleet, server)
    check = {
        "op": "check",
        "project_id": fleet.project.project_id,
        "project": fleet.inventory.name,
        "adopt": adopt,
        "create": True,
    }
    answer = call(fleet, server, "workspace", check)
    if answer["status"] == "refused":
        raise refused_workdir(server, answer)
    return answer


def refused_workdir(server: Server, answer: Mapping[str, Any]) -> WorkspaceError:
    """Given a claim that the server refused, return the error."""
    where = answer.get("workdir", server.workdir)
    return WorkspaceError(server.name, f"{where}: {answer.get('reason')}", hint=_refusal_hint(answer))


def sync(
    fleet: Fleet, servers: Sequence[Server], plan: SyncPlan, *, adopt: bool = False
) -> Outcomes[SyncResult]:
    """Bring all ``servers`` up to date at once; those that share a workdir one after the other."""
    homes: dict[str, threading.Lock] = defaultdict(threading.Lock)
    brought: set[str] = set()

    def bring(server: Server) -> SyncResult:
        workspace: Mapping[str, Any] | None = claim_workdir(fleet, server, adopt=adopt)
        home = text((workspace or {}).get("home")) or server.name
        with homes[home]:
            if home in brought:
                workspace = None  # what it said is no longer so
            brought.add(home)
            return sync_server(fleet, server, plan, adopt=adopt, workspace=workspace)

    return fleet.map(servers, bring)


def refuse_own_folder(fleet: Fleet, server: Server) -> None:
    """A local server whose workdir is the project itself (or contains it, or lies in it) would overwrite or
    feed on it."""
    if server.target.transport != "local":
        return
    workdir = Path(server.workdir).expanduser().resolve()
    root = fleet.project.root.resolve()
    if workdir == root or root in workdir.parents or workdir in root.parents:
        # A folder of .remote/ or an excluded one inside the project is fine: nothing there is ever sent.
        inside = workdir.relative_to(root).parts if root in workdir.parents else ()
        if inside and inside[0] in (".remote", ".rl", ".jobs"):
            return
        raise WorkspaceError(
            server.name,
            f"its workdir {workdir} and the project {root} are one folder, or one holds the other",
            hint="leave workdir: out (local servers get a folder of their own), or name another",
        )


def _refusal_hint(answer: Mapping[str, Any]) -> str:
    return str(
        answer.get("hint")
        or "name another folder with workdir: in the inventory; or, if it is meant, run rl rsync --adopt: "
        "files of the same name are overwritten"
    )


def _links_warning(names: Sequence[str]) -> str | None:
    """Given the links that lead out of the project, return a warning, or None without any."""
    if not names:
        return None
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return (
        f"not sent, since they lead out of the project: the links {shown}. "
        "Their targets must be on the servers by other means"
    )


def _size_warning(fleet: Fleet, files: Sequence[SentFile]) -> str | None:
    """Given the files, return a warning that names what is heaviest, or None when they are few."""
    limits = fleet.inventory.sync
    total = sum(file.size_bytes for file in files)
    if total <= limits.max_warn_bytes and len(files) <= limits.max_warn_files:
        return None
    heavy = total > limits.max_warn_bytes
    amounts: Counter[str] = Counter()
    folders: set[str] = set()
    for file in files:
        top, in_folder, _ = file.path.partition("/")
        # A file of the project's own folder stands for itself, but it is not one of many.
        amounts[top if in_folder or heavy else ""] += file.size_bytes if heavy else 1
        folders.update([top] if in_folder else [])
    name, amount = amounts.most_common(1)[0]
    what = f"{amount / 1e6:,.0f} MB" if heavy else f"{amount:,} files"
    where = ("is in " if name in folders else "is ") + name if name else "are in the project's own folder"
    excludes = fleet.project.exclude_file.name
    return (
        f"{len(files):,} files, {total / 1e6:,.0f} MB will be sent; the most {where} ({what}). "
        + (f"To leave it out, add a line to {excludes}: /{name}" if name else f"{excludes} leaves files out")
    )
