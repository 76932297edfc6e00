"""An environment's folder: whose it is, what state it is in, and its removal if it is rl's own."""

from __future__ import annotations

import glob
import os

from . import deletion, environment, home
from .jobdir import expand, number, read_or_empty, text
from .prefixes import ENV_MARK, beside, foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .deletion import Amount

_INFO = ("*.dist-info", "*.egg-info")


def describe(request: dict[str, Any], root: str) -> dict[str, Any]:
    """Given a recipe's {"prefix", "python", "parts": [{"mark", "fingerprint"}]} and "sizes", return what the
    environment is: see the last lines."""
    parts = [part for part in request.get("parts") or [] if isinstance(part, dict)]
    prefix = Prefix(root, text(request, "prefix"), [part.get("mark") for part in parts])
    python = request.get("python")
    interpreter = environment.interpreter(python)
    size = None
    if request.get("sizes"):
        amount = deletion.Amount()
        prefix.measure(amount)
        size = amount.to_wire()
    marks = [_mark(part) for part in parts]
    return {
        "state": prefix.state(), "why": prefix.foreign, "interpreter": interpreter,
        "parts": [_state(part, mark, python) for part, mark in zip(parts, marks)],  # noqa: B905 - Python 3.8
        "made_at": number(marks[0], "made_at") if marks else None,
        "versions": environment.versions(python), "packages": _packages(interpreter), "size": size,
        "home": home.known_id(root),
    }


def _mark(part: dict[str, Any]) -> dict[str, Any]:
    path = part.get("mark")
    return read_or_empty(expand(path)) if isinstance(path, str) else {}


def _state(part: dict[str, Any], mark: dict[str, Any], python: Any) -> str:
    """Return what a part's mark says: "done", "changed", "platform" (made for another one), "absent"."""
    if not mark:
        return "absent"
    if mark.get("platform") != environment.platform_name():
        return "platform"
    there = environment.interpreter(python) is not None  # where it is gone the report says so itself
    same = mark.get("fingerprint") == part.get("fingerprint")
    return "done" if same and (not there or environment.is_of(mark, python)) else "changed"


def _packages(interpreter: str | None) -> int | None:
    """Return how many packages are beside an interpreter, by their folders."""
    if interpreter is None:
        return None
    library = os.path.join(os.path.dirname(os.path.dirname(interpreter)), "lib*", "python3*", "site-packages")
    folders = {os.path.realpath(folder) for folder in glob.glob(library)}
    return sum(len(glob.glob(os.path.join(folder, pattern))) for folder in folders for pattern in _INFO)


def former(root: str, current: Prefix) -> list[Prefix]:
    """Return rl's other environments in a workdir: those that the inventory has named before."""
    own = os.path.join(root, ".rl")
    found = []
    for mark in sorted(glob.glob(os.path.join(glob.escape(own), "*", ENV_MARK))):
        path = os.path.dirname(mark)
        if path != current.path:
            names = (".rl-packages", ".rl-environment")
            found.append(Prefix(root, path, [os.path.join(path, name) for name in names]))
    return [prefix for prefix in found if not prefix.foreign]


class Prefix:
    """The folder of an environment; ``path`` None where an interpreter that was there is used. ``foreign``
    says why it is not rl's own to remove, None when it is."""

    def __init__(self, root: str, path: str | None, marks: Any) -> None:
        self.path = expand(path) if path else None
        self._root = root
        self._marks = [expand(mark) for mark in marks or [] if isinstance(mark, str)]
        self.foreign = self._judge()

    def state(self) -> str:
        """Return "existing" (none is made), "absent", "foreign" or "there"."""
        if self.path is None:
            return "existing"
        if self.foreign:
            return "foreign"
        return "there" if os.path.isdir(self.path) else "absent"

    def _judge(self) -> str | None:
        if self.path is None or not os.path.lexists(self.path):
            return None
        if os.path.islink(self.path):
            return f"{self.path} is a symbolic link, not made by rl"
        if not os.path.isdir(self.path):
            return f"{self.path} is no folder"
        why = foreign(self.path, self._root)
        if why:
            return why
        folder = self._open_parent()
        if folder is None:
            return f"{self.path} is behind a symbolic link"
        os.close(folder)
        return None

    def _open_parent(self) -> int | None:
        """Open the folder that it is in. Below the workdir no part may be a link; a prefix that the user has
        elsewhere is where the user says."""
        assert self.path is not None
        parent = os.path.dirname(self.path)
        if (parent + os.sep).startswith(self._root + os.sep):
            return deletion.open_folder(self._root, parent[len(self._root):])
        return deletion.open_folder(parent)

    def measure(self, amount: Amount) -> None:
        """Add what the folder holds."""
        if self.state() != "there" or self.path is None:
            return
        folder = self._open_parent()
        if folder is not None:
            deletion.measure(folder, os.path.basename(self.path), amount)
            os.close(folder)

    def remove(self, amount: Amount) -> None:
        """Remove it: first what says that it is done, so that a half-removed one is never taken for whole;
        last what says that it is ours. Of an interpreter that was there only the notes are."""
        for mark in self._marks:
            if os.path.lexists(mark) and self._is_ours(mark):
                os.unlink(mark)
        if self.state() != "there" or self.path is None:
            return
        folder = self._open_parent()
        if folder is not None:
            try:
                deletion.remove_folder(folder, os.path.basename(self.path), amount, (ENV_MARK,))
            finally:
                os.close(folder)
            if os.path.isfile(beside(self.path)):
                os.unlink(beside(self.path))

    def _is_ours(self, mark: str) -> bool:
        folder = self.path or os.path.join(self._root, ".rl")
        return os.path.dirname(mark) == folder and os.path.basename(mark).startswith(".rl-")
