"""The folders of environments: rl empties its own, and no other."""

from __future__ import annotations

import os
import shutil

from .jobdir import Refusal

ENV_MARK = ".rl-env"  # a folder with it is rl's own, and may be emptied


def empty(prefix: str, root: str) -> None:
    """Empty a folder of ours. Raises Refusal for one that has something in it and isn't."""
    names = os.listdir(prefix) if os.path.isdir(prefix) else []
    ours = prefix.startswith(os.path.join(root, ".rl") + os.sep)
    if names and ENV_MARK not in names and not ours:
        raise Refusal(
            "WorkspaceError",
            f"not empty, and not made by rl: {prefix}",
            "environment.prefix is a folder of rl's own; one that exists: manager: none, python: PATH",
        )
    os.makedirs(prefix, exist_ok=True)
    with open(os.path.join(prefix, ENV_MARK), "w"):
        pass
    for name in names:
        path = os.path.join(prefix, name)
        if name == ENV_MARK:
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
