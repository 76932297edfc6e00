"""May this workdir be written into? A marker, ``.rl/workspace.json``, says whose it is; a folder of someone's
is left alone."""

from __future__ import annotations

import os
import time

from .facts import existing, rsync_version
from .home import home_id
from .jobdir import CorruptError, Refusal, read_object, read_or_empty, text, workdir, write_atomic
from .manifest import Manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LABML_MARKS = (".remote-scripts", ".jobs")
_ELSEWHERE = "name a folder of its own with workdir: in the inventory"
_ADOPT = f"{_ELSEWHERE}; or, if it is meant: rl rsync --adopt (files of the same name are overwritten)"


def workspace(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"op": "check" | "begin" | "commit", "project_id", …}, return what ``check``,
    ``Manifest.begin`` or ``Manifest.commit`` does. Raises Refusal."""
    root = workdir(request)
    op = request.get("op")
    if op == "check":
        return check(request, root)
    if op not in ("begin", "commit"):
        raise Refusal("RequestError", f"workspace has no operation {op!r}")
    marker = _marker(root)
    if marker is None:
        raise Refusal("WorkspaceError", f"{root} is no workspace yet", "rl rsync")
    if request.get("project_id") not in (None, marker.get("project_id")):
        raise Refusal(
            "WorkspaceError", f"{root} has become the workspace of {_owner(marker)}", "set another workdir"
        )
    manifest = Manifest(root, request.get("jobs_folder") or ".jobs", request.get("outputs"))
    if op == "begin":
        return manifest.begin(request.get("files"), request.get("digest"))
    return manifest.commit(request.get("digest"))


def check(request: dict[str, Any], root: str) -> dict[str, Any]:
    """Return {"workdir", "status", "reason", "hint", "digest", "free_bytes", "rsync", "home"}; with "create"
    a workdir that may be used is marked, and has a "home": its id (see ``home``)."""
    if not isinstance(request.get("project_id"), str) or not request["project_id"]:
        raise Refusal("RequestError", "the check names no project_id")
    status, reason = _judge(root, request)
    hint = home = None
    if status == "refused":
        hint = _ELSEWHERE if _never(root) else _ADOPT
    if status != "refused" and request.get("create"):
        try:
            _mark(root, request)
            home = home_id(root)
        except OSError as error:
            hint = _ELSEWHERE
            status, reason = "refused", f"it can't be written to: {error.strerror}: {error.filename or root}"
    filesystem = os.statvfs(existing(root))
    return {
        "workdir": root, "status": status, "reason": reason, "hint": hint, "digest": Manifest(root).digest(),
        "free_bytes": filesystem.f_bavail * filesystem.f_frsize, "rsync": rsync_version(),
        "home": home,
    }


def _judge(root: str, request: dict[str, Any]) -> tuple[str, str | None]:
    """Return (status, reason)."""
    refusal = _never(root)
    if refusal:
        return "refused", refusal
    if not os.path.isdir(root):
        return "new", None
    adopt = bool(request.get("adopt"))
    try:
        marker = _marker(root)
    except Refusal as error:
        return ("adopted", None) if adopt else ("refused", error.message)
    if marker is not None:
        if marker.get("project_id") == request["project_id"]:
            return "ours", None
        if marker.get("project") == request.get("project") or adopt:
            return "adopted", f"it was the workspace of {_owner(marker)}"
        return "refused", f"it belongs to {_owner(marker)}"
    names = set(os.listdir(root)) - {".rl"}  # .rl/bin may have been put there ahead of this check
    if not names:
        return "empty", None
    if any(os.path.isdir(os.path.join(root, mark)) for mark in LABML_MARKS):
        return "labml", "a workspace of labml_remote"
    if adopt:
        return "adopted", None
    some = ", ".join(sorted(name.encode("utf-8", "replace").decode() for name in names)[:3])
    return "refused", f"it is not empty ({some} …) and no workspace of rl"


def _never(root: str) -> str | None:
    """Say why no workspace can be in this place, whoever asks; None when it can."""
    real, home = os.path.realpath(root), os.path.realpath(os.path.expanduser("~"))
    if real == home:
        return "it is the home folder itself; name a folder in it"
    if real == "/" or home.startswith(real + "/"):
        return f"{real} is a folder of the system, not a project's"
    if os.path.lexists(root) and not os.path.isdir(root):
        return "it is not a folder"
    if os.path.lexists(os.path.join(root, ".remote", "project_id")):
        return "it is a project's own folder (.remote/project_id): a sync would overwrite it"
    place = existing(root)
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{place} is not writable for this user"
    return None


def _marker(root: str) -> dict[str, Any] | None:
    path = os.path.join(root, ".rl", "workspace.json")
    try:
        return read_object(path)
    except CorruptError as error:
        raise Refusal(
            "WorkspaceError", f"{path}: {error}", "remove that file, then: rl rsync --adopt"
        ) from error


def _owner(marker: dict[str, Any]) -> str:
    return f"project {text(marker, 'project') or text(marker, 'project_id') or 'unknown'}"


def _mark(root: str, request: dict[str, Any]) -> None:
    folder = os.path.join(root, ".rl")
    os.makedirs(folder, mode=0o755, exist_ok=True)
    path = os.path.join(folder, "workspace.json")
    old = read_or_empty(path)
    marker = {"version": 1, "project_id": request["project_id"], "project": request.get("project")}
    if {name: old.get(name) for name in marker} != marker:
        write_atomic(path, {**marker, "created_at": time.time()})
