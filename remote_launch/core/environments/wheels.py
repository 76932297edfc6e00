"""What to download for a server without internet: the same packages that its recipe installs."""

from __future__ import annotations

import dataclasses
import posixpath
from typing import TYPE_CHECKING

from remote_launch.core.environments.choices import choose

if TYPE_CHECKING:
    from remote_launch.core.environments.sources import Source
    from remote_launch.core.inventory import Environment


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WheelSet:
    """Requirements that are downloaded in one call, in the project's folder. ``export``: uv's words; what it
    prints is to be put before ``requirements``. Each set becomes a folder of its own on the server, with a
    requirements.txt that pins all of it."""

    requirements: str = ""
    export: tuple[str, ...] = ()
    building: bool = False  # what building the project needs: there to be found, not installed


def wheel_folder(number: int) -> str:
    """Return the folder of a set, from the workdir."""
    return f".rl/wheelhouse/{number}"


def wheelhouse_inputs(source: Source, environment: Environment) -> tuple[WheelSet, ...]:
    """Return what to download, the requirements of building included. Paths in them are relative to the
    project."""
    choice = choose(source, environment)
    extra = "".join(f"{line}\n" for line in choice.lines)
    build = "".join(f"{line}\n" for line in source.build_requires)
    sets: list[WheelSet] = []
    if source.kind == "uv.lock":
        folder = posixpath.dirname(source.path)
        words = ["export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-header"]
        words += ["--no-annotate", *(["--project", folder] if folder else [])]
        words += [word for name in choice.left_out for word in ("--no-emit-package", name)]
        sets.append(WheelSet(export=tuple(words)))
    elif source.locked:
        sets += [WheelSet(requirements=text) for text in (choice.hashed, choice.unhashed)]
    else:
        text = f"-r {source.path}\n" if source.kind == "requirements" else choice.hashed
        if source.hashed:
            sets.append(WheelSet(requirements=text))
        else:
            sets.append(WheelSet(requirements=text + extra))
            extra = ""
    sets.append(WheelSet(requirements=extra))
    sets.append(WheelSet(requirements=build, building=True))
    return tuple(one for one in sets if one.requirements or one.export)
