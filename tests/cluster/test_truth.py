"""States that tell the truth on machines of their own: memory that runs out, power that goes, a network that
is away, a job that hangs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl
from tests.support.docker_image import docker
from tests.support.served import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.docker_hosts import DockerHost

HOG = "held = [bytearray(8 << 20) for _ in range(64)]\n"
HANGS = """\
import faulthandler, os, signal, time
folder = os.path.join(os.environ["RL_JOB_DIR"], "stacks")
os.makedirs(folder, exist_ok=True)
faulthandler.register(signal.SIGUSR1, file=open(f"{folder}/pid-{os.getpid()}.txt", "w"))
def waits_for_ever():
    time.sleep(600)
print("epoch 7")
waits_for_ever()
"""


@pytest.fixture
def rl(tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory) -> Iterator[Rl]:
    command = 'echo "$RL_STATE $RL_REASON" > told'
    project = inventory(tmp_path / "project", hosts, environment={"manager": "none"}, on_finish=command)
    (project / "hog.py").write_text(HOG)
    (project / "hangs.py").write_text(HANGS)
    rl = Rl(project)
    rl("rsync")
    yield rl
    rl("job-kill", "--yes", "--grace", "0.2", code=None)
    for host in hosts:
        host.exec("rm -rf /home/trainer/project")


@pytest.fixture
def little_memory(hosts: list[DockerHost]) -> Iterator[DockerHost]:
    host = hosts[0]
    host.exec("sync")  # a limit can't be set while more than that waits to be written
    docker("update", "--memory", "128m", "--memory-swap", "128m", host.container)
    yield host
    docker("update", "--memory", "16g", "--memory-swap", "16g", host.container)


def told(host: DockerHost) -> str:
    """Return what on_finish has written: that runs once the job has ended."""
    return str(until(lambda: host.exec("cat /home/trainer/project/told", check=False), "on_finish to run"))


def job_of(rl: Rl) -> dict[str, Any]:
    jobs = rl.json("job-list", "--all", "--rsync", "--server", "host-0")["data"]
    return dict(jobs[-1])


@pytest.mark.parametrize("command", ["exec python3 hog.py", "python3 hog.py; exit $?"])
def test_a_kill_for_memory_is_named(rl: Rl, little_memory: DockerHost, command: str) -> None:
    rl("job-run", "--server", little_memory.name, "--cmd", command)
    assert rl("job-wait", code=137).returncode == 137
    reason = "was killed by the kernel: out of memory (limit 128 MiB)"
    assert job_of(rl)["reason"] == reason
    assert "out of memory (limit 128 MiB)" in rl("job-show").stdout
    assert told(little_memory) == f"FAILED {reason}"


def test_a_kill_by_a_person_is_not_called_that(rl: Rl, hosts: list[DockerHost]) -> None:
    rl("job-run", "--server", hosts[0].name, "--cmd", "kill -9 $$")
    rl("job-wait", code=137)
    assert job_of(rl)["reason"] == "was killed by signal KILL"


def test_a_machine_that_was_switched_off_and_on(rl: Rl, hosts: list[DockerHost]) -> None:
    rl("job-run", "--server", hosts[0].name, "--", "sleep", "600")
    hosts[0].kill()
    hosts[0].start()
    job = job_of(rl)
    assert (job["state"], job["reason"]) == ("LOST", "its container was started again")


def test_a_machine_that_is_out_of_reach_and_comes_back(rl: Rl, hosts: list[DockerHost]) -> None:
    host, go = hosts[0], "/home/trainer/project/go"
    began = time.time()
    rl("job-run", "--server", host.name, "--cmd", f"until [ -e {go} ]; do sleep 0.1; done; exit 7")
    rl("disconnect")
    host.disconnect()
    listed = rl("job-list", "--rsync", "--server", host.name, code=None)
    assert "RUNNING" in listed.stdout
    assert "unreachable for" in listed.stdout
    assert "unreachable for" in rl("job-show", code=None).stdout
    host.exec(f"touch {go}")
    until(lambda: host.exec("ls /home/trainer/project/.jobs/*/exit.json", check=False), "the job to end")
    lasted_s = time.time() - began
    host.connect()
    job = job_of(rl)
    assert (job["state"], job["exit_code"], job["unreachable_since"]) == ("FAILED", 7, None)
    assert 0 < job["duration_s"] <= lasted_s, "until it ended, not until that was heard of"


def test_a_job_that_hangs_is_stopped_with_its_stacks(rl: Rl, hosts: list[DockerHost]) -> None:
    # Long enough for Python to have come up by then on a machine that stands still for seconds.
    rl("job-run", "--server", hosts[0].name, "--stall-timeout", "15", "--", "python3", "hangs.py")
    rl("job-wait", code=1)
    job = job_of(rl)
    assert job["reason"].startswith("no output for 15 s: stopped; stacks in /home/trainer/")
    stacks = rl.project / ".remote" / "jobs" / job["job_id"] / "stacks"
    assert "in waits_for_ever" in (stacks / "job.txt").read_text()
    assert not hosts[0].processes("hangs.py")
