"""The folders of environments: which are rl's own, and so may be emptied; and the old one, that waits beside
until the new one is made."""

from __future__ import annotations

import contextlib
import os

from . import deletion
from .jobdir import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

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


def _refuse_foreign(prefix: str, root: str) -> None:
    why = foreign(prefix, root)
    if why:
        raise Refusal(
            "WorkspaceError", why,
            "environment.prefix (name, with conda) is a folder of rl's own; to use one that exists: "
            "manager: none, python: PATH",
        )


def _empty(prefix: str) -> None:
    """Empty a folder of ours; ``_made`` is called once it is filled."""
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


@contextlib.contextmanager
def anew(
    prefix: str, root: str, may_return: Callable[[], bool], say: Callable[[str], None]
) -> Iterator[None]:
    """For the length of a ``with``, in which the environment is made: an empty folder of ours. What was in it
    is removed at the end, and comes back where the making fails and ``may_return``; one in a link's or a
    mount's place is emptied at once. Raises Refusal for a folder that isn't ours."""
    _refuse_foreign(prefix, root)
    old = _old(prefix)
    try:
        if os.path.isdir(prefix) and os.listdir(prefix):
            _set_aside(prefix, say)
        _empty(prefix)
        yield
    except BaseException:
        if os.path.isdir(old) and may_return():
            with contextlib.suppress(OSError):  # the next prepare tries again
                _bring_back(prefix)
        raise
    _made(prefix)
    if os.path.isdir(old):
        say("removing the old environment")  # with torch it takes a while
        _remove(old)


def settle(prefix: str) -> None:
    """After a prepare that was killed: have the old environment back where the new one was not made, else
    remove it."""
    if os.path.isdir(_old(prefix)):
        if os.path.isfile(beside(prefix)) or not os.path.isdir(prefix):
            _bring_back(prefix)
        else:
            _remove(_old(prefix))


def _old(prefix: str) -> str:
    return f"{prefix}.rl-old"


def _set_aside(prefix: str, say: Callable[[str], None]) -> None:
    if not os.path.islink(prefix):
        with contextlib.suppress(OSError):  # a mount
            os.rename(prefix, _old(prefix))
            return
    say("removing the old environment")


def _bring_back(prefix: str) -> None:
    _remove(prefix)
    os.rename(_old(prefix), prefix)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside(prefix))


def _remove(path: str) -> None:
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        deletion.remove(folder, os.path.basename(path), deletion.Amount())
    finally:
        os.close(folder)


def _made(prefix: str) -> None:
    """Say that the folder is filled: its own mark is there again."""
    with open(os.path.join(prefix, ENV_MARK), "a"):
        pass
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside(prefix))
