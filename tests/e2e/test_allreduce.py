"""The all-reduce of rl doctor by the real torch, over two local servers: it works, and nothing of it stays
when rl is killed."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.cli import Rl, rl_path
from tests.support.processes import pids_of
from tests.support.sshd import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not installed in this interpreter"
    ),
]
ONLY = ("--only", "allreduce")


@pytest.fixture
def rl(tmp_path: Path) -> Rl:
    """A project on two local servers; nothing needs to be sent."""
    (tmp_path / "project" / ".remote").mkdir(parents=True)
    return project(tmp_path)


def project(folder: Path, **env: str) -> Rl:
    """Write the project's inventory, with variables for the second server."""
    servers: dict[str, dict[str, Any]] = {
        name: {"connection": "local", "workdir": str(folder / "work" / name)} for name in ("one", "two")
    }
    servers["two"]["env"] = env
    environment = {"manager": "none", "python": sys.executable}
    content = {"name": "project", "servers": servers, "environment": environment}
    (folder / "project" / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return Rl(folder / "project")


def ranks(folder: Path) -> list[str]:
    """The all-reduce's processes under way, of servers whose workdirs are in the folder."""
    return pids_of(folder, "allreduce")


def test_it_adds_up(rl: Rl) -> None:
    (found,) = finding(rl)
    assert (found["level"], found["servers"]) == ("ok", ["one", "two"]), found
    assert found["data"]["backend"] == "gloo"
    assert found["data"]["bytes_per_s"] > 1000


def finding(rl: Rl) -> list[dict[str, Any]]:
    return list(rl.json("doctor", *ONLY)["data"]["findings"])


def test_nothing_of_it_stays_when_rl_is_killed(rl: Rl) -> None:
    folder = rl.project.parent
    # The second rank comes no further than to torch, and the first, whose torch is real, waits for it.
    (folder / "slow").mkdir()
    (folder / "slow" / "torch.py").write_text("import time\ntime.sleep(600)\n")
    project(folder, PYTHONPATH=str(folder / "slow"))
    with subprocess.Popen(
        [rl_path(), "doctor", *ONLY], cwd=rl.project, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as doctor:
        wait_for(lambda: len(ranks(folder)) >= 2, 120, "the ranks to start")
        doctor.send_signal(signal.SIGKILL)
    wait_for(lambda: not ranks(folder), 120, "them to end with rl")
