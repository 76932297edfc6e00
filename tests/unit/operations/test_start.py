"""What the registry says of a start, whatever became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.jobs import JobState, now
from remote_launch.core.project import Project
from remote_launch.core.verdict import verdict_of
from remote_launch.errors import (
    CommandError,
    CommandTimeoutError,
    ConnectionLostError,
    ConnectTimeoutError,
    JobError,
    MissingProgramError,
    RegistryError,
    StartUnderWayError,
    WorkspaceError,
)
from remote_launch.operations import start as module
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.start import job_spec, start_job
from remote_launch.operations.verbs import refusal

if TYPE_CHECKING:
    from pathlib import Path

LOST = ConnectionLostError("s", "cut")
UNREACHABLE = ConnectTimeoutError("s", "no answer")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    project = Project(root=tmp_path)
    servers = {"s": Server(name="s", workdir="~/w")}
    inventory = Inventory(
        name="p",
        servers=servers,
        sync=Sync(),
        path=project.config,
        project=project,
    )
    return Fleet(project, inventory)


def answering(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> list[dict[str, Any]]:
    """Have the server give these answers, one a call; return the requests that it will have got."""
    left, requests = list(answers), []

    def call(_: Any, __: Any, ___: str, request: dict[str, Any], **____: Any) -> dict[str, Any]:
        requests.append(request)
        answer = left.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(module, "call", call)
    return requests


@pytest.mark.parametrize(
    "answers",
    [
        (LOST, LOST),
        (LOST, UNREACHABLE),  # the second try says nothing of the first
        (CommandTimeoutError("no answer in 60 s"),),
        (CommandError("the answer can't be read"),),
        (LOST, StartUnderWayError("s: another start of this job is under way")),
    ],
    ids=repr,
)
def test_a_job_that_may_run_is_not_called_failed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, answers: tuple[Any, ...]
) -> None:
    answering(monkeypatch, *answers)
    with pytest.raises((ConnectionLostError, CommandError, StartUnderWayError)):
        start_job(fleet, job_spec(fleet, "s", "true"))
    [job] = fleet.registry.all()
    assert job.state is JobState.CREATED
    assert job.reason


@pytest.mark.parametrize(
    "error",
    [
        UNREACHABLE,
        MissingProgramError("s", "no python"),
        WorkspaceError("s", "can't be written"),
        JobError("s: refused"),
    ],
    ids=repr,
)
def test_a_start_that_did_not_happen_is_failed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    answering(monkeypatch, error)
    with pytest.raises(type(error)):
        start_job(fleet, job_spec(fleet, "s", "true"))
    [job] = fleet.registry.all()
    assert (job.state, job.reason) == (JobState.FAILED, str(error).removeprefix("s: "))
    assert verdict_of([job]).text == str(error)  # says the server once


def test_a_log_that_cannot_be_written_ends_no_launch(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, {"state": "STARTED", "started_at": 5.0})
    fleet.project.remote_dir.mkdir()
    fleet.project.logs_dir.touch()
    assert start_job(fleet, job_spec(fleet, "s", "true")).state is JobState.RUNNING


def test_no_login_of_a_url_is_written_down(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://me:s3cret@host/x"
    requests = answering(monkeypatch, {"state": "STARTED", "started_at": 5.0})
    start_job(fleet, job_spec(fleet, "s", ["wget", url], env={"HTTPS_PROXY": url}))
    assert requests[0]["spec"]["secret_env"] == {"HTTPS_PROXY": url}
    written = b"".join(path.read_bytes() for path in fleet.project.root.rglob("*") if path.is_file())
    assert b"wget" in written
    assert b"s3cret" not in written


def test_a_lost_start_is_asked_for_again_with_the_same_id(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_at = now() - 3
    requests = answering(monkeypatch, LOST, {"state": "ALREADY", "started_at": started_at})
    job = start_job(fleet, job_spec(fleet, "s", "true"))
    assert (job.state, job.started_at) == (JobState.RUNNING, started_at)
    assert requests[0] == requests[1]


def test_a_start_that_cannot_be_written_down_any_more_is_a_start_all_the_same(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any) -> None:
        raise RegistryError("database or disk is full")

    answering(monkeypatch, {"state": "STARTED", "started_at": 5.0})
    monkeypatch.setattr(fleet.registry, "update", full)
    assert start_job(fleet, job_spec(fleet, "s", "true")).state is JobState.RUNNING
    assert [job.state for job in fleet.registry.all()] == [JobState.CREATED]  # the next refresh asks


def test_a_rivals_start_is_told_from_other_refusals() -> None:
    told = {"type": "StartUnderWayError", "message": "another start of this job is under way"}
    assert isinstance(refusal("s", told), StartUnderWayError)
    assert not isinstance(refusal("s", {**told, "type": "StartError"}), StartUnderWayError)
