"""A job without output for too long is stopped, with the stacks of its processes written down; one that gets
on, on any node, is not."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from remote_launch.remote import stacks as written
from remote_launch.remote import stall
from remote_launch.remote.jobdir import JobDir
from tests.support.served import Launch, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served import Served

# A rank that can say where it is, as the sample's do.
ANSWERS = """\
import faulthandler, os, signal, time
folder = os.path.join(os.environ["RL_JOB_DIR"], "stacks")
os.makedirs(folder, exist_ok=True)
file = open(os.path.join(folder, "pid-%d.txt" % os.getpid()), "w")
faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
def waits_for_ever():
    time.sleep(600)
print("epoch 7")
waits_for_ever()
"""
NO_SPY = {"PATH": "/usr/bin:/bin"}
PATIENT_S = 10.0  # where a job isn't to be taken for stalled: on no busy machine it stands still for as long
# For longer than that.
WORKS = "for i in $(seq 26); do {}; sleep 0.5; done"
SIGNS = ("echo tick", "echo tick >&2", 'touch "$RL_HEARTBEAT_FILE"', "echo x >> $RL_JOB_DIR/ranks.log")


def python(code: str, workdir: Path) -> str:
    (workdir / "rank.py").write_text(code)
    return f"exec {sys.executable} rank.py"


def test_a_silent_job_is_stopped_and_says_where_it_was(served: Served) -> None:
    job_id = served.start(
        python(ANSWERS, served.workdir), stall_timeout_s=PATIENT_S, env={"RANK": "3", **NO_SPY}, grace_s=30
    )
    end = served.wait(job_id)
    stacks = served.folder(job_id) / "stacks"
    assert end["state"] == "FAILED"
    assert end["reason"] == f"no output for 10 s: stopped; stacks in {stacks}"
    assert (end["cause"]["tail"], end["cause"]["stalled"]) == ("epoch 7", True)
    written = (stacks / "rank-3.txt").read_text()
    assert "in waits_for_ever" in written
    assert "state S" in written
    assert served.probe(job_id)["log_bytes"] >= len(written)  # so that a sync of logs brings them


def test_a_process_that_announced_nothing_is_not_signalled(served: Served) -> None:
    """SIGUSR1 would end it."""
    job_id = served.start("exec sleep 600", stall_timeout_s=0.5, env=NO_SPY)
    end = served.wait(job_id)
    assert end["signal"] == "TERM"
    written = (served.folder(job_id) / "stacks" / "job.txt").read_text()
    assert "sleep 600" in written
    assert "no Python stack" in written


def test_a_left_over_announcement_is_not_enough(served: Served) -> None:
    """The pid has passed to a process that does not handle SIGUSR1."""
    shell = "mkdir -p $RL_JOB_DIR/stacks; : > $RL_JOB_DIR/stacks/pid-$$.txt; exec sleep 600"
    end = served.wait(served.start(shell, stall_timeout_s=0.5, env=NO_SPY))
    assert end["signal"] == "TERM"


def test_py_spy_is_used_where_there_is_one(served: Served, tmp_path: Path) -> None:
    tool = tmp_path / "py-spy"
    tool.write_text('#!/bin/sh\necho "Thread 1 (idle): in forward, called with $*"\n')
    tool.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    job_id = served.start("exec sleep 600", stall_timeout_s=0.5, env=env)
    served.wait(job_id)
    assert "in forward, called with dump --pid" in (served.folder(job_id) / "stacks/job.txt").read_text()


def test_there_is_time_to_write_what_is_known_though_nobody_answers() -> None:
    spied_s = written.SPY_S + written.PROCESSES_LIMIT * written.LATE_S
    assert spied_s + written.ANSWER_S + 2 < written.DEADLINE_S


def test_any_sign_of_life_keeps_it_going(served: Served) -> None:
    ids = [served.start(WORKS.format(sign), stall_timeout_s=PATIENT_S) for sign in SIGNS]
    ends = [served.wait(job_id) for job_id in ids]
    assert [(end["state"], end["reason"]) for end in ends] == [("SUCCEEDED", None)] * len(SIGNS)


def test_python_keeps_no_lines_back(served: Served) -> None:
    """Its output is a file, so it would hold 8 KiB of them: a false alarm."""
    served.env.pop("PYTHONUNBUFFERED", None)
    code = "import os, time\nprint('on its way')\nwhile not os.path.exists('go'):\n    time.sleep(0.05)\n"
    job_id = served.start(python(code, served.workdir), stall_timeout_s=600)
    until(lambda: served.out(job_id) == "on its way\n", "the line is there while it goes on")
    (served.workdir / "go").touch()
    assert served.wait(job_id)["state"] == "SUCCEEDED"


def test_one_node_with_output_keeps_a_launch_going(nodes: list[Served], tmp_path: Path) -> None:
    launch = Launch(nodes)
    over = tmp_path / "over"  # neither is to be quiet alone, however late the other began
    launch.start(
        f"{WORKS.format('echo $i')}; touch {over}",
        f"until [ -e {over} ]; do sleep 0.1; done",
        stall_timeout_s=PATIENT_S,
    )
    ends = [launch.wait(rank) for rank in range(2)]
    assert [(end["state"], end["reason"]) for end in ends] == [("SUCCEEDED", None)] * 2


@pytest.mark.parametrize("first", ["exec sleep 600", "exit 0"])
def test_a_launch_without_output_on_any_node_is_stopped(nodes: list[Served], first: str) -> None:
    launch = Launch(nodes)
    launch.start(first, "exec sleep 600", stall_timeout_s=1, env=NO_SPY)
    ends = [launch.wait(rank) for rank in range(2)]
    for end in ends:
        assert end["cause"]["message"].startswith("no output on any node for 1 s: stopped; stacks in")
    assert ends[1]["state"] == "FAILED"
    assert ends[1]["reason"] == ends[1]["cause"]["message"]
    assert "sleep 600" in (nodes[1].folder(launch.ids[1]) / "stacks/job.txt").read_text()


def test_a_person_who_kills_it_first_is_not_contradicted(served: Served) -> None:
    job_id = served.start("exec sleep 600", stall_timeout_s=30)
    served.kill(job_id)
    assert served.wait(job_id)["state"] == "KILLED"


def test_time_in_which_the_watcher_slept_does_not_count(tmp_path: Path) -> None:
    life = stall.Life(JobDir(str(tmp_path)), "", 10.0)
    start = time.monotonic()
    life.tick(start + 1000)
    assert life.quiet_s <= 3 * life.every_s
    life.tick(start + 1001)
    assert 1 <= life.quiet_s <= 3 * life.every_s + 1
    (tmp_path / "job.out").write_text("x")
    life.tick(start + 1002)
    assert life.quiet_s == 0


def test_notes_of_rl_itself_are_no_signs_of_life(tmp_path: Path) -> None:
    life = stall.Life(JobDir(str(tmp_path)), "", 10.0)
    start = time.monotonic()
    for name in ("supervisor.log", "kill.json", "exit.json.abc.tmp", "logs.index"):
        (tmp_path / name).write_text("x")
    life.tick(start + 1)
    assert life.quiet_s > 0


def test_output_that_comes_while_the_stacks_are_written_saves_it(tmp_path: Path) -> None:
    said: list[str] = []
    tree = SimpleNamespace(child_alive=True, asked=False, gone=False, stalled=None)
    host = SimpleNamespace(
        spec={"stall_timeout_s": 10}, job=JobDir(str(tmp_path)), attempt=0, grace_s=1, tree=tree, gang=None,
        log=said.append, stop=lambda *_: pytest.fail("stopped"),
    )
    watch = stall.StallWatch(host, {}, "/")
    watch.dump = lambda: setattr(watch, "_dump", SimpleNamespace(done=False))
    now = time.monotonic()
    for step in range(1, 13):
        watch.tick(now + step)
    assert watch._dump_until is not None
    (tmp_path / "job.out").write_text("it goes on")
    watch.tick(now + 14)
    watch._dump = SimpleNamespace(done=True)
    watch.tick(now + 15)
    assert said == ["there is output again: not stopped"]


def test_the_end_of_the_node_that_printed_gives_the_others_their_time(tmp_path: Path) -> None:
    """They were quiet for as long as the launch has run: that is no reason to stop them in the moment when
    the rank that printed is done."""
    asked: list[float] = []
    tree = SimpleNamespace(child_alive=True, asked=False, gone=False, stalled=None)
    gang = SimpleNamespace(is_coordinator=True, ask_for_stacks=lambda: asked.append(step))
    host = SimpleNamespace(
        spec={"stall_timeout_s": 10, "gang": {"nnodes": 2}, "node_rank": 0}, job=JobDir(str(tmp_path)),
        attempt=0, grace_s=1, tree=tree, gang=gang, log=lambda _: None,
    )
    watch = stall.StallWatch(host, {}, "/")
    now = time.monotonic()
    for step in range(1, 120):
        if step < 100:
            (tmp_path / "job.out").write_text("x" * step)
        tree.child_alive = step < 100
        watch.heard(1, {"quiet_s": float(step), "runs": True, "dumped": False})
        watch._told[1] = (now + step, *watch._told[1][1:])
        watch.tick(now + step)
    assert asked == [110]
    assert watch._dump_until is not None
    watch.heard(1, {"quiet_s": 500.0, "runs": False, "dumped": False})
    watch._told[1] = (now + 200, *watch._told[1][1:])
    watch.tick(now + 200)
    assert watch._dump_until is None  # all are done: nobody is waited for


def test_a_job_that_waits_with_nothing_running_wakes_nobody(tmp_path: Path) -> None:
    """A queued one waits for days: a wait of no time at all would keep a core busy for as long."""
    tree = SimpleNamespace(child_alive=False, asked=False, gone=True, stalled=None)
    host = SimpleNamespace(
        spec={"stall_timeout_s": 10}, job=JobDir(str(tmp_path)), attempt=-1, grace_s=1, tree=tree, gang=None,
    )
    watch = stall.StallWatch(host, {}, "/")
    watch.tick(time.monotonic() + 100)
    assert watch.wait_s(time.monotonic() + 100) is None


def test_a_job_without_the_option_is_not_watched(served: Served) -> None:
    served.env.pop("PYTHONUNBUFFERED", None)
    job_id = served.start("echo ${RL_HEARTBEAT_FILE:-none} ${PYTHONUNBUFFERED:-none}")
    served.wait(job_id)
    assert served.out(job_id) == "none none\n"


def test_the_stacks_have_a_limit(served: Served, tmp_path: Path) -> None:
    tool = tmp_path / "py-spy"
    tool.write_text("#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x\n")
    tool.chmod(0o755)
    job_id = served.start("exec sleep 600", stall_timeout_s=0.5, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    served.wait(job_id)
    assert os.stat(served.folder(job_id) / "stacks/job.txt").st_size == 256 << 10


def test_it_is_not_stopped_twice(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start("trap '' TERM; sleep 600", "exec sleep 600", stall_timeout_s=0.5, env=NO_SPY, grace_s=1)
    launch.wait(0)
    log = (nodes[0].folder(launch.ids[0]) / "supervisor.log").read_text()
    assert log.count("failure on node 0: no output on any node") == 1
    until(lambda: not nodes[1].pids(launch.ids[1]), "node 1 ends")


def test_a_stalled_job_is_started_again(served: Served) -> None:
    job_id = served.start(
        'test "$RL_ATTEMPT" = 0 && exec sleep 600; exit 0', stall_timeout_s=PATIENT_S, env=NO_SPY,
        max_restarts=1,
    )
    end = served.wait(job_id)
    assert (end["state"], len(end["attempts"])) == ("SUCCEEDED", 2), end
    assert end["attempts"][0]["cause"]["stalled"] is True


def test_a_stalled_launch_is_started_again_and_watched_again(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start("exec sleep 600", "exec sleep 600", stall_timeout_s=0.5, env=NO_SPY, max_restarts=1)
    ends = [launch.wait(rank, 120) for rank in range(2)]
    assert [(end["state"], len(end["attempts"])) for end in ends] == [("FAILED", 2)] * 2
    assert ends[1]["cause"]["message"].startswith("no output on any node for 0.5 s")
    stacks = nodes[1].folder(launch.ids[1]) / "stacks"
    assert {"job.txt", "attempt-1-job.txt"} <= {path.name for path in stacks.iterdir()}
