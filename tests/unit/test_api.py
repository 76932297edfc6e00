"""What JOBS and SERVERS make of what they are given, with no server asked."""

from __future__ import annotations

import inspect
import pydoc
from typing import TYPE_CHECKING, Any

import pytest

import remote_launch
from remote_launch import api
from remote_launch.api import Job, Jobs, Launch, Servers, launch
from remote_launch.api.project import CurrentProject

if TYPE_CHECKING:
    from pathlib import Path


def test_help_shows_the_public_names_and_needs_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RL_PROJECT", raising=False)
    shown = pydoc.render_doc(remote_launch, renderer=pydoc.plaintext)
    for name in ("class Job(", "class JobState(", "class Launch(", "launch(script", "JOBS =", "SERVERS ="):
        assert name in shown
    assert set(remote_launch.__all__) <= set(dir(remote_launch))


@pytest.mark.parametrize("thing", [Job, Jobs, Launch, Servers, launch, remote_launch, api])
def test_all_that_is_public_says_what_it_is(thing: Any) -> None:
    assert inspect.getdoc(thing)
    members = vars(thing).items() if inspect.isclass(thing) else []
    public = [value for name, value in members if not name.startswith("_") and callable(value)]
    public += [value for name, value in members if not name.startswith("_") and isinstance(value, property)]
    assert [value for value in public if not inspect.getdoc(value)] == []


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
