"""What the project says of its packages: the first file found of those that are known."""

from __future__ import annotations

import dataclasses
import posixpath
from typing import TYPE_CHECKING

from remote_launch.core.environments.includes import follow_includes
from remote_launch.core.environments.local_folders import build_files
from remote_launch.core.environments.locked import Indexes, Line, Lock, indexes_of
from remote_launch.core.environments.pipfile import read_pipfile, read_pipfile_lock
from remote_launch.core.environments.poetry_lock import read_poetry_lock
from remote_launch.core.environments.pyproject import Pyproject, read_pyproject
from remote_launch.core.environments.reading import content_of, normal_name, read_toml, table
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from remote_launch.core.inventory import Environment

REQUIREMENTS = "requirements.txt"
PYPROJECT = "pyproject.toml"
LOCKED = ("uv.lock", "poetry.lock", "Pipfile.lock")
CONDA_FILES = ("environment.yml", "environment.yaml")
# In this order.
KINDS = (*LOCKED, "Pipfile", REQUIREMENTS, *CONDA_FILES, PYPROJECT)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the packages come from.

    ``lines`` are the packages in pip's words, where they had to be converted here; of ``locked`` ones
    every package is listed, each with its exact version. ``project`` is the folder of the project itself
    when it is a package to install."""

    kind: str  # one of KINDS ("requirements" for any file of pip's), or "none"
    path: str  # the file, relative to the project
    files: tuple[str, ...]  # every file of the project that it is read from, ``path`` first
    content: str  # a hash of what they hold
    lines: tuple[Line, ...] | None = None
    locked: bool = False
    hashed: bool = False  # pip then wants a hash for everything that is in the same call
    indexes: Indexes = dataclasses.field(default_factory=Indexes)
    depends: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    project: str | None = None
    build_requires: tuple[str, ...] = ()
    dynamic: bool = False  # building the project tells what it depends on


def find_source(root: Path, files: Sequence[str], environment: Environment) -> Source | None:
    """Given the project and the files that a sync sends, return what to install from, None without any.

    Raises ConfigError when the file that the inventory names isn't there, and for one that can't be used."""
    sent = frozenset(files)
    path = _named(environment, sent) or _first(root, sent, environment)
    if path is not None and _is_condas(path):
        if environment.manager != "conda":
            raise _only_conda(root / path, environment)
        path = None  # conda makes the environment from it
    if path is not None:
        source = _read(root, path, sent, environment)
    elif environment.packages or environment.install_project:
        source = Source(kind="none", path="", files=(), content="")
    else:
        return None
    return _with_project(root, source, sent, environment)


def _named(environment: Environment, sent: frozenset[str]) -> str | None:
    name = environment.requirements
    if name is None or name in sent:
        return name
    raise ConfigError(
        f"environment.requirements: {name} is not among the files that are sent",
        key="environment.requirements",
        hint="check the name, and .remote/exclude.txt",
    )


def _first(root: Path, sent: frozenset[str], environment: Environment) -> str | None:
    """The first of those that there are; conda has its own file and requirements.txt side by side."""
    for name in KINDS:
        if name in sent and (name != PYPROJECT or _has_dependencies(root)):
            beside = _is_condas(name) and environment.manager != "conda" and PYPROJECT in sent
            if not (beside and _has_dependencies(root)):
                return name
    return None


def _is_condas(path: str) -> bool:
    return path.endswith((".yml", ".yaml"))


def _only_conda(path: Path, environment: Environment) -> ConfigError:
    return ConfigError(
        f"only conda reads it, and environment.manager is {environment.manager}",
        path=path,
        hint="set environment.manager: conda, or write the packages to requirements.txt",
    )


def _has_dependencies(root: Path) -> bool:
    """True for a pyproject.toml that is about packages, and not only about tools."""
    found = read_pyproject(root / PYPROJECT)
    return bool(found.dependencies) or found.is_dynamic or found.only_poetry or found.is_package


def _read(root: Path, path: str, sent: frozenset[str], environment: Environment) -> Source:
    name = posixpath.basename(path)
    if name == "uv.lock":
        return _uv_lock(root, path, sent, environment)
    own = environment.index_url is None and not environment.extra_index_url
    if name == "poetry.lock":
        return _converted(root, path, sent, name, read_poetry_lock(root, path), locked=True)
    if name == "Pipfile.lock":
        lock = read_pipfile_lock(root, path, indexes=own)
        return _converted(root, path, sent, name, lock, locked=True)
    if name == "Pipfile":
        return _converted(root, path, sent, name, read_pipfile(root, path, indexes=own), locked=False)
    if name == PYPROJECT:
        return _pyproject(root, path, sent, environment)
    included = follow_includes(root, path, sent)
    files = tuple(dict.fromkeys((*included.files, *build_files(included.lines, sent))))
    return Source(
        kind="requirements",
        path=path,
        files=files,
        content=content_of(root, files),
        hashed=included.hashed,
    )


def _beside(path: str, name: str) -> str:
    return posixpath.join(posixpath.dirname(path), name)


def _converted(
    root: Path, path: str, sent: frozenset[str], kind: str, lock: Lock, *, locked: bool
) -> Source:
    beside = _beside(path, PYPROJECT)
    files = (path, beside) if kind == "poetry.lock" and beside in sent else (path,)
    files = tuple(dict.fromkeys((*files, *build_files([line.text for line in lock.lines], sent))))
    return Source(
        kind=kind,
        path=path,
        files=files,
        content=content_of(root, files),
        lines=lock.lines,
        locked=locked,
        hashed=locked and any(not line.unhashed for line in lock.lines),
        indexes=lock.indexes,
        depends=lock.depends,
    )


def _uv_lock(root: Path, path: str, sent: frozenset[str], environment: Environment) -> Source:
    """uv.lock is read by uv itself, on the server; here only its names, versions and indexes."""
    beside = _beside(path, PYPROJECT)
    if beside not in sent:
        raise ConfigError(
            f"needs {beside}, which is not among the files that are sent",
            path=root / path,
            hint="see .remote/exclude.txt, or name another file: environment.requirements",
        )
    told = read_toml(root / path)
    packages = [one for one in told.get("package") or () if isinstance(one, dict) and one.get("name")]
    lines, urls, depends, folders = [], [], {}, []
    for package in packages:
        name, source = normal_name(str(package["name"])), table(package, "source")
        registry = source.get("registry")
        version = str(package.get("version") or "") or None
        lines.append(Line(name=name, text="", version=version))
        if local := source.get("editable") or source.get("directory"):
            folders.append(f"-e {posixpath.join(posixpath.dirname(path), str(local))}")
        depends[name] = tuple(
            normal_name(str(one.get("name")))
            for one in package.get("dependencies") or ()
            if isinstance(one, dict)
        )
        if isinstance(registry, str) and "://" in registry:
            urls.append(registry)
    members = sorted(name for name in sent if posixpath.basename(name) == PYPROJECT and name != beside)
    more = members if table(read_toml(root / beside), "tool", "uv", "workspace") else ()
    files = tuple(dict.fromkeys((path, beside, *more, *build_files(folders, sent))))
    own = environment.index_url or environment.extra_index_url
    return Source(
        kind="uv.lock",
        path=path,
        files=files,
        content=content_of(root, files),
        lines=tuple(lines),
        locked=True,
        hashed=True,
        indexes=Indexes() if own else indexes_of(urls),
        depends=depends,
    )


def _pyproject(root: Path, path: str, sent: frozenset[str], environment: Environment) -> Source:
    found = read_pyproject(root / path)
    if found.only_poetry:
        raise ConfigError(
            "the dependencies are in [tool.poetry.dependencies], and there is no poetry.lock",
            path=root / path,
            hint="write one: poetry lock; or use [project].dependencies",
        )
    if found.is_dynamic and environment.install_project is False:
        raise ConfigError(
            "project.dependencies is dynamic: only building the project tells what they are",
            path=root / path,
            hint="leave environment.install_project out, or name a requirements file",
        )
    if found.other_sources and environment.manager != "uv":
        names = ", ".join(found.other_sources)
        raise ConfigError(
            f"[tool.uv.sources] says where {names} comes from, which pip doesn't read",
            path=root / path,
            hint="set environment.manager: uv, or write a lock: uv lock",
        )
    dynamic = [_beside(path, name) for name in found.dynamic_files if _beside(path, name) in sent]
    files = (path, *dynamic)
    return Source(
        kind=PYPROJECT,
        path=path,
        files=files,
        content=content_of(root, files),
        lines=tuple(Line(name="", text=line) for line in found.dependencies),
        dynamic=found.is_dynamic,
    )


def _with_project(root: Path, source: Source, sent: frozenset[str], environment: Environment) -> Source:
    """The project itself too, where the source is of a pyproject.toml that says how it is built, or where
    the inventory asks for it."""
    own = source.kind in ("uv.lock", "poetry.lock", PYPROJECT)
    wanted = environment.install_project
    if wanted is False or (wanted is None and not own):
        return source
    folder = posixpath.dirname(source.path) if own else ""
    beside = posixpath.join(folder, PYPROJECT)
    found: Pyproject | None = read_pyproject(root / beside) if beside in sent else None
    if wanted is None and not source.dynamic and not (found and found.is_package):
        return source
    if found is None and posixpath.join(folder, "setup.py") not in sent:
        raise ConfigError(
            f"environment.install_project: there is no {beside} that is sent",
            key="environment.install_project",
            hint="leave it out, or write a pyproject.toml with a [build-system]",
        )
    # The folder's own file tells how it is built: another build is another install.
    more = () if found is None or beside in source.files else (beside,)
    return dataclasses.replace(
        source,
        project=f"./{folder}" if folder else ".",
        build_requires=found.build_requires if found else ("setuptools", "wheel"),
        files=(*source.files, *more),
        content=source.content + (content_of(root, more) if more else ""),
    )
