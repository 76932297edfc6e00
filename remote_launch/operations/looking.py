"""What a server has under some paths, checked: its answer names files that will be written here, or on other
servers."""

from __future__ import annotations

import dataclasses
import posixpath
from typing import TYPE_CHECKING, Any

from remote_launch.errors import SyncError
from remote_launch.operations.told import mappings, number, text, texts
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.globs import PathGlob
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet

_KINDS = ("folder", "file", "matches", "none", "other")
_MOST_NAMES = 20_000  # as many as a server tells
_TIMEOUT_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file below the base of what was asked for."""

    path: str
    size_bytes: int
    mtime: float
    link: str | None = None  # where it leads to


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one path means on a server. ``names`` are relative to ``base``; none stands for all that is in
    it. ``files`` are the first ones of ``count``, by name."""

    text: str
    base: str
    kind: str  # folder | file | matches | none | other
    names: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    count: int = 0
    size_bytes: int = 0
    whole: bool = True
    links_out: tuple[str, ...] = ()  # links that lead out of the base: none of the files

    @property
    def folder(self) -> str:
        """The folder that the files' paths are relative to."""
        return posixpath.dirname(self.base) if self.kind == "file" else self.base


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a server has under the paths that were asked for, in their order."""

    workdir: str
    home: str | None
    free_bytes: int
    running: int  # jobs
    found: tuple[Found, ...]


def look(fleet: Fleet, server: Server, globs: Sequence[PathGlob]) -> Look:
    """Ask a server. Raises as ``verbs.call`` does, and SyncError for an answer that makes no sense."""
    request = {"op": "look", "globs": [glob.to_wire() for glob in globs]}
    return checked_look(server, call(fleet, server, "outputs", request, timeout_s=_TIMEOUT_S), globs)


def checked_look(server: Server, answer: Mapping[str, Any], globs: Sequence[PathGlob]) -> Look:
    """Given a server's answer, return it."""
    return Look(
        workdir=(text(answer.get("workdir")) or server.workdir).rstrip("/"),
        home=text(answer.get("home")),
        free_bytes=number(answer.get("free_bytes")) or 0,
        running=len(texts(answer.get("running"))),
        found=checked(server, answer.get("found"), globs),
    )


def checked(server: Server, told: object, globs: Sequence[PathGlob]) -> tuple[Found, ...]:
    """Given what a server tells of ``globs``, return it. Raises SyncError for names that were not asked
    for."""
    items = mappings(told)
    if len(items) != len(globs):
        raise _senseless(server, "it tells of other paths")
    return tuple(_found(server, item, glob) for item, glob in zip(items, globs, strict=True))


def _found(server: Server, told: Mapping[str, Any], glob: PathGlob) -> Found:
    kind, base = text(told.get("kind")) or "", text(told.get("base")) or ""
    if kind not in _KINDS or base not in (glob.base, glob.text) or (kind == "matches" and base != glob.base):
        raise _senseless(server, f"{glob.text}: {kind} {base!r}")
    names = texts(told.get("names"))
    if len(names) >= _MOST_NAMES:
        raise SyncError(
            f"{server.name}: {glob.text}: matches too many files",
            server=server.name,
            hint="name the folder that they are in, without wildcards",
        )
    expected = {"file": [posixpath.basename(base)], "matches": names}.get(kind, [])
    if names != expected or not all(_is_safe(name) for name in names):
        raise _senseless(server, f"{glob.text}: {names[:3]!r}")
    if kind == "matches" and not all(glob.matches(name) for name in names):
        raise _senseless(server, f"{glob.text}: {names[:3]!r}")
    known = frozenset(names)
    everything = [
        file for file in _files(told.get("files")) if kind == "folder" or _lies_in(file.path, known)
    ]
    files = tuple(file for file in everything if not _leads_out(file))
    return Found(
        text=glob.text,
        base=base,
        kind=kind,
        names=tuple(names),
        files=files,
        count=max(len(everything), number(told.get("count")) or 0),
        size_bytes=max(0, number(told.get("size_bytes")) or 0),
        whole=told.get("whole") is True,
        links_out=tuple(file.path for file in everything if _leads_out(file)),
    )


def _files(told: object) -> list[File]:
    files = []
    for item in told if isinstance(told, list) else []:
        if isinstance(item, list) and len(item) == 4 and isinstance(item[0], str) and _is_safe(item[0]):
            mtime = item[2] if isinstance(item[2], int | float) and abs(item[2]) < 1e11 else 0.0
            size_bytes = max(0, number(item[1]) or 0)
            files.append(File(path=item[0], size_bytes=size_bytes, mtime=float(mtime), link=text(item[3])))
    return files


def _lies_in(path: str, names: frozenset[str]) -> bool:
    """True for one of the names, and for what is below one."""
    parts = path.split("/")
    return any("/".join(parts[:count]) in names for count in range(1, len(parts) + 1))


def _leads_out(file: File) -> bool:
    if file.link is None:
        return False
    leads_to = posixpath.normpath(posixpath.join(posixpath.dirname(file.path), file.link))
    return leads_to.startswith(("/", "../")) or leads_to == ".."


def _is_safe(name: str) -> bool:
    """True for a path that stays in its folder."""
    parts = name.split("/")
    return bool(name) and "\0" not in name and not {"", ".", ".."} & set(parts)


def _senseless(server: Server, what: str) -> SyncError:
    return SyncError(
        f"{server.name}: its answer about its files makes no sense ({what})",
        server=server.name,
        hint="nothing was written; is the python3 there in order, and the server yours?",
    )
