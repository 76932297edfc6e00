"""rl, its ssh or the network dies at any instant of a start: each job is either not started, or recorded and
run once.

RL_TEST_CHAOS=50 tries that many instants; RL_TEST_CHAOS_SEED=n tries others."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.cli import Rl, rl_path
from tests.support.processes import marked
from tests.support.served import is_over
from tests.support.sshd import SshdServer, sshd_servers, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INSTANTS = int(os.environ.get("RL_TEST_CHAOS", "12"))
SEED = int(os.environ.get("RL_TEST_CHAOS_SEED", "1"))
# What torchrun's verb imports of torch: its "training" counts its runs, by job.
TORCH = {
    "__init__.py": "",
    "distributed/__init__.py": "",
    "distributed/run.py": """\
import os

def main(argv):
    with open(os.path.join(argv[-1], os.environ["RL_JOB_ID"]), "a") as file:
        file.write("ran\\n")
""",
    "distributed/elastic/__init__.py": "",
    "distributed/elastic/multiprocessing/__init__.py": "",
    "distributed/elastic/multiprocessing/errors.py": "class ChildFailedError(Exception): failures = {}\n",
}


class Lab:
    """Two servers, a project, a stand-in for torch, and a folder in which each job counts its runs."""

    def __init__(self, folder: Path, servers: list[SshdServer]) -> None:
        self.servers = servers  # none: both servers are this machine, without ssh
        names = [server.name for server in servers] or ["a", "b"]
        self.counts = folder / "counts"
        self.counts.mkdir()
        self.workdirs = {name: folder / "work" / name for name in names}
        project = folder / "project"
        (project / ".remote").mkdir(parents=True)
        (project / "train.py").write_text("")
        python = self._python(folder / "env")
        entries: dict[str, dict[str, Any]] = {
            name: {"connection": "local", "workdir": str(path)} for name, path in self.workdirs.items()
        }
        for server in servers:
            entries[server.name] = {
                "hostname": server.name, "ssh_config": str(server.ssh_config), "connect_timeout_s": 30,
                "workdir": str(self.workdirs[server.name]), "address": server.address,
            }  # fmt: skip
        environment = {"manager": "none", "python": str(python)}
        content = {"name": "project", "servers": entries, "environment": environment}
        (project / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        self.mark = f"RL_TEST_MARK={folder}"
        self.rl = Rl(project, dict([self.mark.split("=")]))

    def _python(self, prefix: Path) -> Path:
        site = prefix / "lib" / "python3" / "site-packages"
        for name, text in TORCH.items():
            (site / "torch" / name).parent.mkdir(parents=True, exist_ok=True)
            (site / "torch" / name).write_text(text)
        python = prefix / "bin" / "python3"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        return python

    def words(self, kind: str) -> list[str]:
        if kind == "launch":
            return ["torch-launch", "--nproc-per-node", "1", "train.py", str(self.counts)]
        server = list(self.workdirs)[0 if kind == "job-a" else 1]
        return ["job-run", "--server", server, "--", "sh", "-c", f'echo ran >> "{self.counts}/$RL_JOB_ID"']

    def begin(self, kind: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [rl_path(), *self.words(kind)], cwd=self.rl.project, env=self.rl.env, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def runs(self) -> dict[str, int]:
        """Return how often each job ran."""
        return {path.name: len(path.read_text().splitlines()) for path in self.counts.iterdir()}

    def folders(self) -> dict[str, str]:
        """Return the jobs that the servers have, with their servers."""
        return {
            path.name: name for name, workdir in self.workdirs.items() for path in workdir.glob(".jobs/*")
        }

    def jobs(self) -> list[dict[str, Any]]:
        data = self.rl.json("job-list", "--rsync", "--all")["data"]
        assert isinstance(data, list)
        return data


@pytest.fixture(params=["ssh", "local"])
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        servers = []
        if request.param == "ssh":
            servers = stack.enter_context(sshd_servers(tmp_path / "sshd", 2))
        made = Lab(tmp_path, servers)
        made.rl("rsync")
        yield made
        made.rl("job-kill", "--yes", "--grace", "0.2", code=None)


def strike(lab: Lab, how: str, process: subprocess.Popen[bytes]) -> None:
    """Let something die, in the middle of whatever it is at."""
    if how == "network":
        for server in lab.servers:
            server.kill()
        for server in lab.servers:
            server.start()
        process.wait(240)  # rl itself asks again, or says that it doesn't know
        return
    with contextlib.suppress(ProcessLookupError):
        if how == "rl and its ssh":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGKILL)
    process.wait(60)


def test_a_start_that_is_broken_off_anywhere_starts_once_or_not_at_all(lab: Lab) -> None:
    chance = random.Random(SEED)
    longest = {}
    for kind in ("launch", "job-a"):
        began = time.monotonic()
        assert lab.begin(kind).wait(240) == 0
        longest[kind] = longest["job-b"] = time.monotonic() - began
    tried: collections.Counter[str] = collections.Counter()
    for number in range(INSTANTS):
        kind = ("launch", "job-a", "launch", "job-b")[number % 4]
        how = chance.choices(("rl", "rl and its ssh", "network"), (5, 4, 1 if lab.servers else 0))[0]
        process = lab.begin(kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.1, longest[kind] * 1.1))
        strike(lab, how, process)
        tried[how] += 1
    for server in lab.servers:
        server.restart()  # what is still on its way to a start ends with it
    wait_for(lambda: settled(lab), 180, "the broken off starts to come to something")
    jobs = {job["job_id"]: job for job in lab.jobs()}
    runs, folders = lab.runs(), lab.folders()
    outcomes = collections.Counter(
        f"{job['state']}, {'ran' if job['job_id'] in runs else 'not started'}" for job in jobs.values()
    )
    print(f"\n{INSTANTS} instants {dict(tried)}, seed {SEED}: {len(jobs)} jobs: {dict(outcomes)}")
    assert runs.keys() <= jobs.keys(), "a job ran that is not in the list"
    assert folders.keys() <= jobs.keys(), "a server has a job that is not in the list"
    assert {job_id: count for job_id, count in runs.items() if count != 1} == {}, "a job ran more than once"
    for job_id, job in jobs.items():
        if job["state"] == "SUCCEEDED":
            assert job_id in runs, job
        if job_id not in folders:
            assert job["state"] in ("CREATED", "FAILED"), job
            assert job_id not in runs, job
        assert job["state"] != "LOST", job
    assert len({job["key"] for job in jobs.values()}) == len(jobs)
    (lab.rl.project / ".remote" / "jobs.sqlite3").unlink()  # what the servers have is enough
    again = lab.jobs()
    assert {job["job_id"] for job in again} == folders.keys()
    launches = [job["launch_id"] or job["job_id"] for job in sorted(again, key=lambda job: job["key"])]
    assert len(list(itertools.groupby(launches))) == len(set(launches)), "the nodes of a launch are scattered"
    for job in again:
        names = ("launch_id", "node_rank", "tags", "command", "exit_code", "attempt", "created_at")
        assert [job[name] for name in names] == [jobs[job["job_id"]][name] for name in names]


def settled(lab: Lab) -> bool:
    """True when no start is under way on the servers any more, and what was started has run and ended."""
    if not lab.servers and marked(lab.mark):
        return False
    return all(is_over(lab.workdirs[server] / ".jobs" / job_id) for job_id, server in lab.folders().items())
