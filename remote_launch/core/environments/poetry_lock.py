"""poetry.lock in pip's words. Poetry 2's locks say for each package which groups want it, and when."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.locked import (
    Line,
    Lock,
    git_url,
    indexes_of,
    project_path,
    requirement,
)
from remote_launch.core.environments.reading import normal_name, read_toml, table
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_GROUP = "main"
_PYPI = "https://pypi.org/simple"
_FIRST_WITH_GROUPS = (2, 1)


def read_poetry_lock(root: Path, path: str) -> Lock:
    """Return the packages of the main group, the optional ones of extras left out. Raises ConfigError."""
    file = root / path
    told = read_toml(file)
    _check_version(file, table(told, "metadata").get("lock-version"))
    packages = told.get("package") or []
    lines, urls, depends = [], [], {}
    for package in packages if isinstance(packages, list) else []:
        try:
            if _GROUP not in package["groups"] or package.get("optional"):
                continue
            lines.append(_line(package, file, posixpath.dirname(path)))
            depends[lines[-1].name] = tuple(normal_name(name) for name in table(package, "dependencies"))
            source = table(package, "source")
            urls += [source["url"]] if source.get("type") == "legacy" else [] if source else [_PYPI]
        except (KeyError, TypeError, AttributeError) as error:
            name = package.get("name") if isinstance(package, dict) else package
            message = f"the package {name!r} is not as Poetry writes it ({error})"
            raise ConfigError(message, path=file, hint="write it anew: poetry lock") from error
    # The order of packages says nothing: PyPI first where it is one of them.
    return Lock(lines=tuple(lines), indexes=indexes_of(urls), depends=depends)


def _check_version(file: Path, version: object) -> None:
    numbers = str(version).split(".")
    known = all(number.isdecimal() for number in numbers)
    if not known or tuple(int(number) for number in numbers) < _FIRST_WITH_GROUPS:
        raise ConfigError(
            f"written by an old Poetry (lock-version {version}): it doesn't say which packages are for"
            " development",
            path=file,
            hint="write it anew with Poetry 2: poetry lock; or poetry export -o requirements.txt, and"
            " environment.requirements: requirements.txt",
        )
    if int(numbers[0]) > _FIRST_WITH_GROUPS[0]:
        raise ConfigError(
            f"lock-version {version} is newer than this rl knows",
            path=file,
            hint="poetry export -o requirements.txt, and environment.requirements: requirements.txt",
        )


def _line(package: dict[str, Any], file: Path, folder: str) -> Line:
    name, version, source = str(package["name"]), str(package["version"]), table(package, "source")
    markers = _markers(package)
    hashes = [str(one["hash"]) for one in package.get("files") or ()]
    kind, url = source.get("type", "legacy"), str(source.get("url"))
    if kind == "legacy":
        text = requirement(name, f"=={version}", markers=markers, hashes=hashes)
    elif kind == "directory":
        # Editable whatever the lock says: a sync brings new code, and a copy of the old would be run. pip
        # takes no markers for it.
        path = project_path(url, file, folder, name)
        text, hashes = (f"{path} ; {markers}" if markers else f"-e {path}"), []
    elif kind == "file":
        text = requirement(project_path(url, file, folder, name), "", markers=markers, hashes=hashes)
    elif kind == "git":
        ref = source.get("resolved_reference") or source.get("reference")
        url = git_url(url, ref, source.get("subdirectory"))
        text, hashes = requirement(name, f"@ {url}", markers=markers), []
    elif kind == "url":
        text = requirement(name, f"@ {url}", markers=markers, hashes=hashes)
    else:
        message = f"{name} comes from a source that rl doesn't know: {kind}"
        raise ConfigError(message, path=file, hint="poetry export -o requirements.txt makes a file of pip's")
    return Line(name=normal_name(name), text=text, version=version, unhashed=not hashes)


def _markers(package: dict[str, Any]) -> str:
    """One text for all groups, or one a group; a group without one always wants the package."""
    markers = package.get("markers") or ""
    return str(markers.get(_GROUP, "") if isinstance(markers, dict) else markers)
