"""The list of jobs as an index: lost, damaged, begun anew on another laptop, written by many at once; and the
removal of jobs from it. All with the installed ``rl``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import resource
import shutil
import socket
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.jobs import JobRecord, JobState, now
from remote_launch.core.registry import Registry
from tests.support.cli import Rl, rl_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "hf_secretsecret"


class Lab:
    """A project with the local servers a and b, and as many laptops as are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "home").mkdir()
        self.servers = {name: {"connection": "local", "workdir": str(folder / name)} for name in "ab"}
        self.rl = self.laptop("project")
        self.rl("rsync")

    def laptop(self, name: str, **more: Any) -> Rl:
        remote = self.folder / name / ".remote"
        remote.mkdir(parents=True, exist_ok=True)
        servers = {**self.servers, **more}
        content = {"name": "p", "servers": servers, "environment": {"manager": "none"}}
        (remote / "configs.yaml").write_text(json.dumps(content))
        return Rl(self.folder / name, {"HOME": str(self.folder / "home"), "RL_PROJECT": ""})

    @property
    def registry(self) -> Registry:
        return Registry(self.path)

    @property
    def path(self) -> Path:
        return self.folder / "project" / ".remote" / "jobs.sqlite3"

    def run(self, *command: str, server: str = "a", words: tuple[str, ...] = ()) -> str:
        """Run a job to its end; return its id."""
        job_id = self.start(*command, server=server, words=words)
        self.rl("job-wait", job_id, code=None)
        return job_id

    def start(self, *command: str, server: str = "a", words: tuple[str, ...] = ()) -> str:
        self.rl("job-run", "--server", server, *words, "--", *command)
        return self.registry.newest(1)[0].job_id

    def on_servers(self) -> set[str]:
        return {path.name for name in "ab" for path in (self.folder / name).glob(".jobs/*")}

    def here(self) -> set[str]:
        return {path.name for path in (self.folder / "project" / ".remote" / "jobs").glob("*")}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.rl("job-kill", "--yes", "--grace", "0.2", code=None)


def listed(rl: Rl, *words: str, code: int = 0) -> list[dict[str, Any]]:
    data = rl.json("job-list", "--all", *words, code=code)["data"]
    assert isinstance(data, list)
    return data


def without_what_may_differ(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**job, "seen_at": None, "key": None, "duration_s": None} for job in jobs]


class TestRebuilt:
    def test_the_index_comes_back_from_the_servers_and_on_another_laptop(self, lab: Lab) -> None:
        env = ("--env", "LR=0.1", "--env", f"HF_TOKEN={TOKEN}", "--tag", "one", "--tag", "two")
        lab.run("sh", "-c", "exit 37", server="b", words=env)
        lab.run("true", words=("--tag", "one"))
        lab.start("sleep", "600", server="b", words=("--tag", "three"))
        before = listed(lab.rl, "--rsync")
        assert [job["state"] for job in before] == ["FAILED", "SUCCEEDED", "RUNNING"]
        assert before[0]["env"].keys() == {"LR", "HF_TOKEN"}
        lab.path.unlink()
        assert "none are known here; rl job-list --rsync" in lab.rl("job-list").stdout
        after = listed(lab.rl, "--rsync")
        assert without_what_may_differ(after) == without_what_may_differ(before)
        assert [job["key"] for job in after] == [1, 2, 3]
        other = listed(lab.laptop("laptop"), "--rsync")
        assert without_what_may_differ(other) == without_what_may_differ(before)
        assert TOKEN not in json.dumps(other)

    def test_a_damaged_file_is_set_aside_and_the_servers_are_asked(self, lab: Lab) -> None:
        job_id = lab.run("true")
        lab.path.write_bytes(lab.path.read_bytes()[:5000])
        done = lab.rl("job-list", "--all", "--json")
        assert [job["job_id"] for job in json.loads(done.stdout)["data"]] == [job_id]
        assert done.stderr.count("was damaged and is set aside as jobs.sqlite3.corrupt-") == 1
        assert "damaged" not in lab.rl("job-list").stderr
        lab.path.write_bytes(b"rubbish" * 1000)
        said = lab.rl("job-show", job_id, code=2)
        assert "set aside" in said.stderr
        assert "rl job-list --rsync" in said.stderr

    def test_a_damaged_row_and_damaged_folders_are_told_once_and_skipped(self, lab: Lab) -> None:
        first, second, third = lab.run("true"), lab.run("true"), lab.run("true")
        with contextlib.closing(sqlite3.connect(lab.path)) as connection, connection:
            connection.execute("UPDATE jobs SET record = '{' WHERE job_id = ?", (first,))
        done = lab.rl("job-list", "--all")
        assert done.stdout.count("true") == 4  # two names, two commands
        assert done.stderr.count("job 1 in jobs.sqlite3 can't be read") == 1
        jobs = lab.folder / "a" / ".jobs"
        (jobs / "what is this").mkdir()
        (jobs / second / "exit.json").write_text("{")
        unknown = jobs / ("c" * 32)
        shutil.copytree(jobs / third, unknown)
        (unknown / "exit.json").write_text("[]")
        told = lab.rl("job-list", "--all", "--rsync").stderr
        assert told.count("what is this: not a job id") == 1
        assert told.count(f"{'c' * 32}: exit.json: not a JSON object") == 1
        assert [job["job_id"] for job in listed(lab.rl)] == [first, second, third]
        assert "can't be read" not in lab.rl("job-list", "--all").stderr

    def test_jobs_of_a_server_that_left_the_inventory_say_so(self, lab: Lab) -> None:
        lab.start("sleep", "600", server="b")
        entry = lab.servers.pop("b")
        lab.laptop("project")
        assert "RUNNING (server no longer in the inventory)" in lab.rl("job-list", "--rsync").stdout
        kept = lab.rl("job-rm", "1", "--yes", code=1)
        assert "--forget" in kept.stdout
        lab.rl("job-rm", "1", "--yes", "--forget")
        assert listed(lab.rl) == []
        lab.servers["b"] = entry
        lab.laptop("project")
        assert [job["state"] for job in listed(lab.rl, "--rsync")] == ["RUNNING"]


def test_many_rl_at_once_give_no_key_twice_and_lose_no_job(lab: Lab) -> None:
    processes = [
        subprocess.Popen(
            [rl_path(), "job-run", "--server", "ab"[number % 2], "--", "true"],
            cwd=lab.rl.project, env=lab.rl.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(10)
    ]  # fmt: skip
    told = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, told
    assert sorted(int(out.split()[1]) for out, _ in told) == list(range(1, 11))
    assert {job.job_id for job in lab.registry.all()} == lab.on_servers()


class TestRemoved:
    def test_everywhere_but_not_what_runs(self, lab: Lab) -> None:
        gone = {lab.run("echo", "x", words=("--tag", "t")), lab.run("true", server="b", words=("--tag", "t"))}
        runs = lab.start("sleep", "600", words=("--tag", "t"))
        other = lab.run("true")
        lab.rl("job-rsync")
        assert lab.here() >= gone
        refused = lab.rl("job-rm", "--tag", "t", code=2)
        assert "--yes" in refused.stderr
        looked = lab.rl.json("job-rm", "--tag", "t", "--dry-run", code=3)["data"]
        outcomes = {job["job_id"]: job["outcome"] for job in looked}
        assert outcomes == {**dict.fromkeys(gone, "there"), runs: "running"}
        assert all(job["remote_bytes"] > 0 for job in looked if job["job_id"] in gone)
        assert lab.on_servers() == gone | {runs, other}
        done = lab.rl("job-rm", "--tag", "t", "--yes", code=3)
        assert "removed 2 jobs" in done.stdout
        assert "stays" in done.stdout
        assert lab.on_servers() == {runs, other}
        assert not lab.here() & gone
        assert {job["job_id"] for job in listed(lab.rl, "--rsync")} == {runs, other}

    def test_not_where_the_server_cannot_be_asked(self, lab: Lab) -> None:
        job_id, other = lab.run("true"), lab.run("true", server="b")
        lab.rl("job-rsync")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # and never listened on
            hostname = {"hostname": "127.0.0.1", "port": taken.getsockname()[1], "connect_timeout_s": 2}
            workdir = lab.servers["a"]["workdir"]
            lab.laptop("project", a={**hostname, "workdir": workdir})
            done = lab.rl("job-rm", "1", "2", "--yes", code=3)
        assert "stays, here too: its server can't be reached" in done.stdout
        assert lab.here() == {job_id}
        assert [job["job_id"] for job in listed(lab.rl)] == [job_id]
        assert other not in lab.on_servers()

    def test_nothing_comes_back_that_was_removed_half_way(self, lab: Lab) -> None:
        job_id = lab.run("true")
        jobs = lab.folder / "a" / ".jobs"
        (jobs / job_id).rename(jobs / f".trash-{job_id}-00000000")
        lab.rl("job-rm", "1", "--yes")
        assert listed(lab.rl, "--rsync") == []
        assert list(jobs.iterdir()) == []
        assert "can't" not in lab.rl("job-list", "--rsync").stderr

    def test_old_ones(self, lab: Lab) -> None:
        ids = [lab.run("sh", "-c", f"exit {number}") for number in (0, 1, 0, 1)]
        running = lab.start("sleep", "600")
        days = (40, 35, 31, 1)
        for job_id, age in zip(ids, days, strict=True):
            job = lab.registry.get(job_id)
            lab.registry.update([dataclasses.replace(job, ended_at=now() - age * 86_400)])
        lab.rl("job-prune", code=2)
        lab.rl("job-prune", "--older", "30", "--yes", code=2)
        looked = lab.rl.json("job-prune", "--older", "30d", "--dry-run")["data"]
        assert [job["job_id"] for job in looked] == ids[:3]
        lab.rl("job-prune", "--older", "30d", "--state", "failed", "--yes")
        assert lab.on_servers() == {ids[0], *ids[2:], running}
        lab.rl("job-prune", "--older", "12h", "--keep", "2", "--yes")
        assert lab.on_servers() == {*ids[2:], running}
        lab.rl("job-prune", "--older", "30d", "--keep", "1", "--yes")
        assert lab.on_servers() == {ids[3], running}
        lab.rl("job-prune", "--keep", "0", "--yes")
        assert lab.on_servers() == {running}
        assert "nothing to remove" in lab.rl("job-prune", "--keep", "0", "--yes").stderr


def test_ten_thousand_jobs_are_listed_at_once(lab: Lab) -> None:
    """Measured by hand: 0.13 s of CPU, of which rl's own start is half. Here only what would be many times
    that, in CPU time: other programs don't count. A virtual machine that is paused counts, so the best of
    three."""
    lab.registry.add(
        JobRecord(
            job_id=f"{number:032x}", server="a", command="train.py", created_at=1.0, state=JobState.SUCCEEDED
        )
        for number in range(10_000)
    )

    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def listing_s() -> float:
        before = cpu_s()
        assert lab.rl("job-list").stdout.startswith("no running jobs")
        return cpu_s() - before

    took_s = [listing_s() for _ in range(3)]
    assert min(took_s) < 1.0, took_s
    assert [job["key"] for job in listed(lab.rl, "--last", "2")] == [9_999, 10_000]
    assert "job 10000" in lab.rl("job-show", "10000").stdout
