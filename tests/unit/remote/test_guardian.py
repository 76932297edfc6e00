"""kill -9 of a supervisor: its guardian ends the whole tree, and says so in exit.json."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from remote_launch.remote import procs
from tests.support.served import until

if TYPE_CHECKING:
    from tests.support.served import Served


def supervisor_of(served: Served, job_id: str) -> int:
    return served.read(job_id, "started.json")["supervisor_pid"]


def test_a_killed_supervisor_leaves_no_process_and_an_end(served: Served) -> None:
    job_id = served.start("trap '' TERM; setsid sleep 600 & sleep 600; sleep 600", grace_s=0.5)
    until(lambda: len(served.pids(job_id)) >= 3, "the job's processes run")
    served.kill_supervisor(job_id)
    end = served.wait(job_id)
    assert (end["state"], end["exit_code"], end["left_over"]) == ("LOST", None, 0)
    assert end["reason"] == "its supervisor was killed by signal KILL, so the job was stopped"
    assert served.pids(job_id) == []
    told = served.probe(job_id)
    assert (told["state"], told["left_over"], told["reason"]) == ("LOST", 0, end["reason"])


def test_what_hides_from_its_mark_is_ended_too(served: Served) -> None:
    """A daemon with an emptied environment and a session of its own: only descent tells whose it is."""
    job_id = served.start("setsid env -i /bin/sleep 61 & echo $! > pid; exec sleep 600", grace_s=0.5)
    told = served.workdir / "pid"
    hidden = int(until(lambda: told.exists() and told.read_text(), "its pid"))
    until(lambda: procs.start_ticks(hidden) is not None and hidden not in served.pids(job_id), "it hides")
    served.kill_supervisor(job_id)
    served.wait(job_id)
    assert procs.start_ticks(hidden) is None


def test_the_child_gets_one_term_and_its_grace(served: Served) -> None:
    shell = "trap 'echo saved >> saved; exit 0' TERM; touch trapped; while :; do sleep 0.05; done"
    job_id = served.start(shell, grace_s=30)
    until((served.workdir / "trapped").exists, "its trap is set")
    served.kill_supervisor(job_id)
    served.wait(job_id)
    assert (served.workdir / "saved").read_text() == "saved\n"


def test_a_kill_that_finds_the_supervisor_dead_is_a_kill(served: Served) -> None:
    job_id = served.start("trap '' TERM; touch trapped; while :; do sleep 0.1; done", grace_s=30)
    until((served.workdir / "trapped").exists, "its trap is set")
    served.kill_supervisor(job_id)
    assert served.kill(job_id, grace_s=0.2)["outcome"] == "killed"
    assert served.read(job_id, "exit.json")["state"] == "KILLED"
    assert served.pids(job_id) == []


def test_the_guardian_ends_with_its_supervisor(served: Served) -> None:
    job_id = served.start("exec sleep 600")
    pid = supervisor_of(served, job_id)
    guardian = int(procs._stat(pid)[1])
    ticks = procs.start_ticks(guardian)
    assert guardian != 1
    assert ticks is not None
    os.kill(guardian, signal.SIGTERM)  # a shutdown's TERM to everyone is no end of it
    assert served.kill(job_id)["outcome"] == "killed"
    until(lambda: not procs.is_alive(guardian, ticks), "the guardian ends")


@pytest.mark.parametrize("spec", [{"python": "/nowhere", "torchrun": ["x.py"]}, {"argv": ["/nowhere"]}])
def test_a_start_that_is_refused_leaves_no_guardian(served: Served, spec: dict) -> None:
    answer = served.call("start", spec=served.spec(None, **spec))
    assert "error" in answer
    until(lambda: not _of_its_program(served), "no process is left")


def _of_its_program(served: Served) -> set[int]:
    """Processes that run the programs of this server's workdir."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if os.fsencode(served.workdir) in file.read() and procs.start_ticks(int(name)):
                    found.add(int(name))
        except OSError:
            continue
    return found


def test_a_job_that_kills_its_supervisor_has_an_end(served: Served) -> None:
    """It may be faster than the supervisor's report to who starts it."""
    job_id = served.start("kill -9 $PPID; sleep 600", grace_s=0.5)
    end = served.wait(job_id)
    assert (end["state"], end["left_over"]) == ("LOST", 0)
    assert end["reason"] == "its supervisor was killed by signal KILL, so the job was stopped"
    assert served.pids(job_id) == []
