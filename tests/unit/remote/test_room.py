"""A full disk: a job can be stopped on it, and how it ended is written down."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import kill, room, verdict
from remote_launch.remote.jobdir import JobDir
from tests.support.served import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served import Served

END: dict[str, Any] = {
    "state": "FAILED", "exit_code": 4, "signal": None, "reason": "exited with 4", "failures": [],
    "attempts": [{"attempt": 0}], "cause": {"rank": 0, "message": "exited with 4", "tail": "No space left"},
}


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No new file can be written; what has its blocks can be written over."""

    def full(path: str, data: object) -> None:
        if os.path.isdir(os.path.dirname(path)):
            raise OSError(errno.ENOSPC, "No space left on device")
        raise FileNotFoundError(path)

    monkeypatch.setattr(room, "write_atomic", full)


@pytest.fixture
def job(tmp_path: Path) -> JobDir:
    path = tmp_path / ("a" * 32)
    path.mkdir()
    job = JobDir(str(path))
    room.prepare(job)
    return job


def read(path: str) -> dict[str, Any]:
    with open(path) as file:
        return json.load(file)


@pytest.mark.usefixtures("full_disk")
def test_an_end_takes_no_new_block(job: JobDir) -> None:
    said: list[str] = []
    before = os.stat(job.exit + ".room")
    verdict.write_end(job.exit, END, said.append)
    assert (read(job.exit), said) == (END, [])
    after = os.stat(job.exit)
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


@pytest.mark.usefixtures("full_disk")
def test_an_end_that_does_not_fit_leaves_out_the_long_texts(job: JobDir) -> None:
    cause = {**END["cause"], "tail": "é" * 16_000}
    verdict.write_end(job.exit, {**END, "cause": cause, "failures": [{"message": "x" * 9_000}]}, print)
    told = read(job.exit)
    assert (told["state"], told["exit_code"], told["reason"]) == ("FAILED", 4, "exited with 4")
    assert told["cause"] == {**END["cause"], "tail": ""}


@pytest.mark.usefixtures("full_disk")
def test_no_end_is_written_where_the_folder_is_gone(job: JobDir) -> None:
    """It is not waited for, either: the supervisor would go on for ten minutes."""
    shutil.rmtree(job.path)
    said: list[str] = []
    verdict.write_end(job.exit, END, said.append)
    assert len(said) == 1
    assert not os.path.lexists(job.path)


@pytest.mark.usefixtures("full_disk")
def test_a_link_in_its_place_is_not_written_to(job: JobDir, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("x" * room.ROOM_BYTES)
    os.unlink(job.exit + ".room")
    os.symlink(target, job.exit + ".room")
    with pytest.raises(OSError, match="No space"):
        room.write(job.exit, END)
    assert target.read_text() == "x" * room.ROOM_BYTES


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("has_room", [True, False])
def test_a_job_is_stopped_on_a_full_disk(served: Served, has_room: bool) -> None:
    job_id = served.start("touch up; sleep 600")
    until((served.workdir / "up").exists, "the job runs")
    if not has_room:  # a job of an older rl, or its disk was full from the start
        (served.folder(job_id) / "kill.json.room").unlink()
    request = {
        "workdir": str(served.workdir), "jobs_folder": ".jobs", "by": "me@laptop",
        "jobs": [{"job_id": job_id, "grace_s": 5}],
    }
    [answer] = kill.kill(request)["jobs"]
    assert answer["outcome"] == ("killed" if has_room else "already_ended"), answer
    assert served.pids(job_id) == []
    assert served.read(job_id, "exit.json")["state"] == ("KILLED" if has_room else "FAILED")


@pytest.mark.usefixtures("full_disk")
def test_a_start_that_could_not_be_prevented_is_not_called_killed(served: Served) -> None:
    """Nothing would keep it from going on, once there is room."""
    jobs = [{"job_id": "b" * 32, "prevent": True}]
    [answer] = kill.kill({"workdir": str(served.workdir), "jobs": jobs})["jobs"]
    assert answer["outcome"] == "failed", answer
    assert "No space left" in answer["message"]


@pytest.mark.parametrize("ends", ["by itself", "killed", "without its supervisor"])
def test_what_was_not_needed_is_given_back(served: Served, ends: str) -> None:
    job_id = served.start("exit 3" if ends == "by itself" else "sleep 600", grace_s=0.5)
    if ends == "killed":
        served.kill(job_id)
    elif ends == "without its supervisor":
        served.kill_supervisor(job_id)
    served.wait(job_id)
    until(lambda: not list(served.folder(job_id).glob("*.room")), "nothing is set aside any more")
