"""What an environment is: its interpreter and versions, read from its files. Nothing of it is imported: torch
takes seconds."""

from __future__ import annotations

import glob
import os
import platform
import re
import subprocess
from importlib.util import find_spec

from .interpreter import find_python

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TIMEOUT_S = 20.0


def machine() -> dict[str, Any]:
    """Return what decides which programs and wheels run here."""
    libc, version = platform.libc_ver()
    has_venv = all(find_spec(name) is not None for name in ("ensurepip", "venv"))  # importing them: 25 ms
    return {
        "system": platform.system(), "machine": platform.machine(), "libc": libc or "musl",
        "libc_version": version, "python_version": platform.python_version(), "venv": has_venv,
    }


def platform_name() -> str:
    """Return "Linux x86_64": an environment made for one runs on no other."""
    return f"{platform.system()} {platform.machine()}"


def interpreter(python: Any) -> str | None:
    """Return the absolute path of an interpreter as the recipe names it; None when it isn't there."""
    return find_python(python, []) if isinstance(python, str) and python else None


def real_interpreter(python: Any) -> str | None:
    """Return the file that an interpreter is: /usr/bin/python3.11 of a venv's bin/python."""
    path = interpreter(python)
    return os.path.realpath(path) if path else None


def is_of(mark: dict[str, Any], python: Any) -> bool:
    """True for the mark of what was made on this kind of machine with the python that is there now. A system
    that goes from 3.11 to 3.12 leaves a venv whose packages no python finds."""
    if mark.get("platform") != platform_name():
        return False
    real = real_interpreter(python)
    return real is not None and mark.get("interpreter", real) == real


def versions(python: Any) -> dict[str, str | None]:
    """Return {"python", "torch", "cuda"} of an interpreter; None for what it hasn't."""
    found: dict[str, str | None] = {"python": None, "torch": None, "cuda": None}
    path = interpreter(python)
    if path is None:
        return found
    found["python"], folders = library(path)
    for folder in folders:
        try:
            path = os.path.join(folder, "torch", "version.py")
            with open(path, encoding="utf-8", errors="replace") as file:
                content = file.read(65536)
        except OSError:
            continue
        for name, key in (("__version__", "torch"), ("cuda", "cuda")):
            found[key] = assigned(content, name)
        break
    return found


def assigned(content: str, name: str) -> str | None:
    """Given a module's text, return the string that a line assigns to a name; None for none."""
    match = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"\n]+)['\"]", content, re.M)
    return match.group(1) if match else None


def library(path: str) -> tuple[str | None, list[str]]:
    """Given an interpreter's path, return its version and the folders of its packages."""
    prefix = os.path.dirname(os.path.dirname(path))
    version = _python_of(prefix)
    if version is None:
        return _ask(path)
    return version, glob.glob(os.path.join(prefix, "lib*", "python3*", "site-packages"))


def _python_of(prefix: str) -> str | None:
    """Return the version of an environment's Python by its own files."""
    try:
        with open(os.path.join(prefix, "pyvenv.cfg"), encoding="utf-8", errors="replace") as file:
            match = re.search(r"^version(?:_info)?\s*=\s*([0-9.]+)", file.read(65536), re.M)
            if match:
                return match.group(1)
    except OSError:
        pass
    for path in glob.glob(os.path.join(prefix, "conda-meta", "python-3*.json")):
        match = re.match(r"python-([0-9.]+)-", os.path.basename(path))
        if match:
            return match.group(1)
    return None


def _ask(path: str) -> tuple[str | None, list[str]]:
    """Ask an interpreter that is no environment of ours for its version and its folders."""
    ask = "import sys, platform; print(platform.python_version(), *sys.path, sep='\\n')"
    try:
        done = subprocess.run(
            [path, "-c", ask], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S, check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, []
    first, *folders = done.stdout.decode("utf-8", "replace").splitlines() or [""]
    return first or None, [folder for folder in folders if folder]
