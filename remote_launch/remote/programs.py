"""The programs that make environments: where they are here, and where they keep their caches."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess

from .facts import existing
from .jobdir import expand

_CHECK_TIMEOUT_S = 20.0
# A login that is not interactive reads no .bashrc, so what is installed is often not on PATH.
_UV_PLACES = ("~/.local/bin/uv", "~/.cargo/bin/uv")
_CONDA_PLACES = (
    "~/.rl/miniforge3/bin/conda",
    "~/miniforge3/bin/conda", "~/mambaforge/bin/conda", "~/miniconda3/bin/conda", "~/miniconda/bin/conda",
    "~/anaconda3/bin/conda", "~/micromamba/bin/micromamba", "~/.local/bin/micromamba", "~/bin/micromamba",
    "/opt/conda/bin/conda", "/opt/miniforge3/bin/conda", "/opt/miniconda3/bin/conda",
    "/opt/anaconda3/bin/conda",
)
_PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "uv": (_UV_PLACES, ("uv",)),
    "conda": (_CONDA_PLACES, ("conda", "mamba", "micromamba")),
}
_found: dict[tuple[str, str], str | None] = {}


def find(name: str, root: str) -> str | None:
    """Return the path of "uv" or "conda" (or mamba, micromamba) that runs here; None without one."""
    key = (name, root)
    if key not in _found or _found[key] is None:
        _found[key] = next((path for path in _candidates(name, root) if _runs(path)), None)
    return _found[key]


def _candidates(name: str, root: str) -> list[str]:
    places, names = _PLACES[name]
    own = [os.environ.get("CONDA_EXE") or ""] if name == "conda" else [os.path.join(root, ".rl", "bin", name)]
    on_path = [path for path in (shutil.which(word) for word in names) if path]
    usual = [path for place in places for path in glob.glob(os.path.expanduser(place))]
    return [path for path in [*on_path, *usual, *own] if os.access(path, os.X_OK)]


def _runs(path: str) -> bool:
    """True when the program answers: one that was sent may be for another libc, or the folder noexec."""
    try:
        done = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=_CHECK_TIMEOUT_S, check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def caches(env: dict[str, str], prefix: str | None, root: str) -> dict[str, str]:
    """Return the variables that put uv's and conda's caches on the environment's filesystem, where files are
    linked and not copied (torch: 0.8 s against 3.1 s); {} where they are there already, or were set."""
    if not prefix:
        return {}
    device = os.stat(existing(expand(prefix))).st_dev
    found = {}
    for name, usual, own in (
        ("UV_CACHE_DIR", os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "uv"), "uv"),
        ("CONDA_PKGS_DIRS", "~/.conda", "conda"),
    ):
        if not env.get(name) and os.stat(existing(expand(usual))).st_dev != device:
            found[name] = os.path.join(root, ".rl", "cache", own)
    return found
