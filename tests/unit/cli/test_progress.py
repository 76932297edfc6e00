from __future__ import annotations

import io

import pytest
from rich.console import Console

from remote_launch.cli.progress import ServerProgress
from remote_launch.operations.prepare import Progress


def shown(progress: ServerProgress, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(progress._rows())
    return [line.rstrip() for line in capture.get().splitlines()]


def event(server: str, text: str, *, step: str = "install packages (pip)", **ended: bool) -> Progress:
    return Progress(server=server, step=step, text=text, **ended)


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_a_long_line_is_cut_and_leaves_the_server_and_the_step_whole(width: int) -> None:
    progress = ServerProgress(["gpu-a", "gpu-b"])
    progress.on_progress(event("gpu-a", "Installing collected packages: " + "nvidia-cublas, " * 50))
    progress.on_progress(event("gpu-b", ""))
    first, second = shown(progress, width)
    assert first.startswith("… gpu-a install packages (pip)")
    assert first.endswith("…")
    assert len(first) <= width
    assert second.startswith("… gpu-b install packages (pip)")


def test_the_time_of_a_step_stands_still_once_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("remote_launch.cli.progress.time.monotonic", lambda: clock[0])
    progress = ServerProgress(["gpu-a"])
    progress.on_progress(event("gpu-a", "", step="rsync"))
    clock[0] += 2
    progress.on_progress(event("gpu-a", "5 files", step="rsync", ended=True))
    clock[0] += 3600
    assert "2.0 s" in shown(progress, 80)[0]
    assert shown(progress, 80)[0].startswith("✓ gpu-a")
