"""Programs of this machine that others need: found once, whichever thread asks first."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

_lock = threading.Lock()
_found: dict[str, Path] = {}


def uv_here() -> Path | None:
    """Return the uv binary here: on PATH, or the one that the Python package brings."""
    with _lock:  # find_uv_bin asks sysconfig, whose first call is not safe in several threads at once
        if "uv" not in _found:
            binary = _look_for_uv()
            if binary is None:
                return None
            _found["uv"] = binary
        return _found["uv"]


def forget() -> None:
    """Look again at the next call."""
    with _lock:
        _found.clear()


def _look_for_uv() -> Path | None:
    on_path = shutil.which("uv")
    if on_path:
        return Path(on_path).resolve()
    try:
        from uv import find_uv_bin  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    try:
        return Path(find_uv_bin())
    except FileNotFoundError:
        return None
