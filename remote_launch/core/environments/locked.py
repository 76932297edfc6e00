"""What a lock file says, in pip's words: exact versions, hashes, markers, and the indexes they came from."""

from __future__ import annotations

import dataclasses
import os
import posixpath
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_PYPI = re.compile(r"https?://(?:pypi\.org|pypi\.python\.org)/simple/?\Z")
_SCP = re.compile(r"([\w.-]+@[\w.-]+):(?!//)(.+)\Z")  # git@host:owner/name.git


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One package. ``unhashed``: what comes from git or a folder, mostly."""

    name: str  # normalized
    text: str
    version: str | None = None
    unhashed: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Indexes:
    """Where a file says its packages are. PyPI is None: the server's own default, which may be a mirror."""

    index_url: str | None = dataclasses.field(default=None, repr=False)
    extra: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    insecure_hosts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """All that a lock file says of the packages to run with."""

    lines: tuple[Line, ...]
    indexes: Indexes
    depends: Mapping[str, tuple[str, ...]]  # by normalized name; {} where the file doesn't say


def requirement(
    name: str,
    version: str,
    *,
    markers: str = "",
    extras: Sequence[str] = (),
    hashes: Iterable[str] = (),
) -> str:
    """Return a line of pip's format. ``version`` is a specifier as "==1.0", or "@ URL"."""
    text = name + (f"[{','.join(extras)}]" if extras else "")
    text += f" {version}" if version.startswith("@") else version
    text += f" ; {markers}" if markers else ""
    return " \\\n    ".join([text, *(f"--hash={one}" for one in hashes)])


def git_url(url: str, ref: str | None, subdirectory: str | None) -> str:
    """Return pip's URL of a commit."""
    short = _SCP.match(url)
    text = f"ssh://{short[1]}/{short[2]}" if short and "://" not in url else url
    text = text if text.startswith("git+") else f"git+{text}"
    return text + (f"@{ref}" if ref else "") + (f"#subdirectory={subdirectory}" if subdirectory else "")


def project_path(url: str, lock: Path, folder: str, name: str) -> str:
    """Given a path that a lock in ``folder`` names, return it from the project's top. Raises ConfigError for
    one that isn't sent."""
    path = posixpath.normpath(posixpath.join(folder, url))
    if path.startswith(("/", "../")) or path == "..":
        raise ConfigError(
            f"{name} comes from {url}, which is outside the project: the servers don't have it",
            path=lock,
            hint="move it into the project, or install it from git or an index",
        )
    return f"./{path}"


def indexes_of(urls: Iterable[str], insecure: Iterable[str] = ()) -> Indexes:
    """Given the indexes that a file names, the main one first, return the settings that they mean."""
    wanted = list(dict.fromkeys(urls))
    others = [url for url in wanted if not _PYPI.match(url)]
    main = others.pop(0) if others and len(others) == len(wanted) else None
    hosts = tuple(dict.fromkeys(urlsplit(url).netloc.rpartition("@")[2] for url in insecure))
    return Indexes(index_url=main, extra=tuple(others), insecure_hosts=hosts)


def with_variables(url: str, path: Path) -> str:
    """Return a URL with the ${VARIABLES} of this machine filled in, as pipenv does. Raises ConfigError."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise ConfigError(
                f"the variable {name} of an index is not set",
                path=path,
                hint=f"export {name}=…, or set environment.index_url in the inventory",
            )
        return os.environ[name]

    return _VARIABLE.sub(value, url)
