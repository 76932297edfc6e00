"""Faults in a real training on hosts with addresses of their own: what is stopped, what is left, and whether
and when training goes on. Times are printed (``pytest -s``)."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.faults import marked
from tests.support.training import EPOCH_S, PATIENT, make_project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.cli import Rl
    from tests.support.docker_hosts import DockerHost

DEADLINE_S = 240.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition gives something true, and return that."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {DEADLINE_S:g} s: {what}")


class Training:
    """A launch of the sample over some hosts. Attempt 0 is slow: it lasts until the fault is made, on a fast
    machine and for a test that stands still for a while."""

    def __init__(
        self, rl: Rl, hosts: list[DockerHost], *options: str, epochs: int = 60, script: tuple[str, ...] = ()
    ) -> None:
        self.rl, self.hosts, self.first = rl, hosts, 0
        slow = ["--env", EPOCH_S, "0.5"]
        words = ["torch-launch", *options, *slow, PATIENT, "train.py", "--epochs", str(epochs), *script]
        self.jobs = rl.json(*words)["data"]["jobs"]
        self.until(lambda: "epoch   3" in self.output(0), "three epochs")

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """As ``until``; where it is in vain, with what was said on the hosts."""
        try:
            return until(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def folder(self, node: int) -> str:
        job = self.jobs[node]
        return f"{job['workdir']}/.jobs/{job['job_id']}"

    def output(self, attempt: int) -> str:
        """What rank 0 has printed in an attempt."""
        ranks = "ranks" + (f".{attempt}" if attempt else "")
        path = f"{self.folder(self.first)}/{ranks}/*/attempt_0/0/stdout.log"
        return self.hosts[self.first].exec(f"cat {path} 2>/dev/null || true")

    def read(self, node: int, name: str) -> dict[str, Any]:
        told = self.hosts[node].exec(f"cat {self.folder(node)}/{name} 2>/dev/null || echo '{{}}'")
        return json.loads(told)

    def worker(self, node: int, local_rank: int = 0) -> str:
        """The pid of a rank, in its host."""
        host, job_id = self.hosts[node], self.jobs[node]["job_id"]

        def having(variable: str) -> set[int]:
            found = host.exec(f"grep -lsz '^{variable}$' /proc/[0-9]*/environ; true", user=host.username)
            return {int(path.split("/")[2]) for path in found.split()}

        return str(min(having(f"LOCAL_RANK={local_rank}") & having(f"RL_JOB_ID={job_id}")))

    def goes_on(self, fault_at: float, nodes: tuple[int, ...] = (0, 1)) -> str:
        """Wait for the second attempt's first epoch; return the times since the fault, in words. (The hosts'
        clock is ours.)"""
        over = [
            self.until(lambda node=node: self.read(node, "started.json").get("attempts"), "an attempt's end")
            for node in nodes
        ]
        stopped_s = max(attempts[0]["ended_at"] for attempts in over) - fault_at
        self.until(lambda: "epoch" in self.output(1).replace("resuming from epoch", ""), "training goes on")
        again_s = time.time() - fault_at
        started_s = self.read(self.first, "started.json")["attempt_started_at"] - fault_at
        return f"all stopped {stopped_s:.1f} s, started again {started_s:.1f} s, training {again_s:.1f} s"

    def end(self, node: int) -> dict[str, Any]:
        """Wait until a node's end is written down; return it."""
        return dict(self.until(lambda: self.read(node, "exit.json"), f"the end of node {node}"))

    def logs(self) -> str:
        """What the supervisors, and torchrun in its attempts, had to say."""
        said = []
        for node, host in list(enumerate(self.hosts))[self.first and 1 :]:
            folder = self.folder(node)
            logs = ("supervisor.log", "job.err", "job.1.err", "ranks*/*/*/*/stderr.log")
            files = " ".join(f"{folder}/{name}" for name in logs)
            told = host.exec(f"tail -n 40 {files} 2>&1; ip -br addr; true", check=False)
            said.append(f"{host.name}:\n{told}")
        return "\n".join(said)

    def left(self) -> list[int]:
        return [marked(host, job["job_id"]) for host, job in zip(self.hosts, self.jobs, strict=True)]

    def knows_doors(self, *nodes: int) -> None:
        """Wait until these nodes can call each other."""
        for node in nodes:
            command = f"cat {self.folder(node)}/supervisor.log"
            self.until(
                lambda node=node, command=command: "knows 2 doors" in self.hosts[node].exec(command),
                "it knows where the others listen",
            )

    def states(self) -> list[str]:
        ids = {job["job_id"]: number for number, job in enumerate(self.jobs)}
        told = self.rl.json("job-list", "--all", "--rsync", code=None)["data"]
        mine = sorted((job for job in told if job["job_id"] in ids), key=lambda job: ids[job["job_id"]])
        return [job["state"] for job in mine]


@pytest.fixture
def rl(tmp_path: Path, hosts: list[DockerHost]) -> Rl:
    return make_project(tmp_path / "project", hosts)


def test_training_goes_on_after_kill_9_of_a_worker(rl: Rl, hosts: list[DockerHost]) -> None:
    training = Training(rl, hosts, "--nproc-per-node", "2", "--max-restarts", "2")
    pid = training.worker(1)
    fault_at = time.time()
    hosts[1].exec(f"kill -9 {pid}")
    print(f"\nkill -9 of a worker: {training.goes_on(fault_at)}")
    rl("job-wait")
    assert training.states() == ["SUCCEEDED"] * 2
    assert training.left() == [0, 0]
    assert "resuming from epoch" in training.output(1)
    assert "attempt 1" in training.output(1)
    first, last = training.read(1, "exit.json")["attempts"]
    assert (first["cause"]["server"], first["cause"]["signal"]) == ("host-1", "KILL")
    assert last["cause"] is None
    shown = rl("job-show").stdout
    assert "SUCCEEDED" in shown
    assert "0: ran" in shown


@pytest.mark.parametrize("victim", [0, 1])
def test_kill_9_of_a_supervisor_leaves_nothing(rl: Rl, hosts: list[DockerHost], victim: int) -> None:
    training = Training(rl, hosts, "--nproc-per-node", "2", epochs=400)
    pid = training.read(victim, "started.json")["supervisor_pid"]
    fault_at = time.time()
    hosts[victim].exec(f"kill -9 {pid}")
    times = []
    for node in (victim, 1 - victim):
        training.end(node)
        times.append(time.time() - fault_at)
    assert training.left() == [0, 0]
    print(f"\nkill -9 of node {victim}'s supervisor: there {times[0]:.1f} s, the other {times[1]:.1f} s")
    end = training.read(victim, "exit.json")
    assert end["state"] == "LOST"
    assert "its supervisor was killed by signal KILL" in end["reason"]
    other = training.read(1 - victim, "exit.json")
    assert (other["state"], other["cause"]["node_rank"], other["cause"]["lost"]) == ("FAILED", victim, True)
    assert training.states() == (["LOST", "FAILED"] if victim == 0 else ["FAILED", "LOST"])


def test_a_node_that_was_cut_off_takes_part_again(rl: Rl, hosts: list[DockerHost]) -> None:
    training = Training(rl, hosts, "--nproc-per-node", "1", "--max-restarts", "2")
    fault_at = time.time()
    hosts[1].disconnect()
    training.until(lambda: training.read(0, "started.json").get("attempts"), "node 0 misses it")
    stopped_s = time.time() - fault_at
    hosts[1].connect()
    back_at = time.time()
    print(f"\nnode cut off: node 0 stopped {stopped_s:.1f} s; since it is back: {training.goes_on(back_at)}")
    rl("job-wait")
    assert training.states() == ["SUCCEEDED"] * 2
    assert training.read(0, "exit.json")["attempts"][0]["cause"]["lost"] is True


def test_a_spare_takes_the_place_of_a_killed_host(
    tmp_path: Path, docker_host_factory: Callable[[int], list[DockerHost]]
) -> None:
    hosts = docker_host_factory(3)
    rl = make_project(tmp_path / "project", hosts)
    training = Training(rl, hosts, "--nproc-per-node", "1", "--spare", "1", "--max-restarts", "2")
    fault_at = time.time()
    hosts[1].kill()
    print(f"\ndocker kill of a node, with a spare: {training.goes_on(fault_at, (0,))}")
    rl("job-wait")
    assert training.read(0, "exit.json")["replaced"] == {"host-1": "host-2"}
    assert [training.read(node, "exit.json")["state"] for node in (0, 2)] == ["SUCCEEDED"] * 2


def test_a_spare_takes_the_place_of_killed_node_0(
    tmp_path: Path, docker_host_factory: Callable[[int], list[DockerHost]]
) -> None:
    """Its machine had rank 0, the place where the ranks meet, and the supervisor that decided."""
    hosts = docker_host_factory(3)
    rl = make_project(tmp_path / "project", hosts)
    options = ("--nproc-per-node", "1", "--spare", "1", "--max-restarts", "2")
    training = Training(rl, hosts, *options, epochs=120, script=("--every-node",))
    training.knows_doors(1, 2)
    fault_at = time.time()
    hosts[0].kill()
    training.first = 2
    print(f"\ndocker kill of node 0, with a spare: {training.goes_on(fault_at, (1,))}")
    assert "epoch" in rl("job-tail", "--no-follow").stdout  # of rank 0, which is on the spare now
    rl("job-wait")
    for node in (1, 2):
        end = training.read(node, "exit.json")
        assert (end["state"], end["replaced"]) == ("SUCCEEDED", {"host-0": "host-2"})
    assert "resuming from epoch" in training.output(1)
    left = [marked(host, job["job_id"]) for host, job in zip(hosts[1:], training.jobs[1:], strict=True)]
    assert left == [0, 0]
    shown = rl("job-show").stdout
    assert shown.startswith("SUCCEEDED")
    assert "host-2 took the place of host-0" in shown
    assert "0: ran" in shown


def test_node_0_that_was_cut_off_finds_its_place_taken(
    tmp_path: Path, docker_host_factory: Callable[[int], list[DockerHost]]
) -> None:
    hosts = docker_host_factory(3)
    rl = make_project(tmp_path / "project", hosts)
    options = ("--nproc-per-node", "1", "--spare", "1", "--max-restarts", "2")
    training = Training(rl, hosts, *options, epochs=400, script=("--every-node",))
    training.knows_doors(1, 2)
    fault_at = time.time()
    hosts[0].disconnect()
    training.first = 2
    print(f"\nnode 0 cut off, with a spare: {training.goes_on(fault_at, (1,))}")
    hosts[0].connect()
    end = training.end(0)
    assert (end["state"], end["attempt"]) == ("FAILED", 0)
    assert "replaced" not in end
    assert training.left()[0] == 0
    # The only training, that goes on or, where its machines are fast, is done.
    goes_on = training.left()[1:] != [0, 0]
    assert goes_on or training.end(1)["state"] == "SUCCEEDED"
    rl("job-wait")
    assert [training.read(node, "exit.json")["state"] for node in (1, 2)] == ["SUCCEEDED"] * 2
    assert rl("job-show").stdout.startswith("SUCCEEDED")
