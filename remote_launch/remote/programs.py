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
_CONDA_HOME = "~/.rl/miniforge3"  # core/environments/conda.py installs there
_CONDA_MARK = ".rl-conda"  # written there last: without it half is installed
_CONDA_PLACES = (
    _CONDA_HOME + "/bin/conda",
    "~/miniforge3/bin/conda", "~/mambaforge/bin/conda", "~/miniconda3/bin/conda", "~/miniconda/bin/conda",
    "~/anaconda3/bin/conda", "~/micromamba/bin/micromamba", "~/.local/bin/micromamba", "~/bin/micromamba",
    "/opt/conda/bin/conda", "/opt/miniforge3/bin/conda", "/opt/miniconda3/bin/conda",
    "/opt/anaconda3/bin/conda", "/opt/miniforge/bin/conda", "/opt/mambaforge/bin/conda",
    "/opt/micromamba/bin/micromamba", "/usr/local/miniforge3/bin/conda", "/usr/local/miniconda3/bin/conda",
)
_PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "uv": (_UV_PLACES, ("uv",)),
    "conda": (_CONDA_PLACES, ("conda", "mamba", "micromamba")),
}
_VARIABLES = {"conda": ("CONDA_EXE", "MAMBA_EXE"), "uv": ()}
_found: dict[tuple[str, str], str | None] = {}


def find(name: str, root: str, env: dict[str, str] | None = None) -> str | None:
    """Return the path of "uv" or "conda" (or mamba, micromamba) that runs here; None without one. ``env`` is
    what the inventory sets on this server."""
    given = [(env or {}).get(variable) for variable in _VARIABLES[name]]
    wanted = next((expand(path) for path in given if path), "")
    key = (name, wanted)
    if key not in _found or _found[key] is None:
        _found[key] = next((path for path in _candidates(name, root, wanted) if _runs(path)), None)
    return _found[key]


def _candidates(name: str, root: str, wanted: str) -> list[str]:
    places, names = _PLACES[name]
    named = [wanted] + [os.environ.get(variable) or "" for variable in _VARIABLES[name]]
    on_path = [path for path in (shutil.which(word) for word in names) if path]
    usual = [path for place in places for path in glob.glob(os.path.expanduser(place))]
    sent = [os.path.join(root, ".rl", "bin", name)]
    found = [path for path in [*named, *on_path, *usual, *sent] if os.access(path, os.X_OK)]
    return [path for path in found if not _is_half_installed(path)]


def _is_half_installed(path: str) -> bool:
    """True for what an installation that was broken off has left in rl's own folder."""
    home = os.path.realpath(os.path.expanduser(_CONDA_HOME))
    inside = os.path.realpath(path).startswith(home + os.sep)
    return inside and not os.path.isfile(os.path.join(home, _CONDA_MARK))


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
    device = _device(expand(prefix))
    found = {}
    uv = os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "uv")
    if not env.get("UV_CACHE_DIR") and _device(expand(uv)) != device:
        found["UV_CACHE_DIR"] = os.path.join(root, ".rl", "cache", "uv")
    if env.get("CONDA") and not env.get("CONDA_PKGS_DIRS"):
        usual = _conda_packages(env["CONDA"], env)
        if _device(usual) != device:
            own = os.path.join(root, ".rl", "cache", "conda")
            # conda takes what is in the second, and adds to the first.
            only_one = os.path.basename(env["CONDA"]) != "conda"
            found["CONDA_PKGS_DIRS"] = own if only_one else f"{own},{usual}"
    return found


def _conda_packages(conda: str, env: dict[str, str]) -> str:
    """Return where a conda keeps packages: beside itself, or in the home folder where that is read-only."""
    if os.path.basename(conda) == "micromamba":
        return os.path.join(expand(env.get("MAMBA_ROOT_PREFIX") or "~/micromamba"), "pkgs")
    base = os.path.dirname(os.path.dirname(os.path.realpath(conda)))
    return os.path.join(base, "pkgs") if os.access(base, os.W_OK) else expand("~/.conda/pkgs")


def _device(path: str) -> int:
    return os.stat(existing(path)).st_dev
