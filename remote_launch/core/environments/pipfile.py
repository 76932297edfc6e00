"""Pipfile and Pipfile.lock in pip's words."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.locked import (
    Indexes,
    Line,
    Lock,
    git_url,
    indexes_of,
    project_path,
    requirement,
    with_variables,
)
from remote_launch.core.environments.reading import normal_name, read_json, read_toml, table
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# A Pipfile may say these on their own, as sys_platform = "== 'linux'".
_MARKERS = (
    *("os_name", "sys_platform", "platform_machine", "platform_python_implementation", "platform_release"),
    *("platform_system", "platform_version", "python_version", "python_full_version", "implementation_name"),
    "implementation_version",
)


def read_pipfile_lock(root: Path, path: str, *, indexes: bool = True) -> Lock:
    """Return the packages of the section ``default``. Raises ConfigError. Without ``indexes`` the file's own
    are not looked at."""
    file = root / path
    told = read_json(file)
    if not isinstance(told.get("default"), dict):
        raise ConfigError("no packages (default)", path=file, hint="write it anew: pipenv lock")
    meta = table(told, "_meta")
    found = _indexes(meta.get("sources"), file) if indexes else Indexes()
    lines = _lines(told["default"], file, path, "pipenv lock")
    return Lock(lines=lines, indexes=found, depends={})


def read_pipfile(root: Path, path: str, *, indexes: bool = True) -> Lock:
    """Return [packages] of a Pipfile, which pins nothing. Raises ConfigError."""
    file = root / path
    told = read_toml(file)
    found = _indexes(told.get("source"), file) if indexes else Indexes()
    lines = _lines(table(told, "packages"), file, path, "pipenv verify")
    return Lock(lines=lines, indexes=found, depends={})


def _indexes(sources: Any, file: Path) -> Indexes:
    found = [source for source in sources or () if isinstance(source, dict) and source.get("url")]
    urls = {source["url"]: with_variables(str(source["url"]), file) for source in found}
    insecure = [urls[source["url"]] for source in found if source.get("verify_ssl") is False]
    return indexes_of(urls.values(), insecure)


def _lines(packages: dict[str, Any], file: Path, path: str, mend: str) -> tuple[Line, ...]:
    lines = []
    for name, entry in packages.items():
        told = {"version": entry} if isinstance(entry, str) else entry
        try:
            lines.append(_line(name, told, file, posixpath.dirname(path)))
        except (TypeError, AttributeError, KeyError) as error:
            message = f"the package {name!r} is not as pipenv writes it"
            raise ConfigError(message, path=file, hint=f"see: {mend}") from error
    return tuple(lines)


def _line(name: str, told: dict[str, Any], file: Path, folder: str) -> Line:
    markers = _markers(told)
    extras, hashes = told.get("extras") or (), told.get("hashes") or ()
    version = str(told.get("version") or "").strip()
    normal = normal_name(name)
    for key in ("git", "path", "file"):
        if told.get(key):
            where = _direct(key, name, told, file, folder)
            text = requirement(where, "", markers=markers, hashes=hashes)
            return Line(name=normal, text=text, unhashed=not hashes)
    version = "" if version == "*" else version
    text = requirement(name, version, markers=markers, extras=extras, hashes=hashes)
    return Line(name=normal, text=text, version=version.removeprefix("==") or None, unhashed=not hashes)


def _direct(key: str, name: str, told: dict[str, Any], file: Path, folder: str) -> str:
    value = with_variables(str(told[key]), file)
    extras = f"[{','.join(told['extras'])}]" if told.get("extras") else ""
    if key == "git":
        return f"{name}{extras} @ {git_url(value, told.get('ref'), told.get('subdirectory'))}"
    if "://" in value:
        return f"{name}{extras} @ {value}"
    where = project_path(value, file, folder, name) + extras
    return f"-e {where}" if told.get("editable") else where


def _markers(told: dict[str, Any]) -> str:
    own = [f"{key} {told[key]}" for key in _MARKERS if told.get(key)]
    words = [word for word in (told.get("markers"), *own) if word]
    return " and ".join(f"({word})" for word in words) if len(words) > 1 else "".join(words)
