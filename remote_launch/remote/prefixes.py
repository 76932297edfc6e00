"""The folders of environments: which are rl's own, and so may be emptied."""

from __future__ import annotations

import contextlib
import os

from . import deletion
from .jobdir import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ENV_MARK = ".rl-env"  # a folder with it is rl's own, and may be emptied
_OTHERS = ("bin", "cache", "downloads", "wheelhouse")  # what else rl has in <workdir>/.rl


def foreign(prefix: str, root: str) -> str | None:
    """Say why a folder isn't rl's own to empty; None where it is, and where there is none."""
    real, own = os.path.realpath(prefix), os.path.realpath(os.path.join(root, ".rl"))
    for kept in (os.path.realpath(os.path.expanduser("~")), own):
        if (kept + os.sep).startswith(real.rstrip(os.sep) + os.sep):
            return f"{prefix} holds more than an environment"
    if os.path.dirname(real) == own and os.path.basename(real) in _OTHERS:
        return f"{prefix} is where rl keeps other things"
    marked = os.path.isfile(os.path.join(prefix, ENV_MARK)) or os.path.isfile(beside(prefix))
    if marked or real.startswith(own + os.sep) or not os.path.isdir(prefix) or not os.listdir(prefix):
        return None
    return f"{prefix} was not made by rl"


def beside(prefix: str) -> str:
    """Return the file that says whose a folder is while it is made: some managers take an empty folder only,
    and one that is killed leaves it without its own mark."""
    return prefix + ENV_MARK


def refuse_in_use(prefix: str, request: dict[str, Any]) -> None:
    """Raise Refusal for a folder that has something in it while a job of this workdir may run with it."""
    if not os.path.isdir(prefix) or not os.listdir(prefix):
        return
    from . import states

    count = sum(states.may_run(job) for job in states.all_jobs(request))
    if count:
        raise Refusal(
            "WorkspaceError",
            f"{prefix} can't be made anew: {'1 job still runs' if count == 1 else f'{count} jobs still run'}",
            "rl job-list shows the jobs, rl job-kill ends them; another environment.prefix is a second one",
        )


def empty(prefix: str, root: str) -> None:
    """Empty a folder of ours; ``made`` is called once it is filled. Raises Refusal for one that isn't
    ours."""
    why = foreign(prefix, root)
    if why:
        raise Refusal(
            "WorkspaceError", why,
            "environment.prefix (name, with conda) is a folder of rl's own; to use one that exists: "
            "manager: none, python: PATH",
        )
    os.makedirs(prefix, exist_ok=True)
    for mark in (beside(prefix), os.path.join(prefix, ENV_MARK)):
        with open(mark, "w"):
            pass
    folder = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(folder):
            if name != ENV_MARK:
                deletion.remove(folder, name, deletion.Amount())
    finally:
        os.close(folder)


def made(prefix: str) -> None:
    """Say that the folder is filled: its own mark is there again."""
    with open(os.path.join(prefix, ENV_MARK), "a"):
        pass
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside(prefix))
