"""A prepare that is stopped; rl env and rl clean on hosts that share a home."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Rl, rl_path
from tests.support.sshd import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.docker_hosts import DockerHost

# A package whose build hangs, with a child in a session of its own.
SETUP = """
import os, subprocess, time
subprocess.Popen(["sleep", "601"], start_new_session=True)
print("building slowly", flush=True)
time.sleep(600)
"""


def processes(host: DockerHost) -> list[str]:
    """What runs of a prepare on a host."""
    shown = host.exec("ps -u trainer -o pid=,args= || true")
    words = ("pip", "setup.py", "sleep 601", ".rl/bin")
    return [line for line in shown.splitlines() if any(word in line for word in words)]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=lambda stop: stop.name)
def test_a_stopped_prepare_leaves_nothing_running_and_the_next_waits_for_nobody(
    tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory, stop: signal.Signals
) -> None:
    environment = {"manager": "venv", "pip_args": ["--no-build-isolation"]}
    inventory(tmp_path, hosts[:1], name=f"stopped-{stop.name}", environment=environment)
    (tmp_path / "slowpkg").mkdir()
    (tmp_path / "slowpkg" / "setup.py").write_text(SETUP)
    (tmp_path / "requirements.txt").write_text("./slowpkg\n")
    process = subprocess.Popen(
        [rl_path(), "prepare"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: any("sleep 601" in line for line in processes(hosts[0])), 240, "the package's build")
        process.send_signal(stop)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert stop is signal.SIGKILL or "the next rl prepare goes on from there" in said
    wait_for(lambda: not processes(hosts[0]), 120, "the end of the remote commands")
    (tmp_path / "requirements.txt").write_text("# none\n")
    again = Rl(tmp_path)("prepare")
    assert "waiting" not in again.stderr
    assert "create environment" not in again.stderr  # that was done before


def test_hosts_that_share_a_home_are_shown_and_cleaned_as_one(
    tmp_path: Path, shared_home_hosts: list[DockerHost], inventory: WriteInventory
) -> None:
    inventory(tmp_path, shared_home_hosts, name="shared-clean", environment={"manager": "venv"})
    (tmp_path / "train.py").write_text("print('hello')\n")
    rl = Rl(tmp_path)
    rl("prepare")
    first, second = (item["shared_with"] for item in rl.json("env")["data"])
    assert [first, second] == [[shared_home_hosts[1].name], [shared_home_hosts[0].name]]
    rl("job-run", "--server", shared_home_hosts[0].name, "--", "sleep", "600")
    kept = rl.json("clean", "--environment", "--yes", code=1)
    assert len(kept["errors"]) == 2  # the job is the first's, the environment both's
    rl("job-kill", "--yes", "--grace", "1")
    removed = rl.json("clean", "--all", "--yes")["data"]
    assert sum(item["amounts"]["environment"]["files"] > 0 for item in removed) == 1
    assert sum(item["amounts"]["jobs"]["files"] > 0 for item in removed) == 1
    left = shared_home_hosts[0].exec("ls -d /home/trainer/shared-clean || true", user="trainer")
    assert not left.strip()
