"""Stopping jobs: everything of them is gone, and the answer says what was done."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import uuid
from typing import TYPE_CHECKING

from remote_launch.remote import procs
from tests.support.served import until, words_of

if TYPE_CHECKING:
    from tests.support.served import Served

STUBBORN = (
    "trap '' TERM; sh -c 'trap \"\" TERM; sleep 71' & setsid env -i sleep 72 & setsid sleep 73 & touch up; "
    "sleep 74; sleep 75"
)


def _is_up(served: Served, name: str = "up") -> None:
    until((served.workdir / name).exists, "the job gets going")


def _sleeps_alone(served: Served, job_id: str) -> None:
    """Wait until a job is one process, sleep, and no shell any more."""
    until(lambda: [words_of(pid)[:5] for pid in served.pids(job_id)] == [b"sleep"], "it is one process")


def test_a_stubborn_tree_is_killed_to_the_last(served: Served) -> None:
    job_id = served.start(STUBBORN)
    _is_up(served)
    supervisor = served.read(job_id, "started.json")["supervisor_pid"]
    before = until(
        lambda: len(found := procs.members(job_id, supervisor)) >= 5 and found, "all of it is there"
    )
    answer = served.kill(job_id, grace_s=0.5)
    assert answer.pop("ended_at") == served.read(job_id, "exit.json")["ended_at"]
    assert [one["attempt"] for one in answer.pop("attempts")] == [0]
    assert answer == {
        "job_id": job_id, "outcome": "killed", "state": "KILLED", "exit_code": None, "signal": "KILL",
        "left_over": 0, "message": None, "reason": "killed by me@laptop",
    }
    assert [pid for pid, ticks in before.items() if procs.is_alive(pid, ticks)] == []
    assert served.probe(job_id)["reason"] == "killed by me@laptop"
    until(lambda: procs.start_ticks(supervisor) is None, "the supervisor ends")


def test_the_child_gets_term_first_and_its_grace(served: Served) -> None:
    job_id = served.start("trap 'echo saved; exit 9' TERM; touch up; while :; do sleep 0.05; done")
    _is_up(served)
    answer = served.kill(job_id)
    assert (answer["outcome"], answer["exit_code"], answer["signal"]) == ("killed", 9, None)
    assert served.out(job_id) == "saved\n"


def test_another_first_signal(served: Served) -> None:
    job_id = served.start("trap 'exit 5' INT; trap 'exit 6' TERM; touch up; while :; do sleep 0.05; done")
    _is_up(served)
    assert served.kill(job_id, signal="INT")["exit_code"] == 5


def test_kill_goes_to_the_whole_tree_at_once(served: Served) -> None:
    job_id = served.start(STUBBORN)
    _is_up(served)
    answer = served.kill(job_id, signal="KILL", grace_s=300)  # the answer has 60 s
    assert (answer["outcome"], answer["signal"], answer["left_over"]) == ("killed", "KILL", 0)
    assert served.pids(job_id) == []


def test_the_dead_the_unknown_and_the_living_in_one_call(served: Served) -> None:
    ended, alive, unknown = served.start("exit 3"), served.start("exec sleep 600"), uuid.uuid4().hex
    served.wait(ended)
    jobs = [{"job_id": job_id, "grace_s": 5} for job_id in (ended, unknown, alive)]
    answers = served.call("kill", jobs=jobs, by="me@laptop")["jobs"]
    assert [answer["outcome"] for answer in answers] == ["already_ended", "not_found", "killed"]
    assert (answers[0]["state"], answers[0]["exit_code"]) == ("FAILED", 3)


def test_a_job_whose_supervisor_died_is_killed_all_the_same(served: Served) -> None:
    job_id = served.start(
        "trap '' TERM; sh -c 'trap \"\" TERM; touch up; sleep 76' & while :; do sleep 0.1; done"
    )
    _is_up(served)
    served.kill_supervisor(job_id, guardian=True)
    lost = until(lambda: (found := served.probe(job_id))["state"] == "LOST" and found, "the job is lost")
    assert lost["left_over"] >= 2
    assert "its supervisor died" in lost["reason"]
    assert "still run" in lost["reason"]
    answer = served.kill(job_id, grace_s=0.3)
    assert (answer["outcome"], answer["state"], answer["left_over"]) == ("killed", "KILLED", 0)
    assert served.pids(job_id) == []
    assert served.probe(job_id)["state"] == "KILLED"


def test_a_supervisor_that_is_stopped_is_not_waited_for_forever(served: Served, monkeypatch) -> None:
    job_id = served.start("exec sleep 600")
    supervisor = served.read(job_id, "started.json")["supervisor_pid"]
    os.kill(supervisor, signal.SIGSTOP)
    from remote_launch.remote import kill

    monkeypatch.setattr(kill, "PATIENCE_S", 0.5)
    request = {
        "workdir": str(served.workdir), "jobs": [{"job_id": job_id, "grace_s": 0.2}], "by": "me@laptop"
    }
    answer = kill.kill(request)["jobs"][0]
    assert (answer["outcome"], answer["state"]) == ("killed", "KILLED")
    assert served.pids(job_id) == []
    until(lambda: procs.start_ticks(supervisor) is None, "the supervisor is gone")


def test_a_stop_that_rl_did_not_ask_for_is_no_kill(served: Served) -> None:
    job_id = served.start("exec sleep 600")
    os.kill(served.read(job_id, "started.json")["supervisor_pid"], signal.SIGTERM)
    end = served.wait(job_id)
    assert (end["state"], end["signal"]) == ("FAILED", "TERM")
    assert "not by rl" in end["reason"]


def test_the_death_of_supervisor_and_guardian_ends_the_child(served: Served) -> None:
    job_id = served.start("exec sleep 600")
    served.kill_supervisor(job_id, guardian=True)
    until(lambda: served.pids(job_id) == [], "the child ends")
    job = served.probe(job_id)
    assert (
        job["state"], job["reason"], job["exit_code"], job["left_over"]
    ) == ("LOST", "its supervisor died", None, 0)
    assert served.kill(job_id)["outcome"] == "already_ended"


def test_a_start_that_is_under_way_is_not_called_killed(served: Served) -> None:
    """It would go on, and run a job that everybody takes for ended."""
    spec = served.spec("true")
    folder = served.folder(spec["job_id"])
    folder.mkdir(parents=True)
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = served.kill(spec["job_id"])
    assert (answer["outcome"], answer["state"]) == ("failed", "CREATED")
    assert not (folder / "exit.json").exists()
    assert served.kill(spec["job_id"])["outcome"] == "killed"  # nobody is at it now
    assert served.call("start", spec=spec)["state"] == "ALREADY"


def test_a_wrong_signal_is_refused(served: Served) -> None:
    job_id = served.start("exec sleep 600")
    assert served.call("kill", jobs=[{"job_id": job_id, "signal": "NOPE"}])["error"]["type"] == "RequestError"
    assert served.probe(job_id)["state"] == "RUNNING"


def test_a_job_that_was_never_heard_of_is_kept_from_starting_when_that_is_asked(served: Served) -> None:
    """Its start may be on the way: the launch was interrupted."""
    spec = served.spec("touch ran")
    jobs = [{"job_id": spec["job_id"], "grace_s": 1, "prevent": True}]
    answer = served.call("kill", jobs=jobs, by="me@laptop")["jobs"][0]
    assert (answer["outcome"], answer["state"]) == ("killed", "KILLED")
    assert served.call("start", spec=spec)["state"] == "ALREADY"
    assert served.probe(spec["job_id"])["state"] == "KILLED"
    assert not (served.workdir / "ran").exists()


def test_a_job_whose_folder_was_removed_is_stopped(served: Served) -> None:
    job_id = served.start("exec sleep 600", max_restarts=3)
    _sleeps_alone(served, job_id)
    supervisor = served.read(job_id, "started.json")["supervisor_pid"]
    shutil.rmtree(served.folder(job_id))
    told = served.call("probe", job_ids=[job_id])
    assert (told["missing"], told["missing_alive"]) == ([job_id], {job_id: len(served.pids(job_id))})
    for op in ("look", "remove"):
        [kept] = served.call("removal", op=op, job_ids=[job_id])["jobs"]
        assert kept["outcome"] == "running", kept
    answer = served.kill(job_id)
    assert (answer["outcome"], answer["state"], answer["left_over"]) == ("killed", "KILLED", 0), answer
    assert served.pids(job_id) == []
    until(lambda: procs.start_ticks(supervisor) is None, "the supervisor ends, and starts nothing again")
    assert served.kill(job_id)["outcome"] == "not_found"
    assert not served.folder(job_id).exists()
    assert served.call("probe", job_ids=[job_id])["missing_alive"] == {}


def test_a_job_of_another_workdir_is_left_to_its_supervisor(served: Served) -> None:
    """It would start it again, in its own folder."""
    job_id = served.start("exec sleep 600", max_restarts=3)
    _sleeps_alone(served, job_id)
    before = served.pids(job_id)
    other = served.workdir / "other"
    other.mkdir()
    jobs = [{"job_id": job_id, "grace_s": 5}]
    [answer] = served.call("kill", workdir=str(other), jobs=jobs, by="me@laptop")["jobs"]
    assert (answer["outcome"], answer["state"]) == ("failed", None), answer
    assert str(served.folder(job_id)) in answer["message"]
    assert served.pids(job_id) == before
    assert served.kill(job_id)["outcome"] == "killed"
