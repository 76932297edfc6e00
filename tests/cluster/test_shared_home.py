"""Jobs of two machines that share a home folder keep apart: containers on one kernel, with one boot id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl
from tests.support.served import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.docker_hosts import DockerHost


@pytest.fixture
def rl(tmp_path: Path, shared_home_hosts: list[DockerHost], inventory: WriteInventory) -> Iterator[Rl]:
    """A project whose code both hosts see, with one job on each that runs."""
    project = inventory(tmp_path / "project", shared_home_hosts, environment={"manager": "none"})
    (project / "train.py").write_text("import time; print('on', flush=True); time.sleep(600)\n")
    rl = Rl(project)
    first, second = (host.name for host in shared_home_hosts)
    rl("rsync", "--server", first)
    for name in (first, second):
        rl("job-run", "--server", name, "--", "python3", "train.py")
    for host in shared_home_hosts:  # a job that was just started may not be its program yet
        until(lambda host=host: host.processes("train.py"), f"the job on {host.name}")
    yield rl
    shared_home_hosts[0].exec("rm -rf /home/trainer/project")


def listed(rl: Rl) -> list[tuple[str, str]]:
    jobs: list[dict[str, Any]] = rl.json("job-list", "--all", "--rsync")["data"]
    return sorted((job["server"], job["state"]) for job in jobs)


def forget_jobs(rl: Rl) -> None:
    for path in (rl.project / ".remote").glob("jobs.sqlite3*"):
        path.unlink()


def test_each_job_is_listed_once_and_killed_on_its_own(rl: Rl, shared_home_hosts: list[DockerHost]) -> None:
    first, second = shared_home_hosts
    both = [("shared-0", "RUNNING"), ("shared-1", "RUNNING")]
    assert listed(rl) == both
    forget_jobs(rl)
    assert listed(rl) == both
    [killed] = rl.json("job-kill", "--server", "shared-1", "--yes", "--grace", "5")["data"]
    assert (killed["job"]["server"], killed["outcome"]) == ("shared-1", "killed")
    assert listed(rl) == [("shared-0", "RUNNING"), ("shared-1", "KILLED")]
    assert first.processes("train.py")
    assert not second.processes("train.py")


def test_a_host_that_was_off_loses_its_own_alone(rl: Rl, shared_home_hosts: list[DockerHost]) -> None:
    second = shared_home_hosts[1]
    second.kill()
    second.start()
    assert listed(rl) == [("shared-0", "RUNNING"), ("shared-1", "LOST")]


def test_another_machine_behind_a_servers_name_says_whose_the_job_is(
    rl: Rl, shared_home_hosts: list[DockerHost], inventory: WriteInventory
) -> None:
    first, second = shared_home_hosts
    moved = {"shared-1": {"hostname": first.address}}
    inventory(rl.project, shared_home_hosts, environment={"manager": "none"}, servers=moved)
    asked = rl("job-list", "--all", "--rsync")
    assert "it was started on machine shared-1 (server shared-1), this is shared-0" in asked.stderr
    assert listed(rl) == [("shared-0", "RUNNING"), ("shared-1", "RUNNING")]
    refused = rl("job-kill", "--server", "shared-1", "--yes", "--grace", "1", code=None)
    assert refused.returncode != 0
    assert "started on machine shared-1" in refused.stdout + refused.stderr
    assert first.processes("train.py")
    assert second.processes("train.py")
    # The names stand as they were again: nothing was lost.
    inventory(rl.project, shared_home_hosts, environment={"manager": "none"})
    assert listed(rl) == [("shared-0", "RUNNING"), ("shared-1", "RUNNING")]
