"""What a step of a prepare says comes through, whatever the moment in which it ends."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from remote_launch.remote import script

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def run(
    folder: Path, shell: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, list[dict[str, Any]]]:
    """Run a step; return its wait status, the end of what it said, and the frames. Its pid is in "pid"."""
    children: list[subprocess.Popen[bytes]] = []

    def noted(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(subprocess.Popen(*args, **options))
        (folder / "pid").write_text(str(children[0].pid))
        return children[0]

    told: list[dict[str, Any]] = []
    with monkeypatch.context() as patch:
        program = SimpleNamespace(**{**vars(subprocess), "Popen": noted})
        patch.setattr(script, "subprocess", program)
        status, tail = script.run_told(["/bin/sh", "-c", shell], str(folder), dict(os.environ), told.append)
    children[0].stdout.close()  # type: ignore[union-attr]
    return status, tail, told


def test_last_words_between_two_looks_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had been quiet for long; then it speaks and ends just when it was found to be quiet."""
    looks: list[float] = []

    class Late(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            looks.append(timeout or 0.0)
            if len(looks) > 1:
                return super().select(timeout)
            assert super().select(0) == []
            (tmp_path / "go").touch()
            pid = int((tmp_path / "pid").read_text())
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            return []

    monkeypatch.setattr(script.selectors, "DefaultSelector", Late)
    status, tail, told = run(
        tmp_path, "while [ ! -e go ]; do sleep 0.02; done; echo no matching distribution; exit 3", monkeypatch
    )
    assert (status, tail) == (3 << 8, "no matching distribution\n")
    assert {"out": tail} in told


def test_what_is_left_running_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "BEAT_S", 0.1)
    status, tail, _ = run(tmp_path, 'sleep 600 & echo "$!"', monkeypatch)
    os.kill(int(tail), signal.SIGKILL)
    assert status == 0
