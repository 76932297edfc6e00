"""Paths with wildcards, as the launching side has taken them apart: a base, then for each part of the path a
regular expression, or None for any number of folders (``**``)."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

    Parts = tuple[Any, ...]


def compiled(parts: Any) -> Parts:
    """Return the parts. Raises ValueError for what can't be some."""
    if not isinstance(parts, list):
        raise ValueError("no list of parts")
    try:
        return tuple(None if part is None else re.compile(part) for part in parts)
    except (TypeError, re.error) as error:
        raise ValueError(str(error)) from None


def steps(parts: Parts, name: str) -> Iterator[Parts]:
    """Yield what is left of the parts when a name has been taken: nothing but ``**`` where it is meant
    itself."""
    if parts[0] is None:
        if not name.startswith("."):
            yield parts
        if len(parts) > 1:
            yield from steps(parts[1:], name)
    elif parts[0].match(name):
        yield parts[1:]


def is_meant(rests: set[Parts]) -> bool:
    """Given all that ``steps`` yielded, say whether the name is meant itself, with all that is below."""
    return any(all(part is None for part in rest) for rest in rests)


def covers(glob: Any, path: str) -> bool:
    """Given {"base", "parts"} relative to the workdir, say whether a path in it is meant or lies below what
    is. False for what makes no sense."""
    base = glob.get("base") if isinstance(glob, dict) else None
    if not isinstance(base, str):
        return False
    if base and path != base and not path.startswith(base + "/"):
        return False
    try:
        ways = {compiled(glob.get("parts"))}
    except ValueError:
        return False
    if ways == {()}:
        return True
    for name in path[len(base) :].strip("/").split("/"):
        ways = {rest for parts in ways for rest in steps(parts, name)}
        if is_meant(ways):
            return True
    return False
