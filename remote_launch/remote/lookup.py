"""Looks for files by paths with wildcards.

A path without wildcards may be a link of the user's to another disk: it is followed. No link below it is."""

from __future__ import annotations

import contextlib
import os
import stat
import time

from .globs import compiled, is_meant, steps
from .jobdir import Refusal, expand, jobs_folder, workdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

FILES_LIMIT = 20_000
PATTERNS_LIMIT = 200
_PATIENCE_S = 20.0
_BRIEF_S = 1.0
_BRIEF_LIMIT = 5000
_OWN = (".rl", ".remote", ".remote-scripts")


def brief(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Given {"outputs": globs}, return what ``look`` does, of fewer files and in less time: for a launch."""
    globs = request.get("outputs")
    if not isinstance(globs, list) or len(globs) > PATTERNS_LIMIT:
        return []
    root = workdir(request)
    chosen = [PathGlob(root, item, own_names(request)) for item in globs]
    return look(chosen, _BRIEF_LIMIT, _BRIEF_S)


def look(
    globs: list[PathGlob], limit: int = FILES_LIMIT, patience_s: float = _PATIENCE_S
) -> list[dict[str, Any]]:
    """Return what there is of each."""
    deadline = time.monotonic() + patience_s
    return [glob.look(limit, deadline) for glob in globs]


def own_names(request: dict[str, Any]) -> frozenset[str]:
    """Return the names in a workdir that no wildcard means: rl's own."""
    path = os.path.relpath(jobs_folder(request), workdir(request))
    return frozenset((*_OWN, ".jobs", path.split("/", 1)[0]))


class PathGlob:
    """One path that may have wildcards."""

    def __init__(self, root: str, told: Any, own: frozenset[str]) -> None:
        base, parts = (told.get("base"), told.get("parts")) if isinstance(told, dict) else (None, None)
        if not isinstance(base, str) or not isinstance(parts, list) or not _is_plain(base):
            raise Refusal("RequestError", f"{told!r} is not a path that can be looked for")
        self.text = str(told.get("text"))
        self.base = base
        self.is_relative = not base.startswith(("/", "~"))
        self.path = os.path.join(root, base).rstrip("/") if self.is_relative else expand(base)
        self.hidden = own if self.path == root else frozenset()
        # A name may have brackets in it.
        literal = os.path.join(self.path, *self.text[len(base) :].strip("/").split("/"))
        if parts and os.path.lexists(literal):
            self.base, self.path, parts = self.text, literal, []
        try:
            self.parts = compiled(parts)
        except ValueError as error:
            raise Refusal("RequestError", f"{self.text!r}: {error}") from None

    def look(self, limit: int, deadline: float) -> dict[str, Any]:
        listing = _Listing(limit, deadline)
        kind, names = self._kind(), []
        if kind == "folder":
            self._add_all("", listing)
        elif kind == "file":
            names = [os.path.basename(self.path)]
            listing.add(names[0], os.stat(self.path), None)
        elif kind == "matches":
            for name in self.names(listing):
                names.append(name)
                self._add_all(name, listing)
            kind = "matches" if names else "none"
        return {"text": self.text, "base": self.base, "kind": kind, "names": names[:FILES_LIMIT],
                **listing.to_wire()}

    def _kind(self) -> str:
        try:
            mode = os.stat(self.path).st_mode
        except OSError:
            return "none"
        if self.parts:
            return "matches" if stat.S_ISDIR(mode) else "none"
        return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"

    def names(self, listing: _Listing | None = None) -> Iterator[str]:
        """Yield what the wildcards mean, relative to the base, sorted; nothing that lies in another one of
        them."""
        yield from self._walk("", {self.parts}, listing)

    def _walk(self, name: str, ways: set[tuple[Any, ...]], listing: _Listing | None) -> Iterator[str]:
        for entry in _entries(os.path.join(self.path, name)):
            if listing is not None and listing.is_over():
                return
            if not name and entry.name in self.hidden:
                continue
            below = f"{name}/{entry.name}" if name else entry.name
            rests = {rest for parts in ways for rest in steps(parts, entry.name)}
            if is_meant(rests):
                yield below
            elif rests and entry.is_dir(follow_symlinks=False):
                yield from self._walk(below, rests, listing)

    def _add_all(self, name: str, listing: _Listing) -> None:
        path = os.path.join(self.path, name)
        if name and not _is_folder(path):
            with contextlib.suppress(OSError):
                listing.add(name, os.lstat(path), os.readlink(path) if os.path.islink(path) else None)
            return
        for entry in _entries(path):
            if (name or entry.name not in self.hidden) and entry.name != ".rl-partial":
                below = f"{name}/{entry.name}" if name else entry.name
                if listing.is_over():
                    return
                self._add_all(below, listing)


class _Listing:
    """The files found, those within the limit by name."""

    def __init__(self, limit: int, deadline: float) -> None:
        self.files: list[list[Any]] = []
        self.count = self.size_bytes = 0
        self._limit, self._deadline, self._stopped = limit, deadline, False

    def add(self, name: str, found: os.stat_result, link: str | None) -> None:
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            return
        self.count += 1
        self.size_bytes += found.st_size
        if len(self.files) < self._limit:
            self.files.append([name, found.st_size, found.st_mtime, link])

    def is_over(self) -> bool:
        """True when it takes too long; what was found until then counts."""
        self._stopped = self._stopped or time.monotonic() > self._deadline
        return self._stopped

    def to_wire(self) -> dict[str, Any]:
        whole = not self._stopped and len(self.files) == self.count
        return {"files": self.files, "count": self.count, "size_bytes": self.size_bytes, "whole": whole}


def _is_plain(path: str) -> bool:
    return "\0" not in path and ".." not in path.split("/")


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError:
        return []


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
