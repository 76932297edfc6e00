"""What becomes of the registry when servers answer, also when they answer rubbish."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.api import Launch
from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.jobs import JobRecord, JobState, now
from remote_launch.core.project import Project
from remote_launch.errors import AuthenticationError, ConnectTimeoutError, JobStateError, ServersFailedError
from remote_launch.operations import kill as kill_module
from remote_launch.operations import refresh as module
from remote_launch.operations import wait as wait_module
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.follow import Notice
from remote_launch.operations.kill import kill_jobs
from remote_launch.operations.refresh import refresh, refresh_jobs
from remote_launch.operations.wait import wait_jobs
from remote_launch.transport.command import MASK
from tests.support.records import new_record

if TYPE_CHECKING:
    from pathlib import Path

    from remote_launch.operations.fanout import Outcomes

RUBBISH = [None, "x", -1, 1.5, True, [], {}, [1], {"x": 1}, 10**30, float("nan"), float("inf"), "\x1b[2J"]
FIELDS = (
    "state", "exit_code", "signal", "reason", "attempt", "started_at", "ended_at",
    "log_bytes", "failures", "cause", "left_over", "elsewhere", "next_attempt",
)  # fmt: skip


class FakeServers:
    """Answers the probe and the kill verbs."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.more: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.longest_s = 0.0

    def call(
        self, _: Any, server: Server, verb: str, request: dict[str, Any], *, timeout_s: float = 60.0
    ) -> dict[str, Any]:
        self.longest_s = max(self.longest_s, timeout_s)
        if self.error is not None:
            raise self.error
        if verb == "kill":
            asked = [item["job_id"] for item in request["jobs"]]
            return {
                "jobs": [{"job_id": one, **self.jobs.get(one, {"outcome": "not_found"})} for one in asked]
            } | self.more
        asked = request["job_ids"]
        jobs = [{"job_id": job_id, **self.jobs[job_id]} for job_id in asked if job_id in self.jobs]
        missing = [job_id for job_id in asked if job_id not in self.jobs]
        others = [job_id for job_id in self.jobs if job_id not in asked] if request["discover"] else []
        return {"jobs": jobs, "missing": missing, "others": others, "bad": [], **self.more}


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> FakeServers:
    made = FakeServers()
    for one in (module, kill_module):
        monkeypatch.setattr(one, "call", made.call)
    return made


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    project = Project(root=tmp_path)
    entries = {"s": Server(name="s", workdir="~/w")}
    return Fleet(
        project,
        Inventory(
            name="p",
            servers=entries,
            sync=Sync(),
            path=project.config,
            project=project,
        ),
    )


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time now, at which this computer's clock stands still: the machine may pause at any point."""
    at = now()
    for place in ("core.jobs", "operations.clocks", "operations.records", "operations.refresh"):
        monkeypatch.setattr(f"remote_launch.{place}.now", lambda: at)
    return at


_IDS = itertools.count(1)


def add(fleet: Fleet, state: JobState = JobState.RUNNING, **fields: Any) -> JobRecord:
    job = new_record(job_id=f"{next(_IDS):032x}", server="s", command="c", state=state, **fields)
    return fleet.registry.add([job])[0]


class TestStates:
    def test_what_the_server_says_is_written(self, fleet: Fleet, servers: FakeServers) -> None:
        job = add(fleet)
        cause = {"rank": 1, "server": "s", "exit_code": 37}
        servers.jobs[job.job_id] = {
            "state": "FAILED", "exit_code": 1, "signal": None, "reason": "rank 1", "attempt": 0,
            "started_at": 5.0, "ended_at": 7.0, "log_bytes": 12,
            "failures": [{"rank": 1}], "cause": cause, "left_over": 0,
        }  # fmt: skip
        outcome = refresh(fleet)["s"]
        assert outcome.error is None
        assert outcome.value is not None
        assert outcome.value.changed == 1
        after = fleet.registry.get(str(job.key))
        assert (after.state, after.exit_code, after.duration_s) == (JobState.FAILED, 1, 2.0)
        assert after.details == {"log_bytes": 12, "failures": [{"rank": 1}], "cause": cause}

    def test_a_rest_between_two_attempts_is_kept_while_it_lasts(
        self, fleet: Fleet, servers: FakeServers, at: float
    ) -> None:
        job = add(fleet)
        coming = {"attempt": 1, "words": "restart 1 of 3", "in_s": 8.0}
        servers.jobs[job.job_id] = {"state": "RUNNING", "next_attempt": coming}
        refresh(fleet)
        told = fleet.registry.get(str(job.key)).details["next_attempt"]
        assert (told["attempt"], told["words"]) == (1, "restart 1 of 3")
        assert told["at"] == pytest.approx(at + 8.0)
        servers.jobs[job.job_id] = {"state": "RUNNING", "attempt": 1, "next_attempt": None}
        refresh(fleet)
        assert "next_attempt" not in fleet.registry.get(str(job.key)).details

    def test_a_silent_server_changes_no_state(self, fleet: Fleet, servers: FakeServers) -> None:
        job = add(fleet)
        servers.error = ConnectTimeoutError("s", "no answer")
        assert refresh(fleet).exit_code == 1
        first = fleet.registry.get(str(job.key))
        assert first.state is JobState.RUNNING
        assert first.unreachable_since
        refresh(fleet)
        assert fleet.registry.get(str(job.key)).unreachable_since == first.unreachable_since
        servers.error, servers.jobs[job.job_id] = None, {"state": "RUNNING"}
        refresh(fleet)
        assert fleet.registry.get(str(job.key)).unreachable_since is None

    def test_a_running_job_without_a_folder_is_lost(self, fleet: Fleet, servers: FakeServers) -> None:
        job = add(fleet)
        [after] = refresh_jobs(fleet, [job])
        assert after.state is JobState.LOST
        assert "folder is gone" in str(after.reason)

    def test_one_without_a_folder_that_runs_on_is_not_forgotten(
        self, fleet: Fleet, servers: FakeServers
    ) -> None:
        job = add(fleet)
        servers.more = {"missing_alive": {job.job_id: 2}}
        for _ in range(2):
            [after] = refresh_jobs(fleet, [job])
            assert (after.state, after.details["left_over"]) == (JobState.LOST, 2)
            assert after.reason == (
                "its folder is gone from the server; 2 of its processes still run: rl job-kill ends them"
            )
        servers.more = {}
        [after] = refresh_jobs(fleet, [after])
        assert (after.state, after.reason) == (JobState.LOST, "its folder is gone from the server")
        assert "left_over" not in after.details

    def test_how_a_job_ended_stays_known_whatever_it_left_running(
        self, fleet: Fleet, servers: FakeServers
    ) -> None:
        job = add(fleet)
        servers.jobs[job.job_id] = {"state": "SUCCEEDED", "exit_code": 0, "ended_at": 7.0}
        [ended] = refresh_jobs(fleet, [job])
        servers.jobs.clear()
        servers.more = {"missing_alive": {job.job_id: 2}}
        [after] = refresh_jobs(fleet, [ended])
        assert (after.state, after.reason) == (JobState.SUCCEEDED, ended.reason)
        assert after.details["left_over"] == 2

    def test_what_a_lost_job_left_over_ends(self, fleet: Fleet, servers: FakeServers) -> None:
        job = add(fleet)
        for left in (3, 0):
            servers.jobs[job.job_id] = {"state": "LOST", "left_over": left}
            [after] = refresh_jobs(fleet, [job])
            assert after.details.get("left_over", 0) == left

    @pytest.mark.parametrize("rubbish", RUBBISH)
    def test_any_word_on_what_runs_without_a_folder(
        self, fleet: Fleet, servers: FakeServers, rubbish: Any
    ) -> None:
        job = add(fleet)
        for told in (rubbish, {job.job_id: rubbish}):
            servers.more = {"missing_alive": told}
            [after] = refresh_jobs(fleet, [job])
            assert after.state is JobState.LOST

    def test_who_waits_is_told_though_the_registry_was_removed(
        self, fleet: Fleet, servers: FakeServers
    ) -> None:
        job, silent = add(fleet), add(fleet)
        servers.jobs[job.job_id] = {"state": "FAILED", "exit_code": 37, "ended_at": 7.0}
        fleet.registry.path.unlink()
        [after] = refresh_jobs(fleet, [job])
        assert (after.state, after.exit_code, after.key) == (JobState.FAILED, 37, job.key)
        servers.error = ConnectTimeoutError("s", "no answer")
        assert refresh_jobs(fleet, [silent]) == [silent]

    def test_a_job_in_a_folder_that_workdir_was_is_not_called_lost(
        self, fleet: Fleet, servers: FakeServers
    ) -> None:
        job, here = add(fleet, workdir="~/before"), add(fleet, workdir="~/w")
        outcome = refresh(fleet)["s"]
        after = fleet.registry.get(job.job_id)
        assert after.state is JobState.RUNNING
        assert "started in ~/before, and workdir is now ~/w: set it back" in str(after.reason)
        assert outcome.value is not None
        assert outcome.value.bad == (f"job {job.key}: {after.reason}",)
        assert fleet.registry.get(here.job_id).state is JobState.LOST
        servers.jobs[job.job_id] = {"state": "RUNNING"}  # it is the same folder after all, by another name
        refresh(fleet)
        assert fleet.registry.get(job.job_id).reason is None

    def test_a_start_that_is_just_under_way_is_not_given_up(self, fleet: Fleet, servers: FakeServers) -> None:
        [young] = refresh_jobs(fleet, [add(fleet, JobState.CREATED)])
        assert young.state is JobState.CREATED
        [old] = refresh_jobs(fleet, [add(fleet, JobState.CREATED, created_at=now() - 100)])
        assert (old.state, old.reason) == (JobState.FAILED, "it never started")

    @pytest.mark.parametrize("logs", [False, True])
    def test_a_lost_job_is_asked_for_again(self, fleet: Fleet, servers: FakeServers, logs: bool) -> None:
        """Its disk was not mounted, say: the job runs on."""
        job = add(fleet)
        refresh(fleet)
        assert fleet.registry.get(str(job.key)).state is JobState.LOST
        servers.jobs[job.job_id] = {"state": "RUNNING"}
        refresh(fleet, logs=logs)
        assert fleet.registry.get(str(job.key)).state is JobState.RUNNING

    def test_an_end_stays_when_its_folder_is_cleared_away(self, fleet: Fleet, servers: FakeServers) -> None:
        [after] = refresh_jobs(fleet, [add(fleet, JobState.SUCCEEDED, exit_code=0)])
        assert after.state is JobState.SUCCEEDED


class TestAdoption:
    ID = "b" * 32

    def test_a_job_that_only_the_server_knows(self, fleet: Fleet, servers: FakeServers) -> None:
        spec = {"command": "train.py", "tags": ["x"], "node_rank": 0, "nnodes": 1, "created_at": 5.0}
        servers.jobs[self.ID] = {"state": "RUNNING", "spec": spec}
        outcome = refresh(fleet)["s"]
        assert outcome.value is not None
        assert outcome.value.adopted == 1
        [job] = fleet.registry.all()
        assert (job.job_id, job.command, job.tags, job.state) == (
            self.ID,
            "train.py",
            ("x",),
            JobState.RUNNING,
        )

    @pytest.mark.parametrize(
        "spec", [*RUBBISH, {"tags": "abc", "node_rank": {}, "created_at": "x", "command": [1]}]
    )
    def test_a_spec_of_any_shape(self, fleet: Fleet, servers: FakeServers, spec: Any) -> None:
        servers.jobs[self.ID] = {"state": "RUNNING", "spec": spec}
        refresh(fleet)
        [job] = fleet.registry.all()
        assert job.command == "?"
        json.dumps(job.to_dict())

    def test_it_has_all_that_a_row_needs(self, fleet: Fleet, servers: FakeServers) -> None:
        spec = {
            "command": "git clone https://me:pass@host/x", "launch_id": "l" * 32, "run_id": "r" * 32,
            "name": "x", "env": {"LR": "0.1", "API_KEY": "s3", "N": 5}, "secret_names": ["HF_TOKEN", 7],
        }  # fmt: skip
        servers.jobs[self.ID] = {"state": "FAILED", "exit_code": 37, "attempt": 2, "spec": spec}
        refresh(fleet)
        [job] = fleet.registry.all()
        assert job.env == {"LR": "0.1", "API_KEY": MASK, "HF_TOKEN": MASK}
        assert "pass" not in job.command
        assert (job.attempt, job.exit_code, job.launch_id, job.run_id) == (2, 37, "l" * 32, "r" * 32)

    def test_keys_follow_the_starts_and_launches_stay_together(
        self, fleet: Fleet, servers: FakeServers
    ) -> None:
        starts = [(0.3, None, None), (0.1, "l", 1), (0.2, "m", 0), (0.15, "l", 0), (0.25, "m", 1)]
        for number, (at, launch, rank) in enumerate(starts):
            spec = {"command": f"c{number}", "launch_id": launch, "node_rank": rank, "created_at": at}
            servers.jobs[f"{number:032x}"] = {"state": "RUNNING", "spec": spec}
        refresh(fleet)
        assert [job.command for job in fleet.registry.all()] == ["c3", "c1", "c2", "c4", "c0"]

    def test_a_row_that_cannot_be_read_comes_back_with_its_key(
        self, fleet: Fleet, servers: FakeServers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "sync_logs", lambda *_: {})
        damaged, job = add(fleet), add(fleet)
        with contextlib.closing(sqlite3.connect(fleet.registry.path)) as connection, connection:
            connection.execute("UPDATE jobs SET record = '{' WHERE key = 1")
        for job_id in (damaged.job_id, job.job_id):
            servers.jobs[job_id] = {"state": "RUNNING", "spec": {"command": "told"}}
        refresh(fleet, logs=True)
        assert [(one.key, one.command) for one in fleet.registry.all()] == [(1, "told"), (2, "c")]

    def test_folders_that_cannot_be_read_are_told(self, fleet: Fleet, servers: FakeServers) -> None:
        servers.jobs[self.ID] = {"state": "RUNNING", "spec": {}}
        servers.more["bad"] = [{"name": "x", "reason": "exit.json: not JSON"}, "rubbish"]
        outcome = refresh(fleet)["s"]
        assert outcome.value is not None
        assert outcome.value.bad == ("job folder x: exit.json: not JSON",) * 2  # both questions

    @pytest.mark.parametrize("size", [*RUBBISH, "12"])
    def test_details_of_any_shape(self, fleet: Fleet, servers: FakeServers, size: Any) -> None:
        job = add(fleet, details={"log_bytes": size, "cause": size, "failures": size})
        servers.error = ConnectTimeoutError("s", "no answer")
        refresh(fleet, logs=True)
        assert fleet.registry.get(str(job.key)).state is JobState.RUNNING

    @pytest.mark.parametrize("name", ["../../etc", "/etc", "B" * 32, "b" * 31, "", ".", "b" * 32 + "\n"])
    def test_a_name_that_is_no_id_is_no_job(self, fleet: Fleet, servers: FakeServers, name: str) -> None:
        servers.jobs[name] = {"state": "RUNNING"}
        refresh(fleet)
        assert fleet.registry.all() == []


class TestSharedFolder:
    """Servers that share a home: each sees all jobs, and each job is one server's."""

    ID = "c" * 32

    def see(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str, here: set[str], silent: str = ""
    ) -> tuple[Fleet, Outcomes[Any]]:
        """Servers a and b list one job of the server ``named``; those in ``here`` say that it is their
        machine's. Return the fleet after a refresh."""

        def call(_: Any, server: Server, __: str, request: dict[str, Any], *, timeout_s: float = 60.0) -> Any:
            if server.name == silent:
                raise ConnectTimeoutError(server.name, "no answer")
            asked = request["job_ids"]
            other = None if server.name in here else {"server": named, "hostname": "there"}
            spec = {"server": named, "command": "train.py"} if request["specs"] else None
            job = {"job_id": self.ID, "state": "RUNNING", "elsewhere": other, "spec": spec, "reason": "why"}
            return {
                "jobs": [job] if self.ID in asked else [], "missing": [], "bad": [],
                "others": [self.ID] if request["discover"] and self.ID not in asked else [],
            }  # fmt: skip

        monkeypatch.setattr(module, "call", call)
        project = Project(root=tmp_path)
        entries = {name: Server(name=name, workdir="~/w") for name in "ab"}
        fleet = Fleet(
            project,
            Inventory(
                name="p", servers=entries, sync=Sync(), path=project.config,
                project=project,
            ),
        )  # fmt: skip
        return fleet, refresh(fleet)

    @pytest.mark.parametrize(
        ("named", "here", "owner"),
        [
            ("b", {"b"}, ["b"]),  # two machines
            ("b", {"a", "b"}, ["b"]),  # two servers that are one machine
            ("gone", {"b"}, ["b"]),  # the inventory was changed since, or is another user's
            ("gone", {"a", "b"}, ["a"]),  # the same, one machine: once
            ("b", {"a"}, ["a"]),  # the names have changed places
            ("b", set(), ["b"]),  # the machine was replaced
            ("gone", set(), []),  # of a machine that nobody here knows
        ],
    )
    def test_a_job_is_listed_once_under_the_right_server(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str, here: set[str], owner: list[str]
    ) -> None:
        fleet, outcomes = self.see(monkeypatch, tmp_path, named, here)
        assert outcomes.exit_code == 0
        assert [(job.server, job.state) for job in fleet.registry.all()] == [
            (name, JobState.RUNNING) for name in owner
        ]
        refresh(fleet)
        assert [job.server for job in fleet.registry.all()] == owner

    def test_a_job_waits_for_its_server_to_answer(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        fleet, _ = self.see(monkeypatch, tmp_path, "b", {"a", "b"}, silent="b")
        assert fleet.registry.all() == []

    def test_a_job_of_another_machine_is_never_lost(self, fleet: Fleet, servers: FakeServers) -> None:
        job, lost = add(fleet), add(fleet, JobState.LOST, reason="rebooted", ended_at=9.0)
        other = {"server": "s", "hostname": "there"}
        told = {"state": "RUNNING", "elsewhere": other, "reason": "can't be judged: it was started on there"}
        servers.jobs = {job.job_id: told, lost.job_id: told}
        outcome = refresh(fleet)["s"].value
        assert outcome is not None
        assert any(f"job {job.key} can't be judged" in word for word in outcome.bad)
        after = fleet.registry.get(str(job.key))
        assert (after.state, after.reason) == (JobState.RUNNING, told["reason"])
        after = fleet.registry.get(str(lost.key))
        assert (after.state, after.reason, after.ended_at) == (JobState.LOST, "rebooted", 9.0)
        servers.jobs[job.job_id] = {"state": "FAILED", "elsewhere": other, "exit_code": 2}
        [after] = refresh_jobs(fleet, [fleet.registry.get(str(job.key))])
        assert (after.state, after.exit_code) == (JobState.FAILED, 2)


@pytest.mark.parametrize("value", RUBBISH, ids=repr)
class TestRubbish:
    def test_in_any_field(self, fleet: Fleet, servers: FakeServers, value: Any) -> None:
        for field in FIELDS:
            servers.jobs[add(fleet).job_id] = {"state": "FAILED", field: value}
        assert refresh(fleet)["s"].error is None
        for job in fleet.registry.all():
            json.dumps(job.to_dict(), allow_nan=False)
            assert "\x1b" not in str(job.signal)

    @pytest.mark.parametrize("field", ["jobs", "missing", "others", "bad"])
    def test_in_the_answer(self, fleet: Fleet, servers: FakeServers, field: str, value: Any) -> None:
        job = add(fleet)
        servers.more[field] = value
        assert refresh(fleet)["s"].error is None
        assert [one.job_id for one in fleet.registry.all()] == [job.job_id]

    def test_in_the_answer_to_a_kill(self, fleet: Fleet, servers: FakeServers, value: Any) -> None:
        for field in (
            "outcome",
            "state",
            "exit_code",
            "signal",
            "reason",
            "ended_at",
            "message",
            "left_over",
            "attempts",
        ):
            servers.jobs[add(fleet).job_id] = {"outcome": "killed", "state": "KILLED", field: value}
        for result in kill_jobs(fleet, fleet.registry.all()):
            json.dumps(result.to_dict(), allow_nan=False)
            assert result.outcome in {"killed", "failed"}


class TestKill:
    def test_every_job_gets_its_word_in_the_order_given(self, fleet: Fleet, servers: FakeServers) -> None:
        first, second, gone = add(fleet), add(fleet), add(fleet)
        servers.jobs[second.job_id] = {"outcome": "already_ended", "state": "SUCCEEDED", "exit_code": 0}
        servers.jobs[first.job_id] = {"outcome": "killed", "state": "KILLED", "signal": "TERM"}
        foreign = dataclasses.replace(first, server="elsewhere")
        results = kill_jobs(fleet, [first, second, gone, foreign], reason="asked")
        assert [one.outcome for one in results] == ["killed", "already_ended", "not_found", "failed"]
        assert [one.ok for one in results] == [True, True, False, False]
        assert "no longer in the inventory" in results[3].message
        states = [fleet.registry.get(str(job.key)).state for job in (first, second, gone)]
        assert states == [JobState.KILLED, JobState.SUCCEEDED, JobState.LOST]

    def test_a_start_that_is_just_under_way_is_not_given_up(self, fleet: Fleet, servers: FakeServers) -> None:
        job = add(fleet, JobState.CREATED)
        [result] = kill_jobs(fleet, [job])
        assert (result.outcome, result.ok, result.job.state) == ("not_found", False, JobState.CREATED)

    def test_a_job_in_a_folder_that_workdir_was_is_not_called_lost_by_a_kill(
        self, fleet: Fleet, servers: FakeServers
    ) -> None:
        job = add(fleet, workdir="~/before")
        [result] = kill_jobs(fleet, [job])
        assert (result.outcome, result.job.state) == ("not_found", JobState.RUNNING)
        assert "started in ~/before, and workdir is now ~/w: set it back" in result.message

    def test_what_a_job_that_succeeded_left_running_makes_it_no_killed_one(
        self, fleet: Fleet, servers: FakeServers
    ) -> None:
        job = add(fleet, JobState.SUCCEEDED, exit_code=0, reason="done", ended_at=7.0)
        servers.jobs[job.job_id] = {"outcome": "killed", "state": "KILLED", "ended_at": 9.0, "reason": "x"}
        [result] = kill_jobs(fleet, [job])
        after = result.job
        assert (after.state, after.exit_code, after.reason) == (JobState.SUCCEEDED, 0, "done")
        assert (result.ok, after.ended_at) == (True, 7.0)

    def test_the_attempts_of_a_job_are_noted(self, fleet: Fleet, servers: FakeServers) -> None:
        job = add(fleet)
        attempts = [{"attempt": number, "cause": None} for number in range(3)]
        servers.jobs[job.job_id] = {"outcome": "killed", "state": "KILLED", "attempts": attempts}
        [result] = kill_jobs(fleet, [job])
        assert (result.job.attempt, len(result.job.details["attempts"])) == (2, 3)

    def test_an_answer_that_does_not_name_a_job_says_nothing_of_it(
        self, fleet: Fleet, servers: FakeServers
    ) -> None:
        servers.more = {"jobs": []}
        [result] = kill_jobs(fleet, [add(fleet)])
        assert (result.outcome, result.job.state) == ("failed", JobState.RUNNING)
        assert isinstance(result.failure, JobStateError)

    def test_the_api_raises_where_a_node_may_live_on(self, fleet: Fleet, servers: FakeServers) -> None:
        job = add(fleet, launch_id="f" * 32)
        servers.error = ConnectTimeoutError("s", "no answer")
        with pytest.raises(ServersFailedError) as caught:
            Launch(fleet, "f" * 32, [job]).kill()
        assert caught.value.outcomes == {"s": servers.error}

    def test_a_deaf_supervisor_gets_its_grace_twice(self, fleet: Fleet, servers: FakeServers) -> None:
        kill_jobs(fleet, [add(fleet)], grace_s=300.0)
        assert servers.longest_s >= 2 * 300.0 + 15

    def test_an_unreachable_server_keeps_the_state(self, fleet: Fleet, servers: FakeServers) -> None:
        job = add(fleet)
        servers.error = ConnectTimeoutError("s", "no answer", hint="is it on?")
        [result] = kill_jobs(fleet, [job])
        assert (result.outcome, result.ok, result.failure) == ("unreachable", False, servers.error)
        assert fleet.registry.get(str(job.key)).state is JobState.RUNNING


class TestWait:
    def test_ended_jobs_need_no_server(self, fleet: Fleet, servers: FakeServers) -> None:
        servers.error = ConnectTimeoutError("s", "no answer")
        _, verdict = wait_jobs(fleet, [add(fleet, JobState.FAILED, exit_code=7)])
        assert verdict.exit_code == 7

    @pytest.mark.parametrize("error", [AuthenticationError("s", "denied"), None])
    def test_an_end_that_cannot_be_known_is_no_success(
        self, fleet: Fleet, servers: FakeServers, monkeypatch: pytest.MonkeyPatch, error: Any
    ) -> None:
        servers.error = ConnectTimeoutError("s", "no answer")
        events = [Notice(server="s", text="denied", error=error)] if error else []
        monkeypatch.setattr(wait_module, "Follower", lambda *_: contextlib.nullcontext(events))
        with pytest.raises(type(error) if error else JobStateError):
            wait_jobs(fleet, [add(fleet)])

    def test_a_timeout_says_which_jobs_go_on(self, fleet: Fleet, servers: FakeServers) -> None:
        job = add(fleet)
        servers.jobs[job.job_id] = {"state": "RUNNING"}
        with pytest.raises(JobStateError, match=f"job {job.key} not ended after 0.05 s") as caught:
            wait_jobs(fleet, [job], timeout_s=0.05)
        assert caught.value.exit_code == 124
        assert servers.longest_s <= 1.0  # a server that hangs holds nobody past the time given


class TestClocksAndSilence:
    def test_a_server_whose_clock_is_an_hour_ahead(
        self, fleet: Fleet, servers: FakeServers, at: float
    ) -> None:
        [job] = fleet.registry.add([new_record(command="x", state=JobState.RUNNING, server="s")])
        servers.more = {"time": at + 3600}
        servers.jobs[job.job_id] = {"state": "RUNNING", "started_at": at + 3600 - 90, "running_s": 90.0}
        [current] = refresh_jobs(fleet, [job])
        assert current.duration_s == pytest.approx(90, abs=0.1)
        ended = {"state": "FAILED", "started_at": at - 90, "ended_at": at + 3600, "duration_s": 91.0}
        servers.jobs[job.job_id] = ended
        [current] = refresh_jobs(fleet, [job])
        assert current.duration_s == pytest.approx(91, abs=0.1)
        assert current.ended_at == pytest.approx(at, abs=0.1)

    def test_a_server_that_is_silent_and_comes_back(
        self, fleet: Fleet, servers: FakeServers, at: float
    ) -> None:
        begun = new_record(command="x", state=JobState.RUNNING, server="s", started_at=at - 60)
        [job] = fleet.registry.add([begun])
        servers.error = ConnectTimeoutError("s", "no answer")
        [current] = refresh_jobs(fleet, [job])
        since = current.unreachable_since
        assert (current.state, since) == (JobState.RUNNING, pytest.approx(at, abs=0.1))
        [current] = refresh_jobs(fleet, [current])
        assert current.unreachable_since == since  # the first time counts
        servers.error = None
        servers.jobs[job.job_id] = {"state": "SUCCEEDED", "exit_code": 0, "ended_at": at - 5}
        [current] = refresh_jobs(fleet, [current])
        assert (current.state, current.unreachable_since) == (JobState.SUCCEEDED, None)

    def test_a_refusal_is_not_silence(self, fleet: Fleet, servers: FakeServers) -> None:
        [job] = fleet.registry.add([new_record(command="x", state=JobState.RUNNING, server="s")])
        servers.error = JobStateError("refused")
        assert refresh_jobs(fleet, [job])[0].unreachable_since is None
