"""What jobs have written, by paths with wildcards: what there is of it (see ``lookup``), and its removal,
which follows no link."""

from __future__ import annotations

import os
import stat
import time

from . import deletion, states
from .deletion import Amount
from .facts import existing
from .home import known_id
from .jobdir import Refusal, safe_relative, workdir
from .lookup import PATTERNS_LIMIT, PathGlob, look, own_names
from .manifest import Manifest
from .workspace import check as check_workspace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def outputs(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"op": "look" | "remove", "globs": [{"text", "base", "parts"}], "project_id", "project"}, return
    {"workdir", "home", "free_bytes", "running", "time", "found": [...]}.

    Of each glob is told {"text", "base", "kind": "folder" | "file" | "matches" | "none" | "other", "names":
    what is meant, relative to the base (none for a whole folder), "files": [[path, size_bytes, mtime, where a
    link leads to]] (sorted, the first of them), "count", "size_bytes", "whole": all were looked at}; after a
    removal {"text", "files", "size_bytes", "kept": [{"name", "why"}]}. Raises Refusal."""
    op, globs = request.get("op"), request.get("globs")
    root = workdir(request)
    if op not in ("look", "remove") or not isinstance(globs, list) or len(globs) > PATTERNS_LIMIT:
        raise Refusal("RequestError", "outputs takes op: look or remove, and globs")
    chosen = [PathGlob(root, item, own_names(request)) for item in globs]
    running = [job["job_id"] for job in states.all_jobs(request) if states.may_run(job)]
    place = os.statvfs(existing(root))
    answer = {
        "workdir": root, "home": known_id(root), "free_bytes": place.f_bavail * place.f_frsize,
        "running": running, "time": time.time(),
    }
    if op == "look":
        return {**answer, "found": look(chosen)}
    _check_removal(request, root, chosen, running)
    sent = Manifest(root, request.get("jobs_folder") or ".jobs").names()
    return {**answer, "found": [_remove(root, glob, sent) for glob in chosen]}


def _check_removal(request: dict[str, Any], root: str, globs: list[PathGlob], running: list[str]) -> None:
    """Raise Refusal unless all of it may go."""
    asked = {"project_id": request.get("project_id"), "project": request.get("project")}
    judged = check_workspace(asked, root)
    if judged["status"] != "ours":
        raise Refusal("WorkspaceError", f"{root} is left alone: it is not this project's workdir", "rl rsync")
    if running:
        jobs = "a job still runs" if len(running) == 1 else f"{len(running)} jobs still run"
        hint = "wait for the end, or rl job-kill"
        raise Refusal("WorkspaceError", f"{jobs} there: no outputs were removed", hint)
    for glob in globs:
        relative = os.path.relpath(glob.path, root)
        inside = safe_relative(relative) or (relative == "." and glob.parts)
        if not glob.is_relative or not inside or relative.split("/", 1)[0] in own_names(request):
            raise Refusal("RequestError", f"{glob.text!r} is not a path of outputs")


def _remove(root: str, glob: PathGlob, sent: set[str]) -> dict[str, Any]:
    """Remove what one glob means, through real folders only. What a sync has sent stays."""
    amount, kept = Amount(), []
    whole = not glob.parts
    names = [os.path.basename(glob.path)] if whole else list(glob.names())
    below = os.path.relpath(os.path.dirname(glob.path) if whole else glob.path, root)
    below = "" if below == "." else below
    for name in names:
        path = os.path.join(below, name)
        if os.path.lexists(os.path.join(root, path)):
            why = _remove_one(root, path, amount, sent)
            if why:
                kept.append({"name": path, "why": why})
    return {"text": glob.text, **amount.to_wire(), "kept": kept}


def _remove_one(root: str, path: str, amount: Amount, sent: set[str]) -> str | None:
    if any(name == path or name.startswith(path + "/") for name in sent):
        return "a sync has sent it"
    folder = deletion.open_folder(root, os.path.dirname(path))
    if folder is None:
        return "a link leads there"
    try:
        name = os.path.basename(path)
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode) and os.path.isdir(os.path.join(root, path)):
            return "it is a link to a folder"
        deletion.remove(folder, name, amount)
    except OSError as error:
        return f"{error.strerror or error}"
    finally:
        os.close(folder)
    return "something is mounted in it" if os.path.lexists(os.path.join(root, path)) else None
