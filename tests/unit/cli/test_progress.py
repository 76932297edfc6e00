from __future__ import annotations

import io

import pytest
from rich.console import Console

from remote_launch.cli.progress import ServerProgress, _Rows
from remote_launch.operations.prepare import Progress

PIP = "install packages (pip)"


def shown(progress: ServerProgress, width: int, height: int = 50) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(_Rows(progress))
    return [line.rstrip() for line in capture.get().splitlines()]


def event(server: str, text: str, *, step: str = PIP, **ended: bool) -> Progress:
    return Progress(server=server, step=step, text=text, **ended)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("remote_launch.cli.progress.time.monotonic", lambda: now[0])
    return now


class TestRows:
    @pytest.mark.parametrize("width", [60, 80, 120, 300])
    def test_a_long_line_is_cut_and_leaves_the_server_and_the_step_whole(self, width: int) -> None:
        progress = ServerProgress(["gpu-a", "gpu-b"])
        progress.on_progress(event("gpu-a", "Installing collected packages: " + "nvidia-cublas, " * 50))
        progress.on_progress(event("gpu-b", ""))
        first, second = shown(progress, width)
        assert first.startswith("… gpu-a  install packages (pip)")
        assert first.endswith("…")
        assert len(first) == width - 2  # the terminal's own "^C" fits: a line more would stay after the end
        assert second.startswith("… gpu-b  install packages (pip)")

    def test_what_a_server_says_steers_nothing_and_takes_one_line(self) -> None:
        progress = ServerProgress(["gpu-a"])
        progress.on_progress(event("gpu-a", "\x1b[2J\x1b]0;title\x07one\ttwo\x1b[31m\x08 漢字 three"))
        (line,) = shown(progress, 80)
        assert line.endswith("one two 漢字 three")
        assert line.isprintable()

    def test_wide_characters_are_counted_as_the_terminal_does(self) -> None:
        progress = ServerProgress(["gpu-a"])
        progress.on_progress(event("gpu-a", "漢" * 100))
        assert len(shown(progress, 60)) == 1

    def test_the_time_of_a_step_stands_still_once_it_has_ended(self, clock: list[float]) -> None:
        progress = ServerProgress(["gpu-a"])
        progress.on_progress(event("gpu-a", "", step="rsync"))
        clock[0] += 2
        progress.on_progress(event("gpu-a", "5 files", step="rsync", ended=True))
        clock[0] += 3600
        assert "2.0 s" in shown(progress, 80)[0]

    def test_a_server_is_ready_when_all_of_it_has_ended(self, clock: list[float]) -> None:
        progress = ServerProgress(["gpu-a", "gpu-b"])
        progress.on_progress(event("gpu-a", "", step="rsync"))
        clock[0] += 2
        progress.on_progress(event("gpu-a", "5 files", step="rsync", ended=True))
        assert shown(progress, 80)[0].startswith("… gpu-a  rsync")
        progress.on_progress(event("gpu-a", "ready", step="prepare", ended=True))
        progress.on_progress(event("gpu-b", "nothing to do", step="prepare", ended=True))
        assert [line.split() for line in shown(progress, 80)] == [
            ["✓", "gpu-a", "ready", "2.0", "s"],
            ["✓", "gpu-b", "nothing", "to", "do", "2.0", "s"],
        ]

    def test_a_failed_step_stays_and_an_unreachable_server_says_why(self) -> None:
        progress = ServerProgress(["gpu-a", "gpu-b"])
        progress.on_progress(event("gpu-a", "No matching distribution", ended=True, error=True))
        for server in ("gpu-a", "gpu-b"):
            progress.on_progress(event(server, f"{server}: why", step="prepare", ended=True, error=True))
        first, second = shown(progress, 80)
        assert first.startswith(f"✗ gpu-a  {PIP}")
        assert first.endswith("No matching distribution")
        assert second.split() == ["✗", "gpu-b", "failed", "0.0", "s", "why"]

    def test_more_servers_than_lines_show_those_that_are_at_work(self) -> None:
        names = [f"gpu-{number:02}" for number in range(64)]
        progress = ServerProgress(names)
        for name in names[:40]:
            progress.on_progress(event(name, "ready", step="prepare", ended=True))
        for name in names[50:]:
            progress.on_progress(event(name, "Collecting torch"))
        lines = shown(progress, 80, height=20)
        assert len(lines) == 18
        assert sum("Collecting torch" in line for line in lines) == 14
        assert lines[-1] == "  and 7 connecting, 40 ready"


class TestPlainLines:
    def said(
        self, capsys: pytest.CaptureFixture[str], *events: Progress, show_output: bool = False
    ) -> list[str]:
        with ServerProgress(["a"], show_output=show_output) as progress:
            for one in events:
                progress.on_progress(one)
        return capsys.readouterr().err.splitlines()

    def test_a_step_has_a_line_when_it_begins_and_when_it_ends(
        self, capsys: pytest.CaptureFixture[str], clock: list[float]
    ) -> None:
        events = (
            event("a", ""),
            event("a", "Collecting torch"),
            event("a", "Installed", ended=True),
            event("a", "ready", step="prepare", ended=True),
        )
        lines = [f"[a] {PIP} …", f"[a] {PIP}: done in 0.0 s", "[a] ready in 0.0 s"]
        assert self.said(capsys, *events) == lines
        assert self.said(capsys, *events, show_output=True) == [lines[0], "[a] Collecting torch", *lines[1:]]

    def test_nothing_to_do_is_no_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.said(capsys, event("a", "nothing to do", step="prepare", ended=True)) == []

    def test_whom_it_waits_for_is_said_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        waits = [event("a", "for ann@lab, who prepares it", step="waiting")] * 3
        assert self.said(capsys, *waits) == ["[a] waiting for ann@lab, who prepares it"]

    def test_a_failure_is_said_once(self, capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
        failed = event("a", "No space left", ended=True, error=True)
        whole = event("a", "a: install packages: exit code 1", step="prepare", ended=True, error=True)
        assert self.said(capsys, failed, whole) == [f"[a] {PIP}: failed in 0.0 s: No space left"]
        assert self.said(capsys, whole) == ["[a] failed in 0.0 s: install packages: exit code 1"]
