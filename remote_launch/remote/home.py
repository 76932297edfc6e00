"""Which folder a workdir really is. Servers that share a home (NFS) are known by what one of them wrote."""

from __future__ import annotations

import contextlib
import os
import time
import uuid

from .jobdir import read_or_empty, text, write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VISIT, _VISIT_KEPT_S = "visit.", 86_400.0


def home_id(root: str) -> str | None:
    """Return the id of a workdir, made by whoever asks first: equal ids mean one folder, or a copied disk.
    None where it can't be written."""
    path = os.path.join(root, ".rl", "home.json")
    known = known_id(root)
    if known:
        return known
    try:
        _keep_first(path, {"id": uuid.uuid4().hex})
    except OSError:
        return None
    return known_id(root)


def known_id(root: str) -> str | None:
    """Return the id that a workdir has; None for none."""
    return text(read_or_empty(os.path.join(root, ".rl", "home.json")), "id")


def visited_by(root: str, run: Any, server: Any) -> str | None:
    """Note that a server was here in a run of rl; return the other one that was here before it in the same
    run: then both have this very folder. None for none."""
    if not isinstance(run, str) or not run.isalnum():
        return None
    folder = os.path.join(root, ".rl")
    # A file for each run: of two that come at the same time, one is the first.
    path = os.path.join(folder, f"{_VISIT}{run}.json")
    _keep_first(path, {"run": run, "server": server})
    _forget_old_visits(folder)
    first = text(read_or_empty(path), "server")
    return first if first != server else None


def _keep_first(path: str, data: dict[str, Any]) -> None:
    """Write a file unless it is there, whole at once. Raises OSError."""
    aside = f"{path}.{uuid.uuid4().hex}"
    write_atomic(aside, data, durable=False)
    try:
        os.link(aside, path)  # the first one stays
    except OSError:
        if not read_or_empty(path):  # no links here, or rubbish in its place
            os.replace(aside, path)
    if os.path.lexists(aside):
        os.unlink(aside)


def _forget_old_visits(folder: str) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(_VISIT):
            with contextlib.suppress(OSError):
                if time.time() - os.stat(path).st_mtime > _VISIT_KEPT_S:
                    os.unlink(path)
