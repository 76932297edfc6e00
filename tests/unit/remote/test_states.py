"""What probe tells of jobs, and of folders that are none."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import uuid
from typing import TYPE_CHECKING

from remote_launch.remote import procs
from tests.support.served import PYTHON, until

if TYPE_CHECKING:
    from tests.support.served import Served


def test_a_running_job_and_what_its_spec_says(served: Served) -> None:
    job_id = served.start(
        "echo 12345; exec sleep 600", command="train me", tags=("a",), node_rank=0, created_at=5.0
    )
    until(lambda: served.probe(job_id)["log_bytes"] == 6, "the log grows")
    answer = served.call("probe", job_ids=[job_id], specs=True)
    job = answer["jobs"][0]
    assert (job["state"], job["exit_code"], job["reason"], job["attempt"]) == ("RUNNING", None, None, 0)
    assert job["supervisor_pid"] == served.read(job_id, "started.json")["supervisor_pid"]
    assert job["spec"]["command"] == "train me"
    assert (
        job["spec"]["tags"], job["spec"]["created_at"], job["spec"]["workdir"]
    ) == (["a"], 5.0, str(served.workdir))
    assert "secret_env" not in job["spec"]
    assert (answer["bad"], answer["others"], answer["missing"]) == ([], [], [])


def test_a_job_started_in_an_earlier_boot_is_lost(served: Served) -> None:
    job_id = served.start("exec sleep 600")
    path = served.folder(job_id) / "started.json"
    started = served.read(job_id, "started.json")
    path.write_text(json.dumps({**started, "boot_id": "another"}))
    job = served.probe(job_id)
    assert job["state"] == "LOST"
    assert job["reason"].startswith("the server was restarted at 2")
    path.write_text(json.dumps(started))


def test_a_start_that_was_broken_off_is_no_job_for_ever(served: Served) -> None:
    spec = served.spec("true")
    folder = served.folder(spec["job_id"])
    folder.mkdir(parents=True)
    with (folder / "lock").open("wb") as lock:
        assert served.probe(spec["job_id"])["state"] == "CREATED"
        os.utime(folder, (1e9, 1e9))
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert served.probe(spec["job_id"])["state"] == "CREATED"  # somebody is at it
    job = served.probe(spec["job_id"])
    assert (job["state"], job["reason"]) == ("FAILED", "its start was broken off: it never ran")
    assert served.call("start", spec=spec)["state"] == "STARTED"  # and may be asked for again


def test_a_recycled_pid_is_not_the_supervisor(served: Served) -> None:
    job_id = served.start("exec sleep 600")
    started = served.read(job_id, "started.json")
    path = served.folder(job_id) / "started.json"
    path.write_text(json.dumps({**started, "supervisor_pid": os.getpid()}))
    assert served.probe(job_id)["state"] == "LOST"
    path.write_text(json.dumps(started))


def test_discovery_names_the_others_and_the_missing(served: Served) -> None:
    first, second = served.start("true"), served.start("true")
    unknown = uuid.uuid4().hex
    answer = served.call("probe", job_ids=[first, unknown], discover=True)
    assert [job["job_id"] for job in answer["jobs"]] == [first]
    assert (answer["others"], answer["missing"]) == ([second], [unknown])
    everything = served.call("probe", job_ids=None)
    assert {job["job_id"] for job in everything["jobs"]} == {first, second}


def test_no_jobs_folder_is_no_error(served: Served) -> None:
    answer = served.call("probe", job_ids=None, discover=True)
    assert (answer["jobs"], answer["bad"]) == ([], [])


def test_corrupt_folders_are_told_and_hide_nothing(served: Served) -> None:
    good = served.start("true")
    served.wait(good)
    jobs = served.workdir / ".jobs"

    def folder(name: str, **files: bytes) -> str:
        (jobs / name).mkdir()
        for file, content in files.items():
            (jobs / name / f"{file}.json").write_bytes(content)
        return name

    ids = [uuid.uuid4().hex for _ in range(8)]
    folder(ids[0], exit=b"{half")
    folder(ids[1], exit=b"[1, 2]")
    folder(ids[2], exit=b'{"state": "NAPPING"}')
    folder(ids[3], exit=b"x" * (2 << 20))
    folder(ids[4], started=b"\xff\xfe\x00")
    folder(ids[5])
    os.mkfifo(jobs / ids[5] / "exit.json")
    odd_types = b'"exit_code": "many", "reason": 7, "failures": 3, "cause": "x", "ended_at": NaN'
    folder(ids[6], exit=b'{"state": "FAILED", %s}' % odd_types)
    folder(ids[7], started=b'{"supervisor_pid": "1", "supervisor_ticks": null, "boot_id": 4}')
    folder("../.jobs/not-an-id")
    (jobs / uuid.uuid4().hex).write_text("a file")
    (jobs / "évil\nname").mkdir()
    os.symlink("/etc", jobs / uuid.uuid4().hex)
    answer = served.call("probe", job_ids=None, discover=True, specs=True)
    states = {job["job_id"]: job["state"] for job in answer["jobs"]}
    assert states == {good: "SUCCEEDED", ids[6]: "FAILED", ids[7]: "LOST"}
    assert {entry["name"] for entry in answer["bad"]} >= {*ids[:6], "not-an-id", "évil\nname"}
    assert len(answer["bad"]) == 10
    odd = next(job for job in answer["jobs"] if job["job_id"] == ids[6])
    assert (
        odd["exit_code"], odd["reason"], odd["failures"], odd["cause"], odd["ended_at"]
    ) == (None, None, [], None, None)


def test_odd_requests_are_refused(served: Served) -> None:
    assert served.call("probe", job_ids=["../x"])["error"]["type"] == "RequestError"
    assert served.call("probe", job_ids=None, jobs_folder="../../tmp")["error"]["type"] == "RequestError"
    assert served.raw("probe", b"{}")["error"]["type"] == "RequestError"
    assert served.raw("probe", b"[" * 100000)["error"]["type"] == "RequestError"


def test_facts_of_the_machine(served: Served) -> None:
    facts = served.call("probe", job_ids=[], facts=True)["facts"]
    assert facts["cpus"] >= 1
    assert 0 < facts["memory_available_bytes"] <= facts["memory_total_bytes"]
    assert 0 < facts["disk_free_bytes"] <= facts["disk_total_bytes"]
    assert facts["boot_id"]
    assert isinstance(facts["gpus"], list)


def test_what_a_kill_wrote_first_does_not_make_a_killed_job(served: Served) -> None:
    """A child that ended by itself keeps its own end, though a kill was asked for a moment later."""
    job_id = served.start("while [ ! -e go ]; do sleep 0.05; done")
    supervisor = served.read(job_id, "started.json")["supervisor_pid"]
    os.kill(supervisor, signal.SIGSTOP)
    (served.workdir / "go").touch()
    until(lambda: not served.pids(job_id), "the child ends")
    (served.folder(job_id) / "kill.json").write_text('{"signal": "TERM", "grace_s": 1, "by": "me"}')
    os.kill(supervisor, signal.SIGTERM)
    os.kill(supervisor, signal.SIGCONT)
    assert served.wait(job_id)["state"] == "SUCCEEDED"


END_AND_KILL = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from rl_remote import jobdir, start, tree

job, calls, reap = jobdir.JobDir(sys.argv[2]), [], tree.JobTree.reap

def then_it_ends(self):
    ended = reap(self)
    calls.append(1)
    if len(calls) == 2:  # in the loop
        open(os.path.join(sys.argv[3], "go"), "w").close()
        os.waitid(os.P_PID, self.child_pid, os.WEXITED | os.WNOWAIT)
        jobdir.write_atomic(job.kill, {"signal": "TERM", "grace_s": 1, "by": "me"})
        os.kill(os.getpid(), signal.SIGTERM)
    return ended

tree.JobTree.reap = then_it_ends
lock = os.open(job.lock, os.O_RDWR | os.O_CREAT)
read, write = os.pipe()
start._supervise(json.load(sys.stdin), job, sys.argv[3], (lock, write))
"""


def test_a_kill_that_comes_before_the_end_was_seen_does_not_make_a_killed_job(served: Served) -> None:
    spec = served.spec("while [ ! -e go ]; do sleep 0.05; done")
    folder = served.folder(spec["job_id"])
    folder.mkdir(parents=True)
    words = [PYTHON, "-c", END_AND_KILL, str(served.program), str(folder), str(served.workdir)]
    subprocess.run(words, input=json.dumps(spec), text=True, timeout=60, check=False)
    end = served.wait(spec["job_id"])
    assert (end["state"], end["exit_code"]) == ("SUCCEEDED", 0), served.log(spec["job_id"])


STOPPED_LATE = """
import os
from remote_launch.remote.tree import JobTree

pid = os.fork()
if pid == 0:
    os._exit(3)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
tree = JobTree("0" * 32, pid, lambda _: None)
tree.stop(15, 1.0)
print(tree.asked, tree.exit_code)
"""


def test_a_stop_that_finds_the_child_ended_was_not_what_ended_it() -> None:
    """As the coordinator's, when this node's own failure has not been seen yet: it may be the cause."""
    done = subprocess.run([PYTHON, "-c", STOPPED_LATE], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False 3\n", done.stderr


def test_a_container_that_was_started_again_is_no_reboot(served: Served) -> None:
    job_id = served.start("exec sleep 600")
    path = served.folder(job_id) / "started.json"
    started = served.read(job_id, "started.json")
    path.write_text(json.dumps({**started, "pid_namespace": "pid:[1]"}))
    job = served.call("probe", job_ids=[job_id], server="s0")["jobs"][0]
    assert job["state"] == "LOST"
    assert job["reason"].startswith("its container was started again")
    path.write_text(json.dumps(started))


def test_how_long_it_has_run_is_told_apart_from_the_clock(served: Served) -> None:
    job_id = served.start("sleep 0.3; touch there; exec sleep 600")
    until((served.workdir / "there").exists, "it runs")
    path = served.folder(job_id) / "started.json"
    started = served.read(job_id, "started.json")
    path.write_text(json.dumps({**started, "started_at": started["started_at"] + 3600}))
    assert 0.3 <= served.probe(job_id)["running_s"] < 600
    served.kill(job_id)
    job = served.probe(job_id)
    assert 0.3 <= job["duration_s"] < 600
    assert "running_s" not in job


def test_how_long_it_has_run_counts_from_its_start_and_not_from_its_supervisor_s(served: Served) -> None:
    """Between the two the disk may stand still. The laptop would take that for a clock that was set, and find
    another start at each look."""
    job_id = served.start("exec sleep 600")
    path = served.folder(job_id) / "started.json"
    started = served.read(job_id, "started.json")
    ticks = started["supervisor_ticks"]
    assert 0 <= started["supervisor_age_s"] <= procs.age_s(ticks)
    path.write_text(json.dumps({**started, "supervisor_age_s": -100}))  # as if it had been born long ago
    before_s = procs.age_s(ticks)
    assert before_s + 100 <= served.probe(job_id)["running_s"] <= procs.age_s(ticks) + 100


def test_files_that_are_huge_from_the_future_or_lead_elsewhere(served: Served) -> None:
    """Each is told or passed over, fast; none is followed."""
    good = served.start("echo fine")
    served.wait(good)
    jobs = served.workdir / ".jobs"
    ids = [uuid.uuid4().hex for _ in range(6)]
    for job_id in ids:
        (jobs / job_id / "ranks").mkdir(parents=True)
    with (jobs / ids[0] / "exit.json").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with (jobs / ids[1] / "started.json").open("wb") as file:
        file.truncate(1 << 40)
    future = '{"state": "SUCCEEDED", "exit_code": 0, "ended_at": 9e9, "started_at": 8e9, "duration_s": -5}'
    (jobs / ids[2] / "exit.json").write_text(future)
    (jobs / ids[3] / "exit.json").write_text('{"state": "FAILED", "version": 99, "new": {"deep": [1]}}')
    secret = served.workdir.parent / "secret.json"
    secret.write_text('{"state": "SUCCEEDED", "reason": "from elsewhere"}')
    os.symlink(secret, jobs / ids[4] / "exit.json")
    os.symlink("/usr", jobs / ids[5] / "ranks" / "run")
    os.symlink("/proc/kcore", jobs / ids[5] / "job.out")
    answer = served.call("probe", job_ids=None, specs=True)  # it has 60 s; to read the files takes minutes
    told = {job["job_id"]: job for job in answer["jobs"]}
    assert told[good]["state"] == "SUCCEEDED"
    assert (told[ids[2]]["state"], told[ids[3]]["state"]) == ("SUCCEEDED", "FAILED")
    assert told[ids[5]]["log_bytes"] < 1000
    assert {entry["name"] for entry in answer["bad"]} == {ids[0], ids[1], ids[4]}
    assert "from elsewhere" not in json.dumps(answer)
