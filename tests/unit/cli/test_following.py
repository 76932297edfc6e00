"""Log lines on the way to the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.cli.following import Printer
from remote_launch.core.jobs import JobRecord
from remote_launch.operations.follow import LogLine

if TYPE_CHECKING:
    import pytest

JOB = JobRecord(job_id="0" * 32, server="gpu-a", command="x")
LINE = LogLine(job=JOB, rank=3, stream="stdout", text="loss \x1b[2J0.5")


def test_lines_go_to_stdout_with_their_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    Printer([JOB], prefixes=True).show(LINE)
    assert tuple(capsys.readouterr()) == ("gpu-a:3 │ loss 0.5\n", "")


def test_beside_json_they_leave_stdout_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    Printer([JOB], prefixes=True, err=True).show(LINE)
    assert tuple(capsys.readouterr()) == ("", "gpu-a:3 │ loss 0.5\n")
