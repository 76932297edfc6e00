"""Faults made for real, those of ``benchmarks/faults.py`` that other tests here don't make: what must stop a
launch stops it everywhere, soon, with the right cause; what must not doesn't. Times are printed
(``pytest -s``)."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.test_main_path import ENVIRONMENTS, make_project
from tests.support import faults
from tests.support.docker_hosts import USER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.cli import Rl
    from tests.support.docker_hosts import DockerHost
    from tests.support.faults import Launch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="watches the hosts' processes as root")

WORKDIRS = [f"/home/{USER}/train-uv"] * 2
LOCAL_S = 5.0  # promised for a failure on a node that can still tell
SILENT_S = 17.0  # ... for a node that can't: silence 10 s, grace 5 s, and 2 s
SLOW_MACHINE_S = 5.0  # what the promise is exceeded by is told, and allowed, up to this


@pytest.fixture
def rl(tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory) -> Rl:
    rl = make_project(tmp_path / "project", hosts, inventory, "train-uv", ENVIRONMENTS["uv"])
    faults.write_script(rl.project)
    rl("rsync")
    return rl


def stopped_after(hosts: Sequence[DockerHost], since: float, limit_s: float) -> float:
    """Wait until nothing trains on the hosts; return how long after the fault that was."""
    while any(faults.training(host) for host in hosts):
        assert time.time() < since + limit_s, [faults.training(host) for host in hosts]
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
    launch = faults.start(rl, hosts)
    failed_at = launch.ask_for_fault(kind, rank=3)
    took_s = stopped_after(hosts, failed_at, LOCAL_S + SLOW_MACHINE_S)
    print(f"\n{kind} on a rank: all stopped after {took_s:.1f} s")
    wait_until_empty(hosts)
    assert [(end or {}).get("state") for end in launch.exits(WORKDIRS)] == ["FAILED", "FAILED"]
    assert words in rl("job-show").stdout.splitlines()[0]
    assert {job["state"] for job in states(rl, launch).values()} == {"FAILED"}


def test_a_node_that_loses_its_power(rl: Rl, hosts: list[DockerHost]) -> None:
    launch = faults.start(rl, hosts)
    failed_at = time.time()
    hosts[1].kill()
    took_s = stopped_after(hosts[:1], failed_at, SILENT_S + SLOW_MACHINE_S)
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
    launch = faults.start(rl, hosts, steps=60)
    hosts[1].pause()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:  # the freeze itself, not a wait for a state
        assert faults.training(hosts[0])
        time.sleep(faults.POLL_S)
    hosts[1].unpause()
    for host in hosts:
        faults.restart_sshd(host)
    rl("job-wait", timeout_s=120)
    assert {job["state"] for job in states(rl, launch).values()} == {"SUCCEEDED"}
    assert [step.number for step in launch.progress()] == list(range(60))
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
    launch = faults.start(rl, hosts)
    failed_at = time.time()
    hosts[1].exec("head -c 40m /dev/zero > /small/fill || true", user=USER)
    took_s = stopped_after(hosts, failed_at, LOCAL_S + SLOW_MACHINE_S)
    print(f"\ndisk full: all stopped after {took_s:.1f} s")
    wait_until_empty(hosts[:1])
    hosts[1].exec("rm /small/fill")
    wait_until_empty(hosts)
    assert [(end or {}).get("state") for end in launch.exits(workdirs)] == ["FAILED", "FAILED"]
    assert "on host-1" in rl("job-show").stdout.splitlines()[0]
