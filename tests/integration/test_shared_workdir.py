"""Two servers that are this machine and have one workdir: their jobs keep apart by the servers' names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INVENTORY = """\
name: proj
servers:
  a: {{connection: local, workdir: "{workdir}"}}
  b: {{connection: local, workdir: "{workdir}"}}
environment: {{manager: none}}
"""


@pytest.fixture
def rl(tmp_path: Path) -> Iterator[Rl]:
    (tmp_path / "project").mkdir()
    (tmp_path / "home").mkdir()
    rl = Rl(tmp_path / "project", {"HOME": str(tmp_path / "home"), "RL_PROJECT": ""})
    (tmp_path / "project/train.py").write_text("import time; print('on', flush=True); time.sleep(600)\n")
    rl("init", "--local", "1", "--name", "proj", "--manager", "none")
    inventory = INVENTORY.format(workdir=tmp_path / "server")
    (tmp_path / "project/.remote/configs.yaml").write_text(inventory)
    rl("rsync")  # one after the other
    yield rl
    rl("job-kill", "--yes", "--grace", "0.2", code=None)


def listed(rl: Rl) -> list[tuple[str, str]]:
    jobs: list[dict[str, Any]] = rl.json("job-list", "--all", "--rsync")["data"]
    return sorted((job["server"], job["state"]) for job in jobs)


def test_jobs_keep_apart(rl: Rl, tmp_path: Path) -> None:
    for name in "ab":
        rl("job-run", "--server", name, "--", "python3", "train.py")
    assert listed(rl) == [("a", "RUNNING"), ("b", "RUNNING")]
    # The registry is rebuilt from the folder that both servers see.
    for path in (tmp_path / "project/.remote").glob("jobs.sqlite3*"):
        path.unlink()
    assert listed(rl) == [("a", "RUNNING"), ("b", "RUNNING")]
    [killed] = rl.json("job-kill", "--server", "b", "--yes", "--grace", "5")["data"]
    assert (killed["job"]["server"], killed["outcome"]) == ("b", "killed")
    assert listed(rl) == [("a", "RUNNING"), ("b", "KILLED")]


def test_a_server_that_left_the_inventory_leaves_its_jobs_to_the_other(rl: Rl, tmp_path: Path) -> None:
    rl("job-run", "--server", "b", "--", "python3", "train.py")
    config = tmp_path / "project/.remote/configs.yaml"
    config.write_text(config.read_text().replace("  b:", "  c:"))
    for path in (tmp_path / "project/.remote").glob("jobs.sqlite3*"):
        path.unlink()
    assert listed(rl) == [("a", "RUNNING")]
    [killed] = rl.json("job-kill", "--server", "a", "--yes", "--grace", "5")["data"]
    assert killed["outcome"] == "killed"
