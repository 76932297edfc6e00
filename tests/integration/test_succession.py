"""Node 0 is lost and replaced, as the laptop sees it: the installed ``rl`` on local servers, with a stand-in
for torch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from remote_launch.remote import procs
from tests.support.cli import Rl, rl_path
from tests.support.fake_torch import make_environment
from tests.support.served import until, words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# In attempt 0 it works until it is stopped; later until it is let go.
SCRIPT = """
import os, pathlib, time
attempt, node = os.environ["RL_ATTEMPT"], os.environ["RL_NODE_RANK"]
out = pathlib.Path(os.environ["OUT"])
print(f"attempt {attempt}: node {node}", flush=True)
(out / f"{attempt}.{node}").touch()
while not (out / f"go.{attempt}").exists():
    time.sleep(0.05)
"""
NAMES = ("zero", "one", "two", "three", "four")


def guardian_of(supervisor: int) -> list[int]:
    """Its parent, if that is a fork of the same program."""
    with open(f"/proc/{supervisor}/stat") as file:
        parent = int(file.read().rpartition(")")[2].split()[1])
    return [parent] if words_of(parent) == words_of(supervisor) else []


class Lab:
    """Local servers, and a launch over them."""

    def __init__(self, folder: Path) -> None:
        project = folder / "project"
        (project / ".remote").mkdir(parents=True)
        (project / "train.py").write_text(SCRIPT)
        self.folder, self.out = folder, folder / "out"
        self.out.mkdir()
        entry = {"connection": "local", "env": {"OUT": str(self.out)}}
        content = {
            "name": "project",
            "servers": {name: {**entry, "workdir": str(folder / "work" / name)} for name in NAMES},
            "environment": {"manager": "none", "python": str(make_environment(folder / "env"))},
            "on_finish": f'echo "$RL_STATE $RL_SERVER" >> {folder}/told',
        }
        (project / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        self.rl = Rl(project, {"RL_PROJECT": ""})
        self.jobs: list[dict[str, Any]] = []

    def launch(self, count: int, spares: int) -> None:
        servers = [word for name in NAMES[:count] for word in ("--server", name)]
        self.rl("rsync", *servers)
        options = ("--nproc-per-node", "1", "--spare", str(spares), "--max-restarts", "3", "--no-check")
        self.jobs = self.rl.json("torch-launch", *options, *servers, "train.py")["data"]["jobs"]
        doors = f"knows {count - 1} doors"
        until(lambda: all(doors in self.log(node) for node in range(1, count)), "all know all doors", 240)

    def job(self, node: int) -> Path:
        return self.folder / "work" / NAMES[node] / ".jobs" / self.jobs[node]["job_id"]

    def log(self, node: int) -> str:
        return (self.job(node) / "supervisor.log").read_text()

    def supervisor(self, node: int) -> int:
        return json.loads((self.job(node) / "started.json").read_text())["supervisor_pid"]

    def lives(self, node: int) -> bool:
        started = json.loads((self.job(node) / "started.json").read_text())
        return procs.is_alive(started["supervisor_pid"], started["supervisor_ticks"])

    def loses(self, node: int, *, guardian: bool = True) -> None:
        """kill -9 of a supervisor; with its guardian and all that ran there, as a machine without power."""
        pid = self.supervisor(node)
        if not guardian:
            self._kill([pid])
            return
        guardians = guardian_of(pid)
        assert guardians
        self._kill([*guardians, pid])
        until(lambda: not self._kill(procs.members(self.jobs[node]["job_id"])), "what ran there is gone")

    def begins(self, attempt: int) -> None:
        signs = [self.out / f"{attempt}.{node}" for node in (0, 1)]
        try:
            until(lambda: all(sign.exists() for sign in signs), "it begins", 240)
        except AssertionError as error:
            logs = "\n".join(self.log(node) for node in range(len(self.jobs)))
            raise AssertionError(f"{error}\n{logs}") from None

    def finish(self, attempt: int) -> dict[str, Any]:
        """Let the attempt end well; return what job-show has of the launch then."""
        (self.out / f"go.{attempt}").touch()
        self.rl("job-wait")
        return self.rl.json("job-show")["data"][0]

    def told(self) -> str:
        """What the notifications have said, once all supervisors are gone."""
        for node in range(len(self.jobs)):
            until(lambda node=node: not self.lives(node), "the supervisor is gone", 240)
        return (self.folder / "told").read_text()

    def end_all(self) -> None:
        """End what is left, also of a launch that failed halfway."""
        for job in (self.folder / "work").glob("*/.jobs/*"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                started = json.loads((job / "started.json").read_text())
                pid = started["supervisor_pid"]
                if procs.is_alive(pid, started["supervisor_ticks"]):
                    processes = procs.members(job.name, pid)
                    self._kill([*guardian_of(pid), pid, *processes])
            procs.signal_all(procs.members(job.name), signal.SIGKILL)

    def _kill(self, pids: Iterable[int]) -> bool:
        """Whether there were any. What was just forking leaves one more."""
        pids = list(pids)
        for one in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        return bool(pids)

    def processes(self) -> list[int]:
        return [pid for job in self.jobs for pid in procs.members(job["job_id"])]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.end_all()


@pytest.mark.parametrize("guardian", [True, False])
def test_a_launch_outlives_its_node_0(lab: Lab, guardian: bool) -> None:
    lab.launch(3, 1)
    lab.loses(0, guardian=guardian)
    lab.begins(1)
    rows = lab.rl.json("job-list", "--all", "--rsync")["data"]
    assert [row["state"] for row in sorted(rows, key=lambda row: row["node_rank"])] == [
        "LOST", "RUNNING", "RUNNING"
    ]
    shown = lab.rl("job-show").stdout
    assert shown.startswith("RUNNING")
    assert "two took the place of zero" in shown
    assert lab.rl("job-tail", "--no-follow").stdout == "attempt 1: node 0\n"
    verdict = lab.finish(1)
    assert verdict["verdict"]["state"] == "SUCCEEDED"
    assert [job["state"] for job in verdict["jobs"]] == ["LOST", "SUCCEEDED", "SUCCEEDED"]
    shown = lab.rl("job-show").stdout
    assert shown.startswith("SUCCEEDED\n")
    assert "two took the place of zero" in shown
    assert "0: ran" in shown
    assert "zero: node 0 (zero) was lost: its supervisor is gone, or the network to it" in shown
    assert "SUCCEEDED" in lab.rl("job-list", "--all").stdout
    assert lab.told() == "SUCCEEDED one\n"
    assert lab.processes() == []


def test_twice_in_a_row(lab: Lab) -> None:
    lab.launch(5, 3)
    lab.loses(0)
    lab.begins(1)
    lab.loses(1)
    lab.begins(2)
    verdict = lab.finish(2)
    assert verdict["verdict"]["state"] == "SUCCEEDED"
    states = [job["state"] for job in verdict["jobs"]]
    assert states == ["LOST", "LOST", "SUCCEEDED", "SUCCEEDED", "SUCCEEDED"]
    shown = lab.rl("job-show").stdout
    assert "two took the place of zero" in shown
    assert "three took the place of one" in shown
    assert lab.told() == "SUCCEEDED two\n"
    assert lab.processes() == []


def test_a_node_0_that_slept_finds_its_part_over(lab: Lab) -> None:
    lab.launch(3, 1)
    asleep = [lab.supervisor(0), *procs.members(lab.jobs[0]["job_id"])]
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    lab.begins(1)
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    until((lab.job(0) / "exit.json").exists, "it ends", 240)
    assert not procs.members(lab.jobs[0]["job_id"])
    assert len(lab.processes()) >= 2
    verdict = lab.finish(1)
    assert verdict["verdict"]["state"] == "SUCCEEDED"
    assert [job["state"] for job in verdict["jobs"]] == ["FAILED", "SUCCEEDED", "SUCCEEDED"]
    assert not list(lab.job(0).glob("job.1.out"))
    assert lab.told() == "SUCCEEDED one\n"


def test_who_follows_the_first_rank_goes_along(lab: Lab, tmp_path: Path) -> None:
    lab.launch(3, 1)
    lab.begins(0)
    shown, said = tmp_path / "shown", tmp_path / "said"
    with shown.open("w") as out, said.open("w") as err:
        tail = subprocess.Popen(
            [rl_path(), "job-tail"], cwd=lab.rl.project, env=lab.rl.env, stdout=out, stderr=err
        )
    try:
        until(lambda: shown.read_text() == "attempt 0: node 0\n", "the first rank's first line", 240)
        lab.loses(0)
        both = "attempt 0: node 0\nattempt 1: node 0\n"
        until(lambda: shown.read_text() == both, "the line of the spare in its place", 240)
        (lab.out / "go.1").touch()
        assert tail.wait(240) == 0, said.read_text()
    finally:
        tail.kill()
        tail.wait()
    assert shown.read_text() == both
    assert "SUCCEEDED" in said.read_text()
