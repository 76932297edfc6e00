"""What the project says of its packages: the first file found of those that are known."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from remote_launch.core.inventory import Environment

REQUIREMENTS = "requirements.txt"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the packages come from."""

    kind: str  # "uv.lock", "poetry.lock", "Pipfile.lock", "Pipfile", "requirements", "environment.yml", …
    path: str  # the file, relative to the project
    files: tuple[str, ...]  # every file of the project that it is read from, ``path`` first
    content: str  # a hash of what they hold
    requirements: str | None = None  # in pip's format, where it had to be converted here


def find_source(root: Path, files: Sequence[str], environment: Environment) -> Source | None:
    """Given the project and the files that a sync sends, return what to install from, None without any.

    Raises ConfigError when the file that the inventory names isn't there."""
    import hashlib

    name = environment.requirements or REQUIREMENTS
    if name not in files:
        if environment.requirements is None:
            return None
        raise ConfigError(
            f"environment.requirements: {name} is not among the files that are sent",
            key="environment.requirements",
            hint="check the name, and .remote/exclude.txt",
        )
    content = hashlib.sha256((root / name).read_bytes()).hexdigest()
    return Source(kind="requirements", path=name, files=(name,), content=content)
