"""Folders of the project that are installed as packages of their own (``-e ./lib``): what says how each is
built, and so what it depends on."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_BUILD_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_EDITABLE = re.compile(r"\s*(?:-e|--editable)(?:\s*=\s*|\s+|(?<=-e))")
_NAMED = re.compile(r"\s*[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[^\]]*\])?\s*@\s*file:")
_REST = re.compile(r"\[[^\]/]*\]|\s;.*|\s+--.*|#.*")  # extras, a marker, options, #egg=


def folder_of(line: str) -> str | None:
    """Given a requirement in pip's words, return the folder of the project that it installs, relative to it;
    None for any other."""
    rest = _EDITABLE.sub("", line, count=1)
    is_editable = rest != line
    named = _NAMED.match(rest)
    if named:
        rest = f"file:{rest[named.end() :]}"
    rest = rest.strip().strip("'\"")
    is_local = is_editable or rest.startswith(("./", "../", "file:"))
    word = _REST.sub("", rest.removeprefix("file:")).strip()
    if not is_local or not word or "://" in word or word.startswith(("/", "~", "$", "git+", "hg+", "svn+")):
        return None
    folder = posixpath.normpath(word)
    return None if folder.startswith("..") else folder


def build_files(lines: Iterable[str], sent: Collection[str]) -> tuple[str, ...]:
    """Given requirements, return what says how their folders are built, of what is sent."""
    folders = dict.fromkeys(folder for line in lines if (folder := folder_of(line)) is not None)
    paths = [posixpath.normpath(posixpath.join(folder, name)) for folder in folders for name in _BUILD_FILES]
    return tuple(path for path in paths if path in sent)
