"""The main job on two hosts with addresses of their own: prepare, train, fail, kill. Real ssh, real rsync,
real torchrun with gloo."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import marked
from tests.support.training import ENVIRONMENTS, PATIENT, make_project

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.cli import Rl
    from tests.support.docker_hosts import DockerHost


@pytest.fixture
def rl(tmp_path: Path, hosts: list[DockerHost]) -> Rl:
    """A prepared project. The hosts live as long as the session, so only the first test waits for torch."""
    return make_project(tmp_path / "project", hosts)


@pytest.mark.parametrize("manager", ["uv", "venv"])
def test_trains_on_both_hosts(tmp_path: Path, hosts: list[DockerHost], manager: str) -> None:
    rl = make_project(tmp_path / "project", hosts, f"train-{manager}", manager)
    launched = rl.json("torch-launch", "--nproc-per-node", "2", "train.py", "--epochs", "4")["data"]
    assert [job["server"] for job in launched["jobs"]] == ["host-0", "host-1"]
    rl("job-wait")

    # Hosts that other tests trained on before know other jobs too, and those are adopted: only this launch is
    # meant.
    jobs = rl.json("job-list", "--all", "--rsync")["data"][:2]
    assert [(job["state"], job["exit_code"]) for job in jobs] == [("SUCCEEDED", 0)] * 2
    assert [job["node_rank"] for job in jobs] == [0, 1]
    shown = rl("job-tail", "--no-follow", "--lines", "-1").stdout
    assert "4 x cpu" in shown
    assert float(shown.rsplit("test accuracy", 1)[1].split()[0]) > 0.9
    folders = [rl.project / ".remote" / "jobs" / job["job_id"] for job in jobs]
    logs = [log for folder in folders for log in folder.rglob("stdout.log")]
    assert len(logs) == 4, "one log a rank comes back"
    assert any("test accuracy" in log.read_text() for log in logs)


def test_an_exit_code_on_one_rank_is_the_launchs(rl: Rl) -> None:
    rl(
        "torch-launch",
        "--nproc-per-node",
        "2",
        PATIENT,
        "train.py",
        "--epochs",
        "50",
        "--fail-rank",
        "3",
        "--fail-code",
        "37",
    )
    rl("job-wait", code=37)
    jobs = rl.json("job-list", "--all")["data"]
    assert [job["state"] for job in jobs] == ["FAILED", "FAILED"]
    assert jobs[1]["exit_code"] == 37
    shown = rl("job-show").stdout
    assert "rank 3 on host-1 exited with 37" in shown
    assert "rank 3 exits with 37, as --fail-rank asks" in shown, "the last lines of the rank that failed"
    assert "37" in rl("job-list", "--all").stdout


SPAWNER = """
import os, signal, subprocess, sys, time
import torch.utils.data

class Data(torch.utils.data.Dataset):
    def __len__(self): return 1_000_000
    def __getitem__(self, i): time.sleep(0.01); return i

signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["setsid", "sh", "-c", "trap '' TERM; sleep 1000 & wait; sleep 1000"])
loader = iter(torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=1))
next(loader)
print("ready", flush=True)
while True:
    next(loader)
"""


def test_kill_leaves_nothing_on_any_host(rl: Rl, hosts: list[DockerHost]) -> None:
    (rl.project / "spawner.py").write_text(textwrap.dedent(SPAWNER))
    rl("torch-launch", "--rsync", "--nproc-per-node", "2", "spawner.py")
    deadline = time.monotonic() + 240
    while rl("job-tail", "--all-ranks", "--no-follow", "--lines", "-1").stdout.count("ready") < 4:
        assert time.monotonic() < deadline, rl("job-tail", "--all-ranks", "--no-follow", "--launcher").stdout
    jobs = rl.json("job-list", "--rsync", "--tag", "spawner.py")["data"]
    assert [job["state"] for job in jobs] == ["RUNNING", "RUNNING"]
    assert all(marked(host, job["job_id"]) > 5 for host, job in zip(hosts, jobs, strict=True))

    killed = rl.json("job-kill", "--tag", "spawner.py", "--grace", "2")["data"]
    # The first that is asked has the others stop too: one that is asked seconds later has ended by then.
    outcomes = {result["outcome"] for result in killed}
    assert "killed" in outcomes, killed
    assert outcomes <= {"killed", "already_ended"}, killed
    assert [result["job"]["state"] for result in killed] == ["KILLED", "KILLED"]
    assert [result["left_over"] for result in killed] == [0, 0]
    assert [marked(host, job["job_id"]) for host, job in zip(hosts, jobs, strict=True)] == [0, 0]
    assert not any(host.processes("sleep 1000") for host in hosts)
    assert {
        job["state"] for job in rl.json("job-list", "--all", "--rsync", "--tag", "spawner.py")["data"]
    } == {"KILLED"}


def test_by_password_over_fabric(tmp_path: Path, hosts: list[DockerHost]) -> None:
    entries = {
        host.name: {"transport": "fabric", "password": host.password, "private_key": None} for host in hosts
    }
    rl = make_project(tmp_path / "project", hosts, servers=entries)
    rl("prepare")
    rl("torch-launch", "--nproc-per-node", "2", "--tag", "fabric", "train.py", "--epochs", "1")
    rl("job-wait")
    jobs = rl.json("job-list", "--all", "--rsync", "--tag", "fabric")
    assert [(job["state"], job["exit_code"]) for job in jobs["data"]] == [("SUCCEEDED", 0)] * 2
    kept = [
        path for path in (rl.project / ".remote").rglob("*") if path.is_file() and path.name != "configs.yaml"
    ]
    assert not [path for path in kept if hosts[0].password.encode() in path.read_bytes()], (
        "the password is in no file"
    )


def test_one_host_down_hides_nothing_of_the_other(
    rl: Rl, hosts: list[DockerHost], inventory: WriteInventory
) -> None:
    impatient = {"host-1": {"connect_timeout_s": 2}}
    inventory(rl.project, hosts, name="train-uv", environment=ENVIRONMENTS["uv"], servers=impatient)
    hosts[1].kill()
    checked = rl.json("servers", "--check", code=3)
    assert checked["status"] == "partial"
    assert [entry["reachable"] for entry in checked["data"]] == [True, False]
    assert [error["server"] for error in checked["errors"]] == ["host-1"]
    refused = rl("torch-launch", "--nproc-per-node", "1", "train.py", code=3)
    assert "nothing was started" in refused.stderr
    assert rl.json("job-list", "--all")["data"] == []


def test_the_ranks_meet_where_the_own_name_is_loopback(rl: Rl, hosts: list[DockerHost]) -> None:
    """Debian's /etc/hosts has the own name at 127.0.1.1: gloo binds to it unless an interface is named."""
    before = [host.exec("cat /etc/hosts") for host in hosts]
    try:
        for host in hosts:
            name = host.exec("hostname")
            host.exec(
                f"grep -v '[[:space:]]{name}$' /etc/hosts > /tmp/hosts;"
                f" echo '127.0.1.1 {name}' >> /tmp/hosts; cat /tmp/hosts > /etc/hosts"
            )
        rl("torch-launch", "--nproc-per-node", "1", "train.py", "--epochs", "1")
        rl("job-wait")
    finally:
        for host, content in zip(hosts, before, strict=True):
            host.exec(f"cat > /etc/hosts <<'END'\n{content}\nEND")
