"""Restarts with real torchrun and gloo, over local servers: a dead worker, and a lost node that a spare
replaces."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.cli import Rl, copy_sample
from tests.support.served import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not installed in this interpreter"
    ),
]

# In attempt 0 it works for ever, without the others: only who is hurt fails. In a later one it ends well, if
# all ranks are there.
SCRIPT = """
import os, pathlib, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
count, attempt = torch.ones(1), os.environ["RL_ATTEMPT"]
dist.all_reduce(count)
assert count.item() == dist.get_world_size()
sign = pathlib.Path(os.environ["OUT"], f"{attempt}.{dist.get_rank()}")
aside = sign.with_name(f".{sign.name}")
aside.write_text(f"{os.getpid()}")
aside.rename(sign)
while attempt == "0":
    time.sleep(0.1)
dist.barrier()
os._exit(0)
"""


@pytest.fixture
def rl(tmp_path: Path) -> Iterator[Rl]:
    project = copy_sample(tmp_path / "project")
    (project / "requirements.txt").unlink()
    (project / "go.py").write_text(SCRIPT)
    (tmp_path / "out").mkdir()
    entry: dict[str, Any] = {"connection": "local", "env": {"OUT": str(tmp_path / "out")}}
    content = {
        "name": "project",
        "servers": {
            name: {**entry, "workdir": str(tmp_path / "work" / name)} for name in ("one", "two", "three")
        },
        "environment": {"manager": "none", "python": sys.executable},
    }
    (project / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    rl = Rl(project)
    rl("prepare")
    yield rl
    rl("job-kill", "--yes", code=None)  # what a test that failed has left


def launch(rl: Rl, *options: str) -> tuple[list[dict[str, Any]], Path]:
    """Start the script; return its jobs, and the folder of its signs, once all ranks work."""
    jobs = rl.json("torch-launch", "--nproc-per-node", "1", *options, "go.py")["data"]["jobs"]
    out = rl.project.parent / "out"
    until(lambda: (out / "0.0").exists() and (out / "0.1").exists(), "both ranks work", 240)
    return jobs, out


def test_all_start_again_when_a_worker_is_killed(rl: Rl) -> None:
    _, out = launch(rl, "--server", "one", "--server", "two", "--max-restarts", "1")
    began = time.monotonic()
    os.kill(int((out / "0.1").read_text()), signal.SIGKILL)
    rl("job-wait")
    print(f"\nkill -9 of a worker: done again after {time.monotonic() - began:.1f} s")
    shown = rl.json("job-show")["data"][0]
    assert shown["verdict"]["state"] == "SUCCEEDED"
    for job in shown["jobs"]:
        first, last = job["details"]["attempts"]
        cause = first["cause"]
        assert (cause["server"], cause["rank"], cause["signal"]) == ("two", 1, "KILL")
        assert last["cause"] is None


def test_a_spare_takes_the_place_of_a_lost_node(rl: Rl) -> None:
    jobs, out = launch(rl, "--spare", "1", "--max-restarts", "1")
    folder = rl.project.parent / "work" / "two" / ".jobs" / jobs[1]["job_id"]
    os.kill(json.loads((folder / "started.json").read_text())["supervisor_pid"], signal.SIGKILL)
    rl("job-wait")
    assert {path.name for path in out.iterdir()} == {"0.0", "0.1", "1.0", "1.1"}
    shown = rl.json("job-show")["data"][0]
    assert shown["verdict"]["state"] == "SUCCEEDED"
    assert [job["state"] for job in shown["jobs"]] == ["SUCCEEDED", "LOST", "SUCCEEDED"]
    assert "three took the place of two" in rl("job-show").stdout


def test_a_spare_takes_the_place_of_node_0(rl: Rl) -> None:
    """With it the place where the ranks meet, and who decides, are lost."""
    jobs, out = launch(rl, "--spare", "1", "--max-restarts", "1")

    def folder(node: int) -> Path:
        return rl.project.parent / "work" / ("one", "two", "three")[node] / ".jobs" / jobs[node]["job_id"]

    def knows_the_others() -> bool:
        return all("knows 2 doors" in (folder(node) / "supervisor.log").read_text() for node in (1, 2))

    until(knows_the_others, "they can call each other", 240)
    os.kill(json.loads((folder(0) / "started.json").read_text())["supervisor_pid"], signal.SIGKILL)
    rl("job-wait")
    assert {path.name for path in out.iterdir()} == {"0.0", "0.1", "1.0", "1.1"}
    shown = rl.json("job-show")["data"][0]
    assert shown["verdict"]["state"] == "SUCCEEDED"
    assert [job["state"] for job in shown["jobs"]] == ["LOST", "SUCCEEDED", "SUCCEEDED"]
    assert "three took the place of one" in rl("job-show").stdout
