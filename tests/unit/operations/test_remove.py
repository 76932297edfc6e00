"""Which jobs are removed, in which order, and what stays whatever a server answers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.api import Job
from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.jobs import JobRecord, JobState, now
from remote_launch.core.project import Project
from remote_launch.errors import ConnectTimeoutError, JobStateError
from remote_launch.operations import refresh as refresh_module
from remote_launch.operations import remove as module
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.remove import measure, old_jobs, remove
from tests.support.records import new_record

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86_400.0


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    project = Project(root=tmp_path)
    servers = {name: Server(name=name, workdir="~/w") for name in "ab"}
    return Fleet(
        project, Inventory(name="p", servers=servers, sync=Sync(), path=project.config, project=project)
    )


class FakeServers:
    """Answers the removal verb: ``told`` by job_id, errors by server."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.errors: dict[str, Exception] = {}
        self.asked: list[tuple[str, str, list[str]]] = []

    def call(
        self, _: Any, server: Server, verb: str, request: dict[str, Any], **__: Any
    ) -> dict[str, Any]:
        if server.name in self.errors:
            raise self.errors[server.name]
        if verb == "probe":
            return {"jobs": [], "missing": [], "bad": []}
        self.asked.append((server.name, request["op"], request["job_ids"]))
        outcome = "there" if request["op"] == "look" else "removed"
        jobs = [
            {"job_id": one, "size_bytes": 10, **self.told.get(one, {"outcome": outcome})}
            for one in request["job_ids"]
        ]
        return {"jobs": jobs}


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> FakeServers:
    made = FakeServers()
    for one in (module, refresh_module):
        monkeypatch.setattr(one, "call", made.call)
    return made


def add(fleet: Fleet, server: str = "a", state: JobState = JobState.SUCCEEDED, **fields: Any) -> JobRecord:
    job = fleet.registry.add([new_record(server=server, command="c", state=state, **fields)])[0]
    folder = fleet.project.jobs_dir / job.job_id
    folder.mkdir(parents=True)
    (folder / "job.out").write_text("12345")
    return job


def folders(fleet: Fleet) -> set[str]:
    return {path.name for path in fleet.project.jobs_dir.iterdir()}


def test_a_removed_job_is_gone_here_too(fleet: Fleet, servers: FakeServers) -> None:
    gone, stays = add(fleet), add(fleet)
    [found] = measure(fleet, [gone])
    assert (found.outcome, found.remote_bytes, found.local_bytes) == ("there", 10, 5)
    assert folders(fleet) == {gone.job_id, stays.job_id}
    [result] = remove(fleet, [gone])
    assert result.outcome == "removed"
    assert folders(fleet) == {stays.job_id}
    assert fleet.registry.all() == [stays]


def test_another_removal_of_the_same_is_no_failure(
    fleet: Fleet, servers: FakeServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rl job-prune at once: each finds files gone that it has just seen."""
    jobs = [add(fleet), add(fleet)]
    rmtree = shutil.rmtree
    rival = iter(["some of it", "all of it"])

    def raced(folder: Path) -> None:
        if next(rival, None) == "all of it":
            rmtree(folder)
        (folder / "job.out").unlink()
        (folder / "job.out").unlink()

    monkeypatch.setattr(shutil, "rmtree", raced)
    results = remove(fleet, jobs[:1])
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert [(result.outcome, result.reason) for result in results] == [("removed", None)]
    assert folders(fleet) == {jobs[1].job_id}
    assert fleet.registry.all() == jobs[1:]


@pytest.mark.parametrize(
    "told",
    [
        {"outcome": "running"}, {"outcome": "kept", "reason": "a link"}, {"outcome": None}, {"outcome": []},
        {"outcome": "gone, I swear"}, {"job_id": "other"}, {"job_id": ["x"]}, {},
    ],
)  # fmt: skip
def test_what_did_not_go_on_its_server_stays_here(fleet: Fleet, servers: FakeServers, told: Any) -> None:
    job = add(fleet)
    servers.told[job.job_id] = told
    [result] = remove(fleet, [job])
    assert not result.can_go
    assert folders(fleet) == {job.job_id}
    assert fleet.registry.all() == [job]


def test_an_unreachable_server_keeps_its_own_alone(fleet: Fleet, servers: FakeServers) -> None:
    first, second = add(fleet, "a"), add(fleet, "b")
    servers.errors["a"] = ConnectTimeoutError("a", "no answer")
    assert [result.outcome for result in remove(fleet, [first, second])] == ["unreachable", "removed"]
    assert fleet.registry.all() == [first]
    assert folders(fleet) == {first.job_id}


def test_a_launch_goes_whole(fleet: Fleet, servers: FakeServers) -> None:
    nodes = [add(fleet, name, launch_id="l", node_rank=rank) for rank, name in enumerate("ab")]
    servers.told[nodes[1].job_id] = {"outcome": "running"}
    assert [found.can_go for found in measure(fleet, nodes)] == [False, False]


def test_a_start_that_may_be_under_way_stays(fleet: Fleet, servers: FakeServers) -> None:
    job = add(fleet, state=JobState.CREATED)
    servers.told[job.job_id] = {"outcome": "absent"}
    assert [found.outcome for found in measure(fleet, [job])] == ["running"]


def test_of_a_server_that_left_the_inventory_only_what_is_here(fleet: Fleet, servers: FakeServers) -> None:
    job = add(fleet, "gone", JobState.RUNNING)
    assert [found.outcome for found in measure(fleet, [job])] == ["kept"]
    assert [found.outcome for found in remove(fleet, [job], forget=True)] == ["removed"]
    assert servers.asked == []
    assert fleet.registry.all() == []


def test_a_link_in_the_place_of_logs_is_not_followed(
    fleet: Fleet, servers: FakeServers, tmp_path: Path
) -> None:
    job = fleet.registry.add([new_record(server="a", command="c", state=JobState.SUCCEEDED)])[0]
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "data").write_text("x")
    fleet.project.jobs_dir.mkdir(parents=True)
    (fleet.project.jobs_dir / job.job_id).symlink_to(tmp_path / "dear")
    remove(fleet, [job])
    assert (tmp_path / "dear" / "data").exists()
    assert folders(fleet) == set()


class TestOldJobs:
    def test_by_the_newest_end_of_a_launch(self, fleet: Fleet) -> None:
        old = add(fleet, ended_at=now() - 40 * DAY_S)
        add(fleet, ended_at=now() - 40 * DAY_S, launch_id="l")
        add(fleet, ended_at=now() - 1 * DAY_S, launch_id="l")
        add(fleet, state=JobState.RUNNING, created_at=5.0)
        add(fleet, state=JobState.QUEUED, created_at=5.0)
        add(fleet, "b", ended_at=5.0)
        assert old_jobs(fleet, {"a"}, older_s=30 * DAY_S) == [old]

    def test_the_newest_stay(self, fleet: Fleet) -> None:
        jobs = [add(fleet, ended_at=now() - age * DAY_S) for age in (1, 50, 3, 40)]
        assert old_jobs(fleet, {"a"}, keep=3) == [jobs[1]]
        assert old_jobs(fleet, {"a"}, keep=1, older_s=2 * DAY_S) == jobs[1:]

    def test_by_state(self, fleet: Fleet) -> None:
        add(fleet, ended_at=5.0)
        failed = add(fleet, state=JobState.FAILED, ended_at=5.0)
        assert old_jobs(fleet, {"a"}, states=[JobState.FAILED]) == [failed]

    def test_one_whose_end_is_not_known_is_as_old_as_its_last_sign(self, fleet: Fleet) -> None:
        add(fleet, state=JobState.LOST, created_at=5.0, seen_at=now())
        assert old_jobs(fleet, {"a"}, older_s=DAY_S) == []


def test_from_python(fleet: Fleet, servers: FakeServers) -> None:
    runs, ended = add(fleet, state=JobState.RUNNING), add(fleet)
    servers.told[runs.job_id] = {"outcome": "running"}
    with pytest.raises(JobStateError, match=f"not removed: job {runs.key} on a: running"):
        Job(fleet, runs).remove()
    Job(fleet, ended).remove()
    assert [job.job_id for job in fleet.registry.all()] == [runs.job_id]
