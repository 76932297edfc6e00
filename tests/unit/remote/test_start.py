"""Starting a job: exactly once, really spawned, with the environment and the exit code told exactly."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from remote_launch.remote import procs, start
from remote_launch.remote.jobdir import Refusal
from tests.support.served import PYTHON, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served import Served


def test_start_reports_the_child_and_a_second_start_says_already(served: Served) -> None:
    spec = served.spec("echo once; exec sleep 600")
    first = served.call("start", spec=spec)
    second = served.call("start", spec=spec)
    assert first["state"] == "STARTED"
    assert second == {**first, "state": "ALREADY"}
    assert procs.start_ticks(first["child_pid"]) is not None
    until(lambda: served.out(spec["job_id"]), "it says something")
    served.kill(spec["job_id"])
    assert served.call("start", spec=spec)["state"] == "ALREADY"  # also after its end
    assert served.out(spec["job_id"]) == "once\n"


def test_a_start_that_meets_another_one_is_no_failure_of_the_job(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "RIVAL_PATIENCE_S", 0.1)
    spec = served.spec("true")
    folder = served.folder(spec["job_id"])
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Refusal, match="another start of this job is under way") as caught:
            start.start({"spec": spec, "jobs_folder": ".jobs"})
    assert caught.value.kind == "StartUnderWayError"


def test_ten_starts_at_once_make_one_child(served: Served) -> None:
    spec = served.spec("echo run >> count; exec sleep 600")
    rivals = [served.popen("start") for _ in range(10)]
    for rival in rivals:
        rival.stdin.write(json.dumps({"spec": spec}).encode())
    for rival in rivals:
        rival.stdin.close()
    answers = [json.loads(rival.stdout.read()) for rival in rivals]
    for rival in rivals:
        rival.wait()
        rival.stdout.close()
        rival.stderr.close()
    assert sorted(answer["state"] for answer in answers) == ["ALREADY"] * 9 + ["STARTED"]
    assert len({answer["child_pid"] for answer in answers}) == 1
    count = served.workdir / "count"
    until(lambda: count.exists() and count.read_text(), "the child writes")
    assert (served.workdir / "count").read_text() == "run\n"


def test_a_starter_that_is_gone_takes_no_job_with_it(served: Served) -> None:
    """Ctrl-C, or the connection's end, between the fork and the report."""
    spec = served.spec("echo ran; exit 7")
    folder = served.folder(spec["job_id"])
    folder.mkdir(parents=True)
    code = (
        "import json, os, sys; sys.path.insert(0, sys.argv[1]); from rl_remote import jobdir, start;"
        "job = jobdir.JobDir(sys.argv[2]); read, write = os.pipe(); os.close(read);"
        "lock = os.open(job.lock, os.O_RDWR | os.O_CREAT);"
        "start._supervise(json.load(sys.stdin), job, sys.argv[3], (lock, write))"
    )
    words = [PYTHON, "-c", code, str(served.program), str(folder), str(served.workdir)]
    subprocess.run(words, input=json.dumps(spec), text=True, timeout=60, check=False)
    end = served.wait(spec["job_id"])
    assert (end["state"], end["exit_code"], served.out(spec["job_id"])) == ("FAILED", 7, "ran\n")


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_truncated_request_creates_nothing(served: Served, cut: int) -> None:
    whole = json.dumps({"spec": served.spec("true")}).encode()
    answer = served.raw("start", whole[:cut])
    assert answer["error"]["type"] == "RequestError"
    assert not (served.workdir / ".jobs").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("job_id", "../../etc"), ("job_id", None), ("version", 2), ("env", {"A=B": "1"}), ("env", {"A": 1}),
        ("torchrun", ["x"]), ("unset_env", "PATH"), ("shell", None), ("cwd", 3),
    ],
)
def test_a_wrong_spec_creates_nothing(served: Served, field: str, value: object) -> None:
    spec = {**served.spec("true"), field: value}
    assert served.call("start", spec=spec)["error"]["type"] == "RequestError"
    assert not (served.workdir / ".jobs").exists()


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"argv": ["no-such-program"]}, "MissingProgramError", "command not found: no-such-program"),
        ({"argv": ["/etc/passwd"]}, "StartError", "Permission denied"),
        ({"shell": "true", "cwd": "not/there"}, "WorkspaceError", "not/there"),
        ({"torchrun": ["x.py"], "python": "~/no/python"}, "MissingProgramError", "interpreter ~/no/python"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(
    served: Served, fields: dict, kind: str, words: str
) -> None:
    spec = served.spec(**fields)
    error = served.call("start", spec=spec)["error"]
    assert error["type"] == kind
    assert words in error["message"]
    assert os.listdir(served.workdir / ".jobs") == []
    good = served.spec("true", job_id=spec["job_id"])  # the same id can be started once the cause is mended
    assert served.call("start", spec=good)["state"] == "STARTED"


def test_a_missing_workdir_is_refused(served: Served, tmp_path: Path) -> None:
    spec = {**served.spec("true"), "workdir": str(tmp_path / "nowhere")}
    error = served.raw("start", json.dumps({"spec": spec}).encode())["error"]
    assert error["type"] == "WorkspaceError"
    assert not (tmp_path / "nowhere").exists()


def test_remains_of_a_start_that_died_do_not_count_as_started(served: Served) -> None:
    spec = served.spec("echo fresh")
    folder = served.folder(spec["job_id"])
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "job.out").write_text("stale")
    assert served.probe(spec["job_id"])["state"] == "CREATED"
    assert served.call("start", spec=spec)["state"] == "STARTED"
    served.wait(spec["job_id"])
    assert served.out(spec["job_id"]) == "fresh\n"


@pytest.mark.parametrize(
    ("shell", "state", "exit_code", "killed_by", "reason"),
    [
        ("true", "SUCCEEDED", 0, None, None),
        ("exit 37", "FAILED", 37, None, "exited with 37"),
        ("kill -SEGV $$", "FAILED", None, "SEGV", "was killed by signal SEGV"),
        ("kill -KILL $$", "FAILED", None, "KILL", "was killed by signal KILL"),
        ("sh -c 'kill -TERM $$'; exit $?", "FAILED", 143, None, "exited with 143 (signal TERM)"),
        ("no-such-thing --x", "FAILED", 127, None, "command not found: no-such-thing (exit 127)"),
    ],
)
def test_the_exact_end_is_recorded(
    served: Served, shell: str, state: str, exit_code: int | None, killed_by: str | None, reason: str | None
) -> None:
    end = served.wait(served.start(shell))
    assert (
        end["state"], end["exit_code"], end["signal"], end["reason"]
    ) == (state, exit_code, killed_by, reason)
    assert end["left_over"] == 0
    assert end["started_at"] <= end["ended_at"]


def test_the_environment_of_the_job(served: Served, tmp_path: Path) -> None:
    prefix = tmp_path / "venv"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "pyvenv.cfg").touch()
    served.env.update(
        {"PET_NNODES": "9", "GONE": "1", "KEPT": "yes", "PYTHONPATH": "/theirs", "RL_COMMAND_ID": "c" * 32}
    )
    (served.workdir / "sub").mkdir()
    job_id = served.start(
        argv=["env", "-0"], cwd="sub", env={"PLAIN": "a $b 'c'\nd"}, secret_env={"API_KEY": "s3cret"},
        unset_env=["PET_*", "GONE"],
        python=str(prefix / "bin" / "python"), path_prepend=["~/tools", str(prefix / "bin")],
        pythonpath_append=[".", "lib"],
        launch_id="f" * 32, run_id="run-1", node_rank=1,
    )
    served.wait(job_id)
    env = dict(entry.split("=", 1) for entry in served.out(job_id).split("\0") if entry)
    expected = {
        "PLAIN": "a $b 'c'\nd", "API_KEY": "s3cret", "KEPT": "yes", "VIRTUAL_ENV": str(prefix),
        "RL_JOB_ID": job_id,
        "RL_LAUNCH_ID": "f" * 32, "RL_RUN_ID": "run-1", "RL_ATTEMPT": "0", "RL_NODE_RANK": "1",
        "RL_JOB_DIR": str(served.folder(job_id)),
        "PYTHONPATH": f"/theirs:{served.workdir}:{served.workdir}/lib",
        "PATH": f"{os.path.expanduser('~/tools')}:{prefix}/bin:{served.env['PATH']}",
    }
    assert {name: env.get(name) for name in expected} == expected
    assert not {"PET_NNODES", "GONE", "RL_COMMAND_ID"} & set(env)


def test_secrets_are_not_written_down(served: Served) -> None:
    spec = served.spec("exec sleep 600", secret_env={"API_KEY": "s3cret-value"})
    spec["gang"] = {"token": "s3cret-token", "nnodes": 1}
    assert served.call("start", spec=spec)["state"] == "STARTED"
    for path in served.folder(spec["job_id"]).rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), path
    assert served.read(spec["job_id"], "spec.json")["secret_names"] == ["API_KEY"]
    assert stat.S_IMODE(served.folder(spec["job_id"]).stat().st_mode) == 0o700


def test_the_job_has_the_users_umask_and_folder(served: Served) -> None:
    job_id = served.start("umask; pwd; touch made; readlink /proc/self/fd/0; ps -o sid= -p $$")
    assert served.wait(job_id)["state"] == "SUCCEEDED"
    umask = os.umask(0o022)
    os.umask(umask)
    lines = served.out(job_id).split("\n")
    assert lines[:3] == [f"{umask:04o}", str(served.workdir), "/dev/null"]
    assert int(lines[3]) == served.read(job_id, "started.json")["child_pid"]  # a session of its own


def test_the_supervisor_is_detached(served: Served) -> None:
    """Nothing of the connection is held, and its end does no harm."""
    job_id = served.start("exec sleep 600")
    pid = served.read(job_id, "started.json")["supervisor_pid"]
    assert os.getsid(pid) != os.getsid(0)
    targets = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in ("0", "1", "2")}
    assert targets == {"/dev/null", str(served.folder(job_id) / "supervisor.log")}
    os.kill(pid, signal.SIGHUP)  # as a closing terminal would
    assert served.probe(job_id)["state"] == "RUNNING"


def test_processes_left_by_a_child_that_ended_are_swept(served: Served) -> None:
    """A background process that ignores TERM, and one in a session of its own without the job's
    environment."""
    job_id = served.start(
        "sh -c 'trap \"\" TERM; sleep 61' & setsid env -i sleep 62 & echo $! > wiped; sleep 0.2; exit 4"
    )
    end = served.wait(job_id)
    assert (end["state"], end["exit_code"], end["left_over"]) == ("FAILED", 4, 0)
    assert served.pids(job_id) == []
    assert procs.start_ticks(int((served.workdir / "wiped").read_text())) is None


REFUSED = """
import os, sys
from remote_launch.remote import procs, start
from remote_launch.remote.jobdir import JobDir, Refusal

procs.become_subreaper()
job = JobDir(sys.argv[1])
lock = os.open(job.lock, os.O_RDWR | os.O_CREAT)
try:
    start._detach({"argv": ["/nowhere"], "job_id": job.job_id}, job, "/", lock, None)
except Refusal as refusal:
    print(refusal.message)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
print("exit.json" in os.listdir(job.path))
"""


def test_a_start_that_was_refused_is_no_end_for_the_guardian_to_write_down(tmp_path: Path) -> None:
    """What it wrote while the starter, that may be slow, removes the folder would stay, and be an end of the
    job."""
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "command not found: /nowhere\nFalse\n", done.stderr


EARLY_END = """
import os, sys
from remote_launch.remote import start
from remote_launch.remote.jobdir import JobDir, Refusal

def dies(spec, job, *_):
    with open(job.log, "w") as log:
        log.write("Traceback (most recent call last):\\nMemoryError\\n")
    os._exit(1)

start._supervise = dies
try:
    start._detach({}, JobDir(sys.argv[1]), sys.argv[1], 0, None)
except Refusal as refusal:
    print(refusal.message)
"""


def test_a_supervisor_that_ends_at_once_has_last_words(tmp_path: Path) -> None:
    """The folder of a start that failed is removed: nobody can look into its log."""
    done = subprocess.run(
        [sys.executable, "-c", EARLY_END, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "the supervisor ended before it could start the job: MemoryError\n", done.stderr
