"""Where an interpreter is on this machine."""

from __future__ import annotations

import os

from . import machine
from .jobdir import expand

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def find_python(python: str, path_prepend: list[str]) -> str | None:
    """Given an interpreter as the inventory names it, return its absolute path (links not resolved: a venv is
    where its link is)."""
    path = ":".join([*(expand(folder) for folder in path_prepend), os.environ.get("PATH") or DEFAULT_PATH])
    found = machine.which(expand(python) if python.startswith("~") else python, path)
    return os.path.abspath(found) if found else None
