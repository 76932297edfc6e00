"""Faults made for real, those of ``benchmarks/faults.py`` that other tests here don't make: what must stop a
launch stops it everywhere, with the right cause; what must not doesn't. A rank whose peer is gone waits for
ever: it is rl that stops it. How soon is printed (``pytest -s``), and measured by the benchmark: a test can't
know what else the machine does."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import faults
from tests.support.docker_hosts import USER
from tests.support.training import make_project

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.cli import Rl
    from tests.support.docker_hosts import DockerHost
    from tests.support.faults import Launch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="watches the hosts' processes as root")

WORKDIRS = [f"/home/{USER}/train-uv"] * 2
PATIENCE_S = 600
# With what may stand still when it is over, and the second between two beats, less than the 10 s after which
# a silent node is taken for lost.
FREEZE_S = 3.0
STOPPED_S = 90.0  # 5 s are promised for a node that can tell, 17 s for one that can't


@pytest.fixture
def rl(tmp_path: Path, hosts: list[DockerHost]) -> Rl:
    rl = make_project(tmp_path / "project", hosts)
    faults.write_script(rl.project)
    rl("rsync")
    return rl


def stopped_after(hosts: Sequence[DockerHost], since: float) -> float:
    """Wait until nothing trains on the hosts; return how long after the fault that was."""
    while any(faults.training(host) for host in hosts):
        assert time.time() < since + STOPPED_S, [faults.training(host) for host in hosts]
        time.sleep(faults.POLL_S)
    return time.time() - since


def wait_until_empty(hosts: Sequence[DockerHost]) -> None:
    """Return once the user runs nothing any more on the hosts, supervisors included."""
    deadline = time.monotonic() + 60
    while left := [process for host in hosts for process in faults.own_processes(host)]:
        assert time.monotonic() < deadline, left
        time.sleep(faults.POLL_S)


def states(rl: Rl, launch: Launch) -> dict[str, dict[str, Any]]:
    told = rl.json("job-list", "--all", "--rsync", code=None)["data"]
    return {job["server"]: job for job in told if job["launch_id"] == launch.launch_id}


@pytest.mark.parametrize(
    ("kind", "words"),
    [("exit", "rank 3 on host-1 exited with 37"), ("segv", "rank 3 on host-1 was ended by signal SEGV")],
)
def test_a_rank_that_fails_stops_every_node(rl: Rl, hosts: list[DockerHost], kind: str, words: str) -> None:
    launch = faults.start(rl, hosts, patience_s=PATIENCE_S)
    failed_at = launch.ask_for_fault(kind, rank=3)
    took_s = stopped_after(hosts, failed_at)
    print(f"\n{kind} on a rank: all stopped after {took_s:.1f} s")
    wait_until_empty(hosts)
    assert [(end or {}).get("state") for end in launch.exits(WORKDIRS)] == ["FAILED", "FAILED"]
    assert words in rl("job-show").stdout.splitlines()[0]
    assert {job["state"] for job in states(rl, launch).values()} == {"FAILED"}


def test_a_node_that_loses_its_power(rl: Rl, hosts: list[DockerHost]) -> None:
    launch = faults.start(rl, hosts, patience_s=PATIENCE_S)
    failed_at = time.time()
    hosts[1].kill()
    took_s = stopped_after(hosts[:1], failed_at)
    print(f"\npower off: the other node stopped after {took_s:.1f} s")
    wait_until_empty(hosts[:1])
    told = states(rl, launch)
    assert told["host-0"]["state"] == "FAILED"
    assert told["host-0"]["details"]["cause"]["server"] == "host-1"
    assert told["host-1"]["state"] == "RUNNING", "as it was last heard of: nobody knows"
    assert told["host-1"]["unreachable_since"]
    hosts[1].start()
    assert states(rl, launch)["host-1"]["state"] == "LOST"


def test_a_short_freeze_and_new_connections_stop_nothing(rl: Rl, hosts: list[DockerHost]) -> None:
    launch = faults.start(rl, hosts, steps=75)
    with faults.frozen(hosts[1]):
        deadline = time.monotonic() + FREEZE_S
        while time.monotonic() < deadline:  # the freeze itself, not a wait for a state
            assert faults.training(hosts[0])
            time.sleep(faults.POLL_S)
    for host in hosts:
        faults.restart_sshd(host)
    rl("job-wait")
    told = states(rl, launch)
    assert {job["state"] for job in told.values()} == {"SUCCEEDED"}, told
    assert [step.number for step in launch.progress()] == list(range(75))
    wait_until_empty(hosts)


def test_a_full_disk(rl: Rl, hosts: list[DockerHost], inventory: WriteInventory) -> None:
    """What node 1 can't write down itself is known on node 0, and comes after when there is room."""
    workdirs = [f"/home/{USER}/train-small", "/small/train"]
    environment = {"manager": "none", "python": f"{WORKDIRS[1]}/.rl/env/bin/python"}
    servers = {hosts[1].name: {"workdir": workdirs[1]}}
    hosts[1].exec("chmod 1777 /small")  # docker forgets the mode when a container starts again
    (rl.project / "requirements.txt").unlink()
    inventory(rl.project, hosts, name="train-small", environment=environment, servers=servers)
    rl("prepare")
    launch = faults.start(rl, hosts, patience_s=PATIENCE_S)
    failed_at = time.time()
    hosts[1].exec("head -c 40m /dev/zero > /small/fill || true", user=USER)
    took_s = stopped_after(hosts, failed_at)
    print(f"\ndisk full: all stopped after {took_s:.1f} s")
    wait_until_empty(hosts[:1])
    hosts[1].exec("rm /small/fill")
    wait_until_empty(hosts)
    assert [(end or {}).get("state") for end in launch.exits(workdirs)] == ["FAILED", "FAILED"]
    assert "on host-1" in rl("job-show").stdout.splitlines()[0]
