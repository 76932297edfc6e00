"""pyproject.toml: what it depends on, and whether the project itself is a package to install."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.reading import normal_name, read_toml, table
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_OLD_BACKEND = ("setuptools>=40.8.0",)  # what pip builds with where nothing is said (PEP 518)
# What backends ask for when they build an editable project (get_requires_for_build_editable of PEP 660).
_ASKED_LATER = {"hatchling": ("editables~=0.3",), "setuptools": ("wheel",)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pyproject:
    """What counts of a pyproject.toml."""

    path: Path
    told: dict[str, Any] = dataclasses.field(repr=False)

    @property
    def is_package(self) -> bool:
        """True when the project itself can be installed, and doesn't say that it isn't meant to be."""
        if table(self.told, "tool", "poetry").get("package-mode") is False:
            return False
        asked = table(self.told, "tool", "uv").get("package")
        return bool(asked) if isinstance(asked, bool) else "build-system" in self.told

    @property
    def build_requires(self) -> tuple[str, ...]:
        """What must be there to build the project, with what the backend itself asks for on the way."""
        system = table(self.told, "build-system")
        wanted = system.get("requires")
        words = tuple(str(word) for word in wanted) if isinstance(wanted, list) else _OLD_BACKEND
        backend = str(system.get("build-backend") or "setuptools").partition(":")[0].partition(".")[0]
        return words + tuple(word for word in _ASKED_LATER.get(backend, ()) if word not in words)

    @property
    def is_dynamic(self) -> bool:
        """True when only building the project tells what it depends on."""
        return "dependencies" in (table(self.told, "project").get("dynamic") or ())

    @property
    def dynamic_files(self) -> tuple[str, ...]:
        """The files that setuptools reads the dependencies from."""
        named = table(self.told, "tool", "setuptools", "dynamic", "dependencies").get("file") or ()
        return tuple(str(word) for word in ([named] if isinstance(named, str) else named))

    @property
    def only_poetry(self) -> bool:
        """True when the dependencies are in Poetry's own table alone."""
        own = table(self.told, "tool", "poetry", "dependencies")
        return bool(own.keys() - {"python"}) and not self.dependencies and not self.is_dynamic

    @property
    def dependencies(self) -> tuple[str, ...]:
        """[project].dependencies. Raises ConfigError."""
        found = table(self.told, "project").get("dependencies") or []
        if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
            raise ConfigError(
                "project.dependencies: expected a list of texts", path=self.path, hint='as ["numpy>=2"]'
            )
        return tuple(found)

    @property
    def other_sources(self) -> tuple[str, ...]:
        """The dependencies that [tool.uv.sources] takes from elsewhere than the index: pip doesn't see it."""
        elsewhere = {normal_name(name) for name in table(self.told, "tool", "uv", "sources")}
        return tuple(sorted(elsewhere & {requirement_name(line) or "" for line in self.dependencies}))


def read_pyproject(path: Path) -> Pyproject:
    """Raises ConfigError: file, line, what is wrong."""
    return Pyproject(path=path, told=read_toml(path))


def requirement_name(line: str) -> str | None:
    """Return the normalized name of a requirement's package; None for a path or a bare URL."""
    match = _NAME.match(line)
    rest = line[match.end() :].lstrip() if match else ""
    return normal_name(match[1]) if match and (not rest or rest[0] in "[<>=!~;@,(") else None
