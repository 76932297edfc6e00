"""Packages for servers without internet: downloaded here, once for all servers of one kind, and kept.

A wheelhouse is a folder named by the hash of what it was made from: wheels, ``requirements.txt`` that pins
every one of them with its hash (install it with ``--no-index --no-deps --find-links``), ``manifest.json``.
It is put in place whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from remote_launch.core.environments.platforms import pip_abis, pip_platforms, uv_platform
from remote_launch.errors import CommandError, PrepareError
from remote_launch.transport.command import mask_env, mask_urls
from remote_launch.transport.pip import WheelTarget, download_wheels, export_lock
from remote_launch.transport.requirements import (
    absolute_includes,
    content_digest,
    file_digest,
    read_requirements,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from remote_launch.core.environments.platforms import Platform
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet

STEP = "download packages"
MANIFEST = "manifest.json"
PINS = "requirements.txt"
_LAYOUT = 1  # another number makes every wheelhouse anew
_KEPT = 5  # of a project; the ones used in the last day are kept anyway
_DAY_S = 86_400
_TURN_S = 0.5
# uv's names for what pip calls otherwise: a server's ``env`` may have either.
_FROM_UV = {
    "UV_INDEX_URL": "PIP_INDEX_URL",
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
    "UV_EXTRA_INDEX_URL": "PIP_EXTRA_INDEX_URL",
    "UV_INDEX": "PIP_EXTRA_INDEX_URL",
    "UV_FIND_LINKS": "PIP_FIND_LINKS",
}
_TAKEN = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_TRUSTED_HOST")
_NAMED_INDEX = re.compile(r"(^|\s)[\w.-]+=(?=\w+:)")  # uv: name=https://…

_lock = threading.Lock()
_building: dict[str, Future[Path]] = {}
# What one command made: made once by it, whatever it refreshes, for it may be under way to a server.
_made_for: WeakKeyDictionary[Fleet, set[str]] = WeakKeyDictionary()


def build_wheelhouse(
    fleet: Fleet,
    server: Server,
    platform: Platform,
    requirements: str | Path,
    on_progress: Callable[[str], None],
    *,
    refresh: bool = False,
) -> Path:
    """Return the wheelhouse for a server: the one kept, or one made now. Called from several threads, one of
    them builds what several servers share, and the others wait for it.

    ``requirements`` is a file, or the text of one whose paths are relative to the project. What matters is
    what it says, so that requirements without versions keep theirs until ``refresh``. Raises ConfigError,
    PrepareError.
    """
    build = _Build(fleet, server, platform, refresh)
    with tempfile.TemporaryDirectory(prefix="rl-requirements-") as scratch:
        file = requirements
        if isinstance(file, str):
            file = Path(scratch, PINS)
            text = absolute_includes(str(requirements), fleet.project.root)
            file.write_text(text, encoding="utf-8", errors="surrogateescape")
        try:
            return _once(build.key(file), lambda key: build.run(key, Path(file), on_progress), on_progress)
        except CommandError as error:
            message = f"on this machine: {error.message}"
            raise PrepareError(server.name, STEP, message, tail=error.tail, hint=error.hint) from error
        except OSError as error:
            raise PrepareError(
                server.name,
                STEP,
                f"on this machine: {error.filename or wheelhouse_cache_dir()}: {error.strerror}",
                hint="packages are kept in ~/.cache/remote_launch; XDG_CACHE_HOME names another place",
            ) from error


def exported_lock(fleet: Fleet, server: Server, words: Sequence[str]) -> str:
    """Given uv's words, return what ``uv export`` prints in the project's folder. Raises PrepareError."""
    try:
        return export_lock(words, fleet.project.root, cancel=fleet.local_runs)
    except CommandError as error:
        message = f"on this machine: {error.message}"
        raise PrepareError(server.name, STEP, message, tail=error.tail, hint=error.hint) from error


def wheelhouse_cache_dir() -> Path:
    """Return the folder that wheelhouses are kept in. All of it may be deleted at any time."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if cache.startswith("/") else Path.home() / ".cache"
    return base / "remote_launch" / "wheelhouse"


def index_settings(server: Server) -> dict[str, str]:
    """Return where the server's packages come from, in pip's variables: its ``environment`` before its
    ``env``."""
    found = {
        name: _NAMED_INDEX.sub(r"\1", server.env[uv].replace(",", " "))
        for uv, name in _FROM_UV.items()
        if uv in server.env
    }
    found |= {name: server.env[name] for name in _TAKEN if name in server.env}
    wanted = server.environment
    if wanted.index_url:
        found["PIP_INDEX_URL"] = wanted.index_url
    if wanted.extra_index_url:
        found["PIP_EXTRA_INDEX_URL"] = " ".join(wanted.extra_index_url)
    if wanted.find_links:
        found["PIP_FIND_LINKS"] = " ".join(wanted.find_links)
    return found


def _once(key: str, build: Callable[[str], Path], on_progress: Callable[[str], None]) -> Path:
    """Build in the first thread that comes; the others get what it got, an error too."""
    with _lock:
        going = _building.get(key)
        mine = going is None
        future: Future[Path] = Future() if going is None else going
        _building[key] = future
    if not mine:
        on_progress("waiting for the packages of a server like this one")
        while not wait_for([future], timeout=_TURN_S).done:
            pass
        return future.result()
    try:
        path = build(key)
        future.set_result(path)
    except BaseException as error:
        future.set_exception(error)
        raise
    finally:
        with _lock:
            del _building[key]
    return path


class _Build:
    def __init__(self, fleet: Fleet, server: Server, platform: Platform, refresh: bool) -> None:
        self._root = fleet.project.root
        self._cancel = fleet.local_runs
        self._platform = platform
        self._env = index_settings(server)
        backend = server.environment.torch_backend
        self._pip_args = [*server.environment.pip_args, *(["--torch-backend", backend] if backend else [])]
        with _lock:
            self._made = _made_for.setdefault(fleet, set())
        self._refresh = refresh
        self._target = WheelTarget(
            python=platform.python,
            implementation=platform.implementation,
            abis=pip_abis(platform),
            platforms=pip_platforms(platform),
            machine=platform.machine,
            uv_platform=uv_platform(platform),
            words=str(platform),
        )

    def key(self, requirements: Path) -> str:
        """Return the wheelhouse's name: a hash of what it is made from."""
        asked = read_requirements(requirements, base=self._root)
        settings = [
            _LAYOUT, str(self._root), str(self._platform), sorted(mask_env(self._env).items()),
            [mask_urls(word) for word in self._pip_args], content_digest(asked),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]

    def run(self, key: str, requirements: Path, on_progress: Callable[[str], None]) -> Path:
        """Return the folder with that name, made if need be."""
        cache = wheelhouse_cache_dir()
        place = cache / key
        if (key in self._made or not self._refresh) and is_whole(place):
            os.utime(place / MANIFEST)
            on_progress("packages found on this machine")
            return place
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=cache))
        try:
            wheels = self._download(requirements, aside, on_progress)
            self._write_pins(aside, wheels)
            self._write_manifest(aside)
            _put_in_place(aside, place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._made.add(key)
        _prune(cache, str(self._root))
        size = sum(file.stat().st_size for file in place.iterdir())
        noun = "package" if len(wheels) == 1 else "packages"
        on_progress(f"{len(wheels)} {noun}, {size / 1e6:.1f} MB")
        return place

    def _download(self, requirements: Path, folder: Path, on_progress: Callable[[str], None]) -> list[Path]:
        return download_wheels(
            requirements,
            self._target,
            folder,
            project_dir=self._root,
            env=self._env,
            pip_args=self._pip_args,
            on_line=on_progress,
            cancel=self._cancel,
        )

    @staticmethod
    def _write_pins(folder: Path, wheels: Sequence[Path]) -> None:
        lines = []
        for wheel in wheels:
            name, version = wheel.name.split("-")[:2]
            lines.append(f"{name}=={version} --hash=sha256:{file_digest(wheel)}\n")
        (folder / PINS).write_text("".join(lines))

    def _write_manifest(self, folder: Path) -> None:
        files = {file.name: file_digest(file) for file in sorted(folder.iterdir())}
        about = {"layout": _LAYOUT, "project": str(self._root), "platform": str(self._platform)}
        (folder / MANIFEST).write_text(json.dumps({**about, "files": files}, indent=1) + "\n")


def read_manifest(place: Path) -> dict[str, Any] | None:
    """Return what a wheelhouse says of itself (``files``: sha256 by name); None for a folder that is none."""
    try:
        manifest = json.loads((place / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else None


def is_whole(place: Path) -> bool:
    """True when every file of the wheelhouse is there."""
    manifest = read_manifest(place)
    return manifest is not None and all((place / name).is_file() for name in manifest["files"])


def _put_in_place(aside: Path, place: Path) -> None:
    aside.chmod(0o755)
    old = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        with contextlib.suppress(FileNotFoundError):
            os.replace(place, old)  # noqa: PTH105 - over an empty folder
        os.replace(aside, place)  # noqa: PTH105
    except OSError:
        if not is_whole(place):  # another process was quicker: the same wheels
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _prune(cache: Path, project: str) -> None:
    """Delete the project's wheelhouses that were not used for long, and what interrupted builds left."""
    recent = time.time() - _DAY_S
    places = []
    for folder in cache.iterdir():
        with contextlib.suppress(OSError):
            if folder.name.startswith("."):
                if folder.stat().st_mtime < recent:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            manifest = read_manifest(folder)
            if manifest is not None and manifest.get("project") == project:
                places.append(((folder / MANIFEST).stat().st_mtime, folder))
    for used, folder in sorted(places, reverse=True)[_KEPT:]:
        if used < recent:
            shutil.rmtree(folder, ignore_errors=True)
