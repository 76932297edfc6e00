"""Paths on a server with wildcards: ``*``, ``?`` and ``[…]`` within one part, ``**`` over any number of
folders. As in a shell, a wildcard at the beginning of a part leaves hidden names out."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from remote_launch.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

_WILD = re.compile(r"[*?\[]")
_RL_OWN = (".rl", ".remote", ".jobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathGlob:
    """A path with or without wildcards. ``base`` is what stands before the first part with one: relative to
    the workdir ("" is the workdir itself), absolute, or from "~/". ``parts`` are the others."""

    text: str
    base: str
    parts: tuple[str, ...] = ()

    @property
    def is_relative(self) -> bool:
        return not self.base.startswith(("/", "~"))

    def to_wire(self) -> dict[str, Any]:
        """Return it as the servers' programs take it: a regular expression a part, None for ``**``."""
        return {
            "text": self.text,
            "base": self.base,
            "parts": [None if part == "**" else _regex(part) for part in self.parts],
        }

    def matches(self, name: str) -> bool:
        """True for a path below ``base`` that the wildcards mean."""
        return bool(self.parts) and _matches(self.parts, tuple(name.split("/")))

    def covers(self, path: str) -> bool:
        """True for a path, relative as this one, that it means, and for what lies below one."""
        prefix = f"{self.base}/" if self.base else ""
        if not self.parts:
            return path == self.base or path.startswith(prefix)
        names = path.removeprefix(prefix).split("/") if path.startswith(prefix) else []
        return any(self.matches("/".join(names[:count])) for count in range(1, len(names) + 1))


def parse_glob(text: str) -> PathGlob:
    """Given a path, return it; "." and a final "/" say nothing more. Raises ValueError for one with ``..``
    in it, or that can't be a path."""
    if not text or "\0" in text or "\n" in text:
        raise ValueError("expected a path")
    if text.startswith("~") and text != "~" and not text.startswith("~/"):
        raise ValueError("only ~/ is followed, no other user's home")
    root = "/" if text.startswith("/") else ""
    words = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in words:
        raise ValueError("'..' is not followed")
    try:
        for part in words:
            re.compile(_regex(part))
    except re.error as error:
        raise ValueError(f"its wildcards make no sense: {error.msg}") from None
    fixed = list(itertools.takewhile(lambda part: not _WILD.search(part), words))
    return PathGlob(
        text=root + "/".join(words), base=root + "/".join(fixed), parts=tuple(words[len(fixed) :])
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What jobs write, as a path in the workdir. ``per_node``: each node writes its own, so that it is no
    wonder where others lack it."""

    path: str
    per_node: bool = False


def check_output(text: str) -> None:
    """Raise ValueError for what can't be a path of outputs: one that leaves the workdir, or is all of it, or
    rl's own."""
    glob = parse_glob(text)
    if not glob.is_relative:
        raise ValueError("expected a path relative to the workdir")
    if not glob.text or (not glob.base and not glob.parts[0].strip("*")):
        raise ValueError("that is the whole project: outputs are not sent, and can be removed")
    if glob.text.split("/", 1)[0] in _RL_OWN:
        raise ValueError("that is a folder of rl's own")


def rsync_excludes(globs: Iterable[str]) -> list[str]:
    """Given paths of outputs, return rsync's patterns that leave out the same and all that is below."""
    patterns = []
    for text in globs:
        parts = parse_glob(text).text.split("/")
        # rsync's ** stands for one folder at least in the middle of a path.
        places = [number for number, part in enumerate(parts) if part == "**"]
        for dropped in itertools.chain.from_iterable(
            itertools.combinations(places, count) for count in range(len(places) + 1)
        ):
            kept = [part for number, part in enumerate(parts) if number not in dropped]
            patterns.append("/" + "/".join(kept))
    return patterns


def _matches(parts: tuple[str, ...], names: tuple[str, ...]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        if _matches(parts[1:], names):
            return True
        return bool(names) and not names[0].startswith(".") and _matches(parts, names[1:])
    if not names or names[0] in ("", "."):
        return False
    return bool(re.match(_regex(parts[0]), names[0])) and _matches(parts[1:], names[1:])


def _regex(part: str) -> str:
    """Return the regular expression of one part of a path."""
    words = [] if part.startswith(".") or not _WILD.match(part) else [r"(?!\.)"]
    place = 0
    while place < len(part):
        char = part[place]
        end = part.find("]", place + 2 + (part[place + 1 : place + 2] in ("!", "^"))) if char == "[" else -1
        if char == "*":
            words.append("[^/]*")
        elif char == "?":
            words.append("[^/]")
        elif end > 0:
            inside = part[place + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            words.append(f"[{'^' + inside[1:] if inside[0] in '!^' else inside}]")
            place = end
        else:
            words.append(re.escape(char))
        place += 1
    return "".join(words) + r"\Z"
