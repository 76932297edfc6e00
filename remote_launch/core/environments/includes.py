"""requirements.txt and the files that it names (-r, -c), found as pip finds them."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from typing import TYPE_CHECKING

from remote_launch.core.environments.reading import read_text
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_INCLUDE = re.compile(r"\s*(?:-r|-c|--requirements?|--constraints?)(?:\s*=\s*|\s+|(?<=-[rc]))(\S.*?)\s*\Z")
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_HASH = re.compile(r"(?:\s|^)--(?:hash\s*[=\s]|require-hashes\b)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Included:
    """A requirements file with all that it names."""

    files: tuple[str, ...]  # the first is the file itself
    hashed: bool  # pip then wants a hash for every package of the call
    lines: tuple[str, ...] = ()  # of all files; continued ones joined


def follow_includes(root: Path, name: str, sent: Collection[str]) -> Included:
    """Given a requirements file of the project, return every file that pip will read there.

    Raises ConfigError for an include that isn't sent, and for files that include each other."""
    found: dict[str, list[str]] = {}
    hashed = _follow(root, name, sent, found, ())
    lines = tuple(line for own in found.values() for line in own)
    return Included(files=tuple(found), hashed=hashed, lines=lines)


def _follow(
    root: Path, name: str, sent: Collection[str], found: dict[str, list[str]], above: tuple[str, ...]
) -> bool:
    own = found[name] = []
    hashed = False
    for number, line in logical_lines(read_text(root / name)):
        own.append(line)
        hashed = hashed or bool(_HASH.search(line))
        match = _INCLUDE.match(line)
        if match is None:
            continue
        word = match[1].strip("'\"")
        if "://" in word or "${" in word or word.startswith(("/", "~")):
            continue  # the server's own: pip reads it there, and its content can't be known here
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), word))
        if path in (*above, name):
            chain = " -> ".join([*above, name, path])
            raise ConfigError(
                f"the files include each other: {chain}", path=root / name, line=number, hint="take one out"
            )
        if path not in sent:
            raise _not_sent(root, name, number, path)
        if path not in found:
            hashed = _follow(root, path, sent, found, (*above, name)) or hashed
    return hashed


def _not_sent(root: Path, name: str, number: int, path: str) -> ConfigError:
    if path.startswith("../"):
        why = "is outside the project: the servers don't have it"
    elif not (root / path).exists():
        why = "is not there (paths are relative to the file that names them)"
    else:
        why = "is not among the files that are sent"
    hint = "see .remote/exclude.txt" if "among" in why else "mend the line"
    return ConfigError(f"{path} {why}", path=root / name, line=number, hint=hint)


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Return (line number, line) with continued lines joined and comments gone, as pip reads them."""
    held, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not comment:
            held += line[:-1]
            continue
        yield first, _COMMENT.sub("", held + (" " + line if comment else line)).rstrip()
        held, first = "", 0
    if held:
        yield first, _COMMENT.sub("", held).rstrip()
