"""What is installed of a lock, and what the inventory puts in a package's place: ``packages`` that name a
version, and torch's family for a ``torch_backend``."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from remote_launch.core.environments.pyproject import requirement_name

if TYPE_CHECKING:
    from remote_launch.core.environments.locked import Line
    from remote_launch.core.environments.sources import Source
    from remote_launch.core.inventory import Environment

_TORCH = ("torch", "torchvision", "torchaudio")
# What a build of torch brings with it; another build brings others, so they go with it.
_BROUGHT = re.compile(r"(?:nvidia|cuda)-|(?:pytorch-)?triton\b")
_VERSIONED = re.compile(r"[<>=~!@]")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What goes to the installer, in pip's format."""

    hashed: str  # of an unlocked source: all
    unhashed: str
    lines: tuple[str, ...]  # of the inventory, and what stands in for a lock's
    left_out: tuple[str, ...] = ()  # names that the lock has


def choose(source: Source, environment: Environment) -> Choice:
    """Given a source, return what is installed of it for an environment."""
    packages = environment.packages
    lines = source.lines or ()
    if not source.locked:
        return Choice(hashed="".join(f"{line.text}\n" for line in lines), unhashed="", lines=packages)
    named = {requirement_name(line) for line in packages if _VERSIONED.search(line.partition(";")[0])}
    out = {line.name for line in lines} & named
    more: tuple[str, ...] = ()
    if environment.torch_backend is not None:
        family = [line for line in lines if line.name in _TORCH and line.version and line.name not in out]
        more = tuple(dict.fromkeys(f"{line.name}=={_public(line.version)}" for line in family))
        out |= {line.name for line in family}
    if "torch" in out:
        out |= _brought(source)
    kept = [line for line in lines if line.name not in out]
    return Choice(
        hashed=_text(kept, unhashed=False),
        unhashed=_text(kept, unhashed=True),
        lines=(*packages, *more),
        left_out=tuple(sorted(name for name in out if name)),
    )


def _public(version: str | None) -> str:
    """Return a version without the build: 2.6.0 of 2.6.0+cu124."""
    return (version or "").partition("+")[0]


def _brought(source: Source) -> set[str]:
    """Return the names of the libraries that the lock has only for torch's sake."""
    found: set[str] = set()
    ahead = ["torch"]
    while ahead:
        for name in source.depends.get(ahead.pop(), ()):
            if _BROUGHT.match(name) and name not in found:
                found.add(name)
                ahead.append(name)
    return found


def _text(lines: list[Line], *, unhashed: bool) -> str:
    return "".join(f"{line.text}\n" for line in lines if line.unhashed is unhashed and line.text)
