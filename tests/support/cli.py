"""The installed ``rl``, run as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).resolve().parents[2] / "sample"


def rl_path() -> str:
    """The ``rl`` of the interpreter that runs the tests."""
    beside = Path(sys.executable).parent / "rl"
    return str(beside) if beside.exists() else str(shutil.which("rl"))


class Rl:
    """``rl`` in a project's folder. Calling it returns the finished process; it fails the test on an
    unexpected exit code."""

    def __init__(self, project: Path, env: dict[str, str] | None = None) -> None:
        self.project = project
        self.env = {**os.environ, **(env or {})}

    def __call__(
        self, *words: str, code: int | None = 0, stdin: str = "", timeout_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [rl_path(), *words],
            cwd=self.project,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        said = f"rl {' '.join(words)}: exit code {done.returncode}\n{done.stdout}\n--- stderr\n{done.stderr}"
        assert code is None or done.returncode == code, said
        return done

    def json(self, *words: str, code: int | None = 0, timeout_s: float = 600) -> dict[str, Any]:
        """Return the envelope that a command prints with ``--json``."""
        envelope = json.loads(self(words[0], "--json", *words[1:], code=code, timeout_s=timeout_s).stdout)
        assert isinstance(envelope, dict)
        return envelope


def copy_sample(folder: Path) -> Path:
    """Copy the sample's code to ``folder``; its inventory stays behind."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*SAMPLE.glob("*.py"), SAMPLE / "requirements.txt"):
        shutil.copy(path, folder)
    (folder / ".remote").mkdir(exist_ok=True)
    shutil.copy(SAMPLE / ".remote" / "exclude.txt", folder / ".remote")
    return folder
