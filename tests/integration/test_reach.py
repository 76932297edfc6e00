"""The ways between servers, over real sshd daemons on loopback: what is found, what is refused before a
launch, and that nothing stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from remote_launch.operations.fleet import Fleet
from remote_launch.operations.reach import check_pairs
from tests.support.cli import Rl, rl_path
from tests.support.processes import pids_of
from tests.support.sshd import SshdServer, sshd_servers, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOWHERE = "2001:db8::77"  # of a network that is for documentation


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SshdServer]]:
    with sshd_servers(tmp_path_factory.mktemp("sshd"), 3) as started:
        yield started


@pytest.fixture
def project(tmp_path: Path, servers: list[SshdServer]) -> Callable[..., Rl]:
    """Given changes of servers' entries by number, return a project whose servers seem to have torch."""

    def make(changes: dict[int, dict[str, object]] | None = None) -> Rl:
        root = tmp_path / "project"
        (root / ".remote").mkdir(parents=True)
        (root / "train.py").touch()
        entries = {}
        for number, server in enumerate(servers):
            workdir = tmp_path / "work" / server.name
            entries[server.name] = {
                "hostname": server.name, "ssh_config": str(server.ssh_config), "workdir": str(workdir),
                **(changes or {}).get(number, {}),
            }
            pretend_torch(workdir / ".rl/env", "2.5.1+cu121")
        content = {"name": "project", "servers": entries, "environment": {"manager": "venv"}}
        (root / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        rl = Rl(root)
        rl("rsync")
        return rl

    return make


def pretend_torch(prefix: Path, version: str) -> None:
    """Make an environment as far as a launch looks at it."""
    torch = prefix / "lib/python3.11/site-packages/torch"
    for folder in (torch, prefix / "bin"):
        folder.mkdir(parents=True, exist_ok=True)
    (prefix / "pyvenv.cfg").touch()
    (torch / "__init__.py").touch()
    (torch / "version.py").write_text(f"__version__ = {version!r}\n")
    if not (prefix / "bin/python").exists():
        os.symlink(sys.executable, prefix / "bin/python")


def test_open_ways_are_measured(project: Callable[..., Rl], servers: list[SshdServer]) -> None:
    rl = project()
    with Fleet.load(str(rl.project)) as fleet:
        addresses = {server.name: server.address for server in servers}
        findings = check_pairs(fleet, fleet.select(), addresses)
    assert [found.check for found in findings if found.check != "latency"] == ["reach", "bandwidth"]
    assert (findings[0].level, findings[0].detail) == ("ok", "6 ways tried")
    rates = findings[-1].data["bytes_per_s"]  # how good they are depends on what else this machine does
    assert len(rates) == 6
    assert min(rates.values()) > 0


def test_a_launch_is_refused_for_versions_that_differ(project: Callable[..., Rl]) -> None:
    rl = project()
    words = ("torch-launch", "--dry-run", "--nproc-per-node", "1")
    assert "torch.distributed.run" in rl(*words, "train.py").stdout
    pretend_torch(rl.project.parent / "work" / "server-2" / ".rl/env", "2.4.0+cu121")
    said = rl(*words, "train.py", code=1).stderr
    assert "nothing was started: torch differs: 2.5.1 on server-1, server-3; 2.4.0 on server-2" in said
    assert "--no-check" in said
    assert "torch.distributed.run" in rl(*words, "--no-check", "train.py").stdout


def test_an_address_of_no_network_of_theirs_is_refused_and_nothing_stays(
    project: Callable[..., Rl], tmp_path: Path
) -> None:
    rl = project({0: {"address": NOWHERE}})
    argv = [rl_path(), "torch-launch", "--nproc-per-node", "1", "train.py"]
    with subprocess.Popen(argv, cwd=rl.project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as launch:
        wait_for(lambda: trying(tmp_path), 60, "a server to try")
        launch.send_signal(signal.SIGKILL)
    wait_for(lambda: not trying(tmp_path), 60, "them to end with the connection")
    done = subprocess.run(argv, cwd=rl.project, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert f"server-2, server-3 can't reach server-1 at [{NOWHERE}]:" in done.stderr
    assert "address:" in done.stderr
    assert "no jobs" in rl("job-list", "--all").stderr + rl("job-list", "--all").stdout


def test_a_way_that_was_open_at_the_last_launch_and_is_not_now_is_refused(project: Callable[..., Rl]) -> None:
    rl = project()
    words = ("torch-launch", "--nproc-per-node", "1", "train.py")  # the torch is none: it fails at once
    for _ in range(2):
        rl(*words)
        rl("job-wait", code=1)
    before = json.loads(rl("job-list", "--all", "--json").stdout)["data"]
    assert [job["server"] for job in before] == ["server-1", "server-2", "server-3"] * 2
    file = rl.project / ".remote" / "configs.yaml"
    content = yaml.safe_load(file.read_text())
    content["servers"]["server-2"]["address"] = NOWHERE
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    assert f"can't reach server-2 at [{NOWHERE}]" in rl(*words, code=1).stderr
    assert len(json.loads(rl("job-list", "--all", "--json").stdout)["data"]) == len(before)


def trying(folder: Path) -> list[str]:
    """The commands under way that try the ways, of servers whose workdirs are in the folder."""
    return pids_of(folder, "reach", "-I")
