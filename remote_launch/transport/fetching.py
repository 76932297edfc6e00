"""A file from the internet to this machine, by the very program that servers fetch with: resumed, checked,
never half a file. It runs as a process of its own, since nothing of ``remote`` is imported here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_launch.transport.command import mask_urls
from remote_launch.transport.process import run_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from remote_launch.transport.process import Cancel

# -I: neither PYTHONPATH nor the current folder can put a module in another one's place.
_FETCH = (
    "import sys; sys.path.append(sys.argv[1]); from remote_launch.remote.verbs import main; "
    "sys.exit(main(['fetch']))"
)


def fetch_here(
    url: str, path: Path, sha256: str | None, on_line: Callable[[str], None], cancel: Cancel
) -> dict[str, Any]:
    """Have ``url`` in the file ``path``; return {"sha256", "verified"}, or {"message"} for why not."""
    package = Path(__file__).resolve().parents[2]
    frames = _Frames(on_line)
    path.parent.mkdir(parents=True, exist_ok=True)
    ended = run_process(
        [sys.executable, "-I", "-c", _FETCH, str(package)],
        stdin=json.dumps({"url": url, "to": str(path), "sha256": sha256}).encode(),
        on_stdout=frames.feed,
        cancel=cancel,
        cwd=path.parent,
    )
    for kind in ("end", "failed"):
        if isinstance(frames.last.get(kind), dict):
            return dict(frames.last[kind])
    said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return {"message": f"{mask_urls(url)}: {said[-1] if said else f'exit code {ended.returncode}'}"}


class _Frames:
    """Reads the lines of JSON; the last one is kept."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._held = b""
        self.last: dict[str, Any] = {}

    def feed(self, chunk: bytes) -> None:
        *whole, self._held = (self._held + chunk).split(b"\n")
        for line in whole:
            frame = json.loads(line)
            if isinstance(frame.get("out"), str):
                self._on_line(frame["out"].strip())
            else:
                self.last = frame
