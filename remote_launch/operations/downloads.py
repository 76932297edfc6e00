"""Files for servers that have no internet: this machine fetches them, once for all servers, and sends
them."""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
import re
import threading
from typing import TYPE_CHECKING, Any

from remote_launch.errors import PrepareError
from remote_launch.operations.told import mapping, text
from remote_launch.transport.command import mask_urls
from remote_launch.transport.fetching import fetch_here
from remote_launch.transport.rsync import rsync_push

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from remote_launch.core.environments.steps import Download, Recipe, Step
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet

_OS = {"Darwin": "MacOSX"}
_WORD = "[A-Za-z0-9_]{1,32}"


def downloads_cache_dir() -> Path:
    """Return the folder that downloads are kept in. All of it may be deleted at any time."""
    from remote_launch.operations.wheelhouse import wheelhouse_cache_dir

    return wheelhouse_cache_dir().parent / "downloads"


@dataclasses.dataclass(slots=True)
class _File:
    """One file under way. ``got`` is what came of it, ``fetch_here``'s answer."""

    path: Path
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    got: dict[str, Any] | None = None


class Downloads:
    """What one command fetches here. Used from several threads."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._lock = threading.Lock()
        self._files: dict[tuple[str, str | None], _File] = {}

    def send_ahead(
        self, server: Server, recipe: Recipe, answer: dict[str, Any], on_line: Callable[[str, str], None]
    ) -> dict[str, str]:
        """Given what a server has, send it what it lacks, where the inventory says that it has no internet:
        it need not try first. Return the checksums by step."""
        programs, machine = mapping(answer.get("programs")), mapping(answer.get("machine"))
        system, kind = text(machine.get("system")) or "", text(machine.get("machine")) or ""
        sent: dict[str, str] = {}
        if not server.environment.offline or not re.fullmatch(_WORD, f"{system}{kind}"):
            return sent
        for step in recipe.environment.steps:
            if step.download is not None and text(programs.get(step.provides or "")) is None:
                url, to = (
                    word.replace("{os}", _OS.get(system, system)).replace("{machine}", kind)
                    for word in (step.download.url, step.download.to)
                )
                sent[step.name] = self._send(server, step, url, to, on_line)
        return sent

    def send(
        self, server: Server, step: Step, need: dict[str, Any], on_line: Callable[[str, str], None]
    ) -> str:
        """Given what a server could not fetch, fetch it here and send it; return its checksum. Raises
        PrepareError."""
        url, to = text(need.get("url")) or "", text(need.get("to")) or ""
        if step.download is None or not _is_of(step.download, url, to):
            raise PrepareError(
                server.name,
                step.name,
                f"the server asks for a file that is none of the recipe's: {mask_urls(url)[:200]}",
                hint="its login shell's start-up files may print something: try rl run -- true",
            )
        return self._send(server, step, url, to, on_line)

    def _send(
        self, server: Server, step: Step, url: str, to: str, on_line: Callable[[str, str], None]
    ) -> str:
        assert step.download is not None
        file = self._fetched(url, to, step.download.sha256, lambda line: on_line(step.name, line))
        digest = text((file.got or {}).get("sha256"))
        if digest is None:
            why = mask_urls(text((file.got or {}).get("message")) or "it broke off")
            raise PrepareError(
                server.name,
                step.name,
                f"neither the server nor this machine could download it: {why}",
                hint="installer_url names another place, a mirror for one; manager: uv or venv needs none",
            )
        on_line(step.name, f"sending {file.path.name} ({file.path.stat().st_size / 1e6:.0f} MB)")
        rsync_push(
            self._fleet.transport(server.name),
            file.path.parent,
            posixpath.dirname(to),
            files_from=file.path.name.encode() + b"\0",
        )
        return digest

    def _fetched(self, url: str, to: str, sha256: str | None, on_line: Callable[[str], None]) -> _File:
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        with self._lock:
            path = downloads_cache_dir() / name / posixpath.basename(to)
            file = self._files.setdefault((url, sha256), _File(path))
        if not file.lock.acquire(blocking=False):
            on_line("waiting: this machine downloads it for another server")
            file.lock.acquire()
        try:
            if file.got is None:
                on_line("no internet there: this machine downloads it")
                file.got = fetch_here(url, path, sha256, on_line, self._fleet.local_runs)
        finally:
            file.lock.release()
        return file


def _is_of(download: Download, url: str, to: str) -> bool:
    """True for the recipe's own file, for some kind of machine: a server is not believed more."""
    blanks = [
        re.escape(word).replace(r"\{os\}", _WORD).replace(r"\{machine\}", _WORD)
        for word in (download.url, download.to)
    ]
    return bool(re.fullmatch(blanks[0], url) and re.fullmatch(blanks[1], to))
