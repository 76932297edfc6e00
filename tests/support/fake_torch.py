"""An environment whose torch is a stand-in: its torchrun starts one rank, with its output where torch's
would be. For tests of what surrounds a launch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_RUN = """
import os, subprocess, sys

def main(args):
    folder = os.path.join(args[args.index("--log-dir") + 1], "none_x", "attempt_0", "0")
    os.makedirs(folder)
    script = next(number for number, word in enumerate(args) if word.endswith(".py"))
    with open(f"{folder}/stdout.log", "wb") as out, open(f"{folder}/stderr.log", "wb") as err:
        sys.exit(subprocess.call([sys.executable, "-u", *args[script:]], stdout=out, stderr=err))
"""


def make_environment(folder: Path) -> Path:
    """Make it in ``folder``; return its python."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    errors = site / "torch" / "distributed" / "elastic" / "multiprocessing"
    errors.mkdir(parents=True)
    for package in (errors, *list(errors.parents)[:3]):
        (package / "__init__.py").touch()
    (site / "torch" / "version.py").write_text("__version__ = '2.5.1'\n")
    (site / "torch" / "distributed" / "run.py").write_text(_RUN)
    (errors / "errors.py").write_text("class ChildFailedError(Exception):\n    failures = {}\n")
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    (folder / "pyvenv.cfg").write_text(f"home = {sys.prefix}/bin\n")
    return python
