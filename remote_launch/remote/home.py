"""Which folder a workdir really is. Servers that share a home (NFS) are known by what one of them wrote."""

from __future__ import annotations

import os
import uuid

from .jobdir import read_or_empty, text, write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def home_id(root: str) -> str | None:
    """Return the id of a workdir, made by whoever asks first: equal ids mean one folder, or a copied disk.
    None where it can't be written."""
    path = os.path.join(root, ".rl", "home.json")
    known = known_id(root)
    if known:
        return known
    aside = f"{path}.{uuid.uuid4().hex}"
    try:
        write_atomic(aside, {"id": uuid.uuid4().hex}, durable=False)
        try:
            os.link(aside, path)  # the first one stays
        except OSError:
            if not read_or_empty(path):  # no links here, or rubbish in its place
                os.replace(aside, path)
        if os.path.lexists(aside):
            os.unlink(aside)
    except OSError:
        return None
    return known_id(root)


def known_id(root: str) -> str | None:
    """Return the id that a workdir has; None for none."""
    return text(read_or_empty(os.path.join(root, ".rl", "home.json")), "id")


def visited_by(root: str, run: Any, server: Any) -> str | None:
    """Note that a server was here in a run of rl; return the other one that was here in the same run: then
    both have this very folder. None for none."""
    path = os.path.join(root, ".rl", "visit.json")
    last = read_or_empty(path)
    if run is not None and last.get("run") == run:
        return text(last, "server") if last.get("server") != server else None
    write_atomic(path, {"run": run, "server": server}, durable=False)
    return None
