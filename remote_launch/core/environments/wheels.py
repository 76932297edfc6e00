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
    prints is to be put before ``requirements``. ``no_deps``: every package is listed."""

    requirements: str = ""
    export: tuple[str, ...] = ()
    no_deps: bool = False
    torch_backend: str | None = None


def wheelhouse_inputs(source: Source, environment: Environment) -> tuple[WheelSet, ...]:
    """Return what to download, the requirements of building included. Paths in them are relative to the
    project."""
    choice = choose(source, environment)
    extra = "".join(f"{line}\n" for line in choice.lines)
    build = "".join(f"{line}\n" for line in source.build_requires)
    backend = environment.torch_backend
    sets: list[WheelSet] = []
    if source.kind == "uv.lock":
        folder = posixpath.dirname(source.path)
        words = ["export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-header"]
        words += ["--no-annotate", *(["--project", folder] if folder else [])]
        words += [word for name in choice.left_out for word in ("--no-emit-package", name)]
        sets.append(WheelSet(export=tuple(words), no_deps=True))
    elif source.locked:
        sets += [WheelSet(requirements=text, no_deps=True) for text in (choice.indexed, choice.direct)]
    else:
        text = f"-r {source.path}\n" if source.kind == "requirements" else choice.indexed + choice.direct
        if source.hashed:
            sets.append(WheelSet(requirements=text, torch_backend=backend))
        else:
            sets.append(WheelSet(requirements=text + extra, torch_backend=backend))
            extra = ""
    sets.append(WheelSet(requirements=extra, torch_backend=backend))
    sets.append(WheelSet(requirements=build))
    return tuple(one for one in sets if one.requirements or one.export)
