"""A snapshot that an earlier run has left on one node alone: a launch says so, and both ways out work."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from tests.support.training import make_project

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cli import Rl
    from tests.support.docker_hosts import DockerHost

WORK = "/home/trainer/train-uv"
# As many a tutorial has it: every rank looks for a file of its own, rank 0 alone writes one.
SCRIPT = """
import os, pathlib
snapshot = pathlib.Path("snapshots/last.pt")
epoch = int(snapshot.read_text()) if snapshot.exists() else 0
print("begins at epoch", epoch, flush=True)
if os.environ["RANK"] == "0":
    snapshot.parent.mkdir(exist_ok=True)
    (snapshot.parent / "last.tmp").write_text(f"{epoch + 1}\\n")
    (snapshot.parent / "last.tmp").rename(snapshot)
"""


def test_a_snapshot_on_one_node_alone(tmp_path: Path, hosts: list[DockerHost]) -> None:
    rl = make_project(tmp_path / "project", hosts, outputs=["snapshots/"])
    (rl.project / "from_snapshot.py").write_text(textwrap.dedent(SCRIPT))
    rl("rsync")
    first, second = hosts
    for host in hosts:
        host.exec(f"rm -rf {WORK}/snapshots", user=host.username)
    first.exec(f"cd {WORK} && mkdir snapshots && echo 3 > snapshots/last.pt", user=first.username)
    launch = ("torch-launch", "--nproc-per-node", "1", "from_snapshot.py")

    noticed = rl("torch-launch", "--dry-run", *launch[1:]).stderr
    assert "snapshots/last.pt is on host-0 alone" in noticed
    assert "rl push-outputs host-0" in noticed

    rl("push-outputs")
    assert "outputs differ" not in rl("torch-launch", "--dry-run", *launch[1:]).stderr
    assert begins(rl, *launch) == ["3", "3"]
    assert second.exec(f"cat {WORK}/snapshots/last.pt", user=second.username) == "3"

    again = rl("torch-launch", "--clean-outputs", *launch[1:])
    assert "removing outputs (snapshots/): 1 file (2 B) on host-0, 1 file (2 B) on host-1" in again.stderr
    assert begins(rl) == ["0", "0"]
    rl("pull", "snapshots", code=3)
    assert (rl.project / ".remote/outputs/host-0/snapshots/last.pt").read_text() == "1\n"


def begins(rl: Rl, *launch: str) -> list[str]:
    """Launch (or take the last launch); return the epoch that each rank began at."""
    if launch:
        rl(*launch)
    rl("job-wait")
    shown = rl("job-tail", "--all-ranks", "--no-follow", "--lines", "-1").stdout
    return [line.split()[-1] for line in shown.splitlines() if "begins at epoch" in line]
