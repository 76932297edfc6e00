"""What JOBS and SERVERS make of what they are given, with no server asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from remote_launch.api import Jobs
from remote_launch.api.project import CurrentProject

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    (tmp_path / ".remote").mkdir()
    (tmp_path / ".remote/configs.yaml").write_text("servers:\n  a: {connection: local}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RL_PROJECT", raising=False)
    return Jobs(CurrentProject())


def test_a_tag_that_is_no_list_is_one_tag(jobs: Jobs) -> None:
    assert jobs.create("a", "true", tags="prep").tags == ["prep"]
    assert jobs.create("a", "true", tags=["prep", "x"]).tags == ["prep", "x"]
    assert jobs.filter("prep") == jobs.filter(["prep"]) == []
