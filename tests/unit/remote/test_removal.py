"""The removal of ended jobs on a server: at one instant, through real folders only, never one that runs."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import deletion, removal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served import Served

UNKNOWN = "f" * 32


def ask(served: Served, op: str, *job_ids: str, **request: Any) -> dict[str, dict[str, Any]]:
    answer = served.call("removal", op=op, job_ids=list(job_ids), server="s0", **request)
    return {job["job_id"]: job for job in answer["jobs"]}


def outcomes(served: Served, op: str, *job_ids: str) -> list[str]:
    told = ask(served, op, *job_ids)
    return [told[job_id]["outcome"] for job_id in job_ids]


def ended(served: Served, shell: str = "echo done") -> str:
    """Run a job to its end, and its supervisor's: it clears up after it has written how the job ended."""
    job_id = served.start(shell)
    served.wait(job_id)
    with open(served.folder(job_id) / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    return job_id


class LateSupervisor:
    """In the place of ``time``: an ended job's lock is held until so many seconds of waiting have passed."""

    def __init__(self, served: Served, job_id: str, ends_after_s: float) -> None:
        self._now = 1000.0
        self._ends_at = self._now + ends_after_s
        self._lock = open(served.folder(job_id) / "lock")  # noqa: SIM115 - closed as the wait goes on
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += max(seconds, 0.01)
        if self._now >= self._ends_at:
            self._lock.close()


def test_an_ended_job_is_measured_and_goes_others_stay(served: Served) -> None:
    first, second = ended(served, "seq 20000"), ended(served)
    (served.folder(first) / "ranks" / "0").mkdir(parents=True)
    (served.folder(first) / "ranks" / "0" / "stdout.log").write_text("x" * 50_000)
    looked = ask(served, "look", first, UNKNOWN)
    assert looked[first]["outcome"] == "there"
    assert looked[first]["size_bytes"] > 150_000
    assert looked[UNKNOWN]["outcome"] == "absent"
    removed = ask(served, "remove", first, UNKNOWN)
    assert removed[first]["outcome"] == "removed"
    assert removed[first]["size_bytes"] == looked[first]["size_bytes"]
    assert [path.name for path in (served.workdir / ".jobs").iterdir()] == [second]
    assert outcomes(served, "remove", first) == ["absent"]


def test_without_any_jobs_all_are_absent(served: Served) -> None:
    assert outcomes(served, "look", UNKNOWN) == ["absent"]


def test_what_runs_or_was_lost_with_processes_stays(served: Served) -> None:
    running, lost = served.start("sleep 600"), served.start("sleep 600")
    served.kill_supervisor(lost, guardian=True)
    assert outcomes(served, "look", running, lost) == ["running", "running"]
    assert outcomes(served, "remove", running, lost) == ["running", "running"]
    assert served.probe(running)["state"] == "RUNNING"
    served.kill(lost)
    served.kill(running)
    assert outcomes(served, "remove", running, lost) == ["removed", "removed"]


def test_a_supervisor_that_takes_seconds_to_go_is_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job has ended: "it still runs" would be no answer."""
    job_id, other = ended(served), ended(served)
    request = {"workdir": str(served.workdir), "op": "remove", "job_ids": [job_id, other]}
    monkeypatch.setattr(removal, "time", LateSupervisor(served, job_id, 8.0))
    assert [job["outcome"] for job in removal.removal(request)["jobs"]] == ["removed", "removed"]


def test_one_that_stays_is_said_and_holds_up_no_more_than_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its notification may take a minute."""
    job_ids = [ended(served) for _ in range(3)]
    clocks = [LateSupervisor(served, job_id, 1e9) for job_id in job_ids]
    monkeypatch.setattr(removal, "time", clocks[0])
    request = {"workdir": str(served.workdir), "op": "remove", "job_ids": job_ids}
    told = removal.removal(request)["jobs"]
    assert [(job["outcome"], job["reason"]) for job in told] == [
        ("running", "its supervisor has not ended yet")
    ] * 3
    assert clocks[0].monotonic() < 1000.0 + 2 * removal.PATIENCE_S
    for clock in clocks:
        clock.sleep(1e9)


def test_a_start_that_is_under_way_stays(served: Served) -> None:
    folder = served.folder(UNKNOWN)
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert outcomes(served, "remove", UNKNOWN) == ["running"]
    assert folder.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"state": "DANCING"}'])
def test_a_job_whose_files_are_rubbish_goes_unless_somebody_holds_it(served: Served, content: str) -> None:
    job_id = ended(served)
    (served.folder(job_id) / "exit.json").write_text(content)
    with (served.folder(job_id) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert outcomes(served, "remove", job_id) == ["kept"]
    assert outcomes(served, "remove", job_id) == ["removed"]


def test_links_are_never_followed(served: Served, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data").write_text("dear")
    job_id = ended(served)
    (served.folder(job_id) / "data").symlink_to(outside)
    served.folder(UNKNOWN).symlink_to(outside)
    assert outcomes(served, "remove", job_id, UNKNOWN) == ["removed", "kept"]
    assert (outside / "data").read_text() == "dear"


def test_a_jobs_folder_that_is_a_link_is_refused(served: Served, tmp_path: Path) -> None:
    job_id = ended(served)
    (served.workdir / ".jobs").rename(tmp_path / "elsewhere")
    (served.workdir / ".jobs").symlink_to(tmp_path / "elsewhere")
    answer = served.call("removal", op="remove", job_ids=[job_id])
    assert "no folder of its own" in answer["error"]["message"]
    assert (tmp_path / "elsewhere" / job_id).exists()


@pytest.mark.parametrize("job_id", ["../..", "", ".", "F" * 32, "a" * 31, None, ["x"], "a" * 32 + "\n"])
def test_other_names_are_refused(served: Served, job_id: object) -> None:
    answer = served.call("removal", op="remove", job_ids=[job_id])
    assert "not a job id" in answer["error"]["message"]


def test_what_a_removal_left_half_way_is_no_job_and_is_swept_by_the_next(served: Served) -> None:
    other = ended(served)
    trash = served.workdir / ".jobs" / f".trash-{UNKNOWN}-0123abcd"
    (trash / "ranks").mkdir(parents=True)
    (trash / "exit.json").write_text("{}")
    answer = served.call("probe", job_ids=[other], discover=True)
    assert answer["others"] == []
    assert answer["bad"] == []
    served.call("removal", op="look", job_ids=[other])
    assert trash.exists()
    served.call("removal", op="remove", job_ids=[])
    assert not trash.exists()
    assert served.folder(other).exists()


def test_a_deletion_that_fails_half_way_leaves_no_job(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = ended(served)

    def fail(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(deletion, "remove", fail)
    request = {"workdir": str(served.workdir), "op": "remove", "job_ids": [job_id]}
    [told] = removal.removal(request)["jobs"]
    assert told["outcome"] == "removed"
    assert "Permission denied" in told["reason"]
    assert [path.name.startswith(".trash-") for path in (served.workdir / ".jobs").iterdir()] == [True]
    monkeypatch.undo()
    assert removal.removal(request)["jobs"][0]["outcome"] == "absent"
    assert os.listdir(served.workdir / ".jobs") == []
