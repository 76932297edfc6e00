"""Logs end to end over real sshd daemons and real rsync: tailed by what a user asks for, brought by
appending; and servers that want more than to be read."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from remote_launch.operations import log_sync
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.refresh import refresh
from tests.support.cli import Rl, rl_path
from tests.support.sshd import SshdServer, sshd_servers, wait_for
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What torchrun leaves: a folder a rank.
RANKS = """
import os, pathlib, sys, time
job = pathlib.Path(os.environ["RL_JOB_DIR"])
for rank in (0, 1):
    logs = job / "ranks" / "run_x" / "attempt_0" / str(rank)
    logs.mkdir(parents=True)
    (logs / "stdout.log").write_text("".join(f"rank {rank} step {n}\\n" for n in range(50)))
    (logs / "stderr.log").write_text(f"rank {rank} warns\\n")
"""
# rsync as a hostile server has it: REAL is the program, EVIL the folder that it serves instead.
EVIL_RSYNC = """#!/bin/sh
real={real}
case "$*" in
  *--sender*) cd {evil} && exec $real $(echo "$@" | sed {edit}) ;;
  *) exec $real "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdServer]:
    folder = tmp_path_factory.mktemp("sshd")
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    with sshd_servers(folder, 1, sshd_options=[f'SetEnv PATH="{path}"']) as [started]:
        yield started


@pytest.fixture
def bin_dir(server: SshdServer) -> Iterator[Path]:
    """The first folder of the server's PATH."""
    folder = server.folder.parent / "bin"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def rl(tmp_path: Path, server: SshdServer) -> Rl:
    project = tmp_path / "project"
    (project / ".remote").mkdir(parents=True)
    (project / "ranks.py").write_text(RANKS)
    entry = {
        "hostname": server.name, "ssh_config": str(server.ssh_config), "workdir": str(tmp_path / "work"),
        "connect_timeout_s": 30,
    }  # fmt: skip
    content = {"name": "project", "servers": {"gpu": entry}, "environment": {"manager": "none"}}
    (project / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    rl = Rl(project)
    rl("rsync")
    return rl


def run(rl: Rl, *words: str) -> Path:
    """Run a job to its end; return its folder on the server."""
    rl("job-run", "--", *words)
    rl("job-wait")
    job = rl.json("job-list", "--all")["data"][0]
    return rl.project.parent / "work" / ".jobs" / str(job["job_id"])


def as_launch(rl: Rl, folder: Path, **spec: object) -> None:
    """Make a job that of a launch, as torch-launch would have started it."""
    content = json.loads((folder / "spec.json").read_text())
    content |= {"torchrun": ["x.py"], "shell": None, "argv": None, "launch_id": "a" * 32, "node_rank": 0}
    content |= {"nnodes": 1, "first_rank": 0, "nproc": 2, "tags": ["master"], **spec}
    (folder / "spec.json").write_text(json.dumps(content))
    for path in (rl.project / ".remote").glob("jobs.sqlite3*"):
        path.unlink()
    rl("job-list", "--rsync")


def brought(rl: Rl, folder: Path) -> str:
    """Bring the logs; return what is here of a job's output then. It may have said nothing yet."""
    rl("job-rsync")
    log = folder / "job.out"
    return log.read_text() if log.exists() else ""


class TestTail:
    def test_ranks_patterns_and_lines(self, rl: Rl) -> None:
        as_launch(rl, run(rl, "python3", "ranks.py"))
        out = rl("job-tail", "--rank", "1", "--no-follow", "-n", "2").stdout
        assert sorted(out.splitlines()) == ["rank 1 step 48", "rank 1 step 49", "rank 1 warns"]
        out = rl("job-tail", "--all-ranks", "--no-follow", "-n", "-1", "--grep", "step 4$|warns").stdout
        assert sorted(out.splitlines()) == [
            "gpu:0 │ rank 0 step 4", "gpu:0 ╎ rank 0 warns", "gpu:1 │ rank 1 step 4", "gpu:1 ╎ rank 1 warns"
        ]  # fmt: skip
        assert rl("job-tail", "--no-follow", "-F", "--grep", "step 4$", "-n", "-1").stdout == ""

    def test_what_can_not_be_met_is_said_at_once(self, rl: Rl) -> None:
        as_launch(rl, run(rl, "python3", "ranks.py"))
        assert "no rank 2 in this launch" in rl("job-tail", "--rank", "2", code=2).stderr
        assert "exclude each other" in rl("job-tail", "--rank", "2", "--all-ranks", code=2).stderr
        assert "--grep '('" in rl("job-tail", "--grep", "(", code=2).stderr
        assert "expected 30s, 10m" in rl("job-tail", "--since", "yesterday", code=2).stderr

    def test_attempts(self, rl: Rl) -> None:
        folder = run(rl, "echo", "first")
        (folder / "job.1.out").write_text("second\n")
        assert rl("job-tail", "--no-follow").stdout == "second\n"
        assert rl("job-tail", "--no-follow", "--attempt", "0").stdout == "first\n"
        missing = rl("job-tail", "--no-follow", "--attempt", "7")
        assert (missing.stdout, "the newest is 1" in missing.stderr) == ("", True)

    def test_since_a_time(self, rl: Rl) -> None:
        folder = run(rl, "seq", "5")
        at = time.time()
        rows = [[at - 900, {"job.out": 2}], [at - 300, {"job.out": 7}]]
        (folder / "logs.index").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert rl("job-tail", "--no-follow", "--since", "10m").stdout == "2\n3\n4\n5\n"
        assert rl("job-tail", "--no-follow", "--since", "4m").stdout == "4\n5\n"
        assert rl("job-tail", "--no-follow", "--since", "1h").stdout == "1\n2\n3\n4\n5\n"
        os.utime(folder / "job.out", (at - 250, at - 250))
        assert rl("job-tail", "--no-follow", "--since", "4m").stdout == ""

    def test_what_nobody_could_read_through_is_tailed_at_once(self, rl: Rl) -> None:
        folder = run(rl, "true")
        with (folder / "job.out").open("wb") as file:
            file.seek(1 << 40)  # with holes; to read it would take minutes
            file.write(b"\nlast\n")
        try:
            assert rl("job-tail", "--no-follow", "-n", "1", timeout_s=60).stdout == "last\n"
        finally:
            (folder / "job.out").unlink()


class TestOnATerminal:
    def test_a_bar_is_redrawn_in_place_and_is_one_line_in_the_end(self, rl: Rl) -> None:
        script = (
            "import sys, time\n"
            "for n in range(1, 1001):\n"
            "    sys.stderr.write(f'\\r{n // 10}% of it'); sys.stderr.flush(); time.sleep(0.002)\n"
            "sys.stderr.write('\\nall done\\n')\n"
        )  # the end at once: half a line is drawn, and shown again when it is whole
        (rl.project / "bar.py").write_text(script)
        rl("rsync")
        began = time.monotonic()
        rl("job-run", "--", "python3", "bar.py")
        with Terminal([rl_path(), "job-tail"], cwd=rl.project, env={**rl.env, "TERM": "xterm"}) as terminal:
            terminal.expect(r"\d+% of it")
            assert terminal.end() == 0
            shown = terminal.screen.replace("\x1b[J", "")
        assert "100% of it\nall done\n" in shown
        assert shown.count("% of it") < 10 + 10 * (time.monotonic() - began)  # ten times a second, of 500
        assert shown.count("% of it\n") == 1


class TestSync:
    def test_only_what_is_new_of_a_log_is_sent(self, rl: Rl) -> None:
        rl("job-run", "--", "sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.05; done; echo two; exit 3")
        there = rl.project.parent / "work"
        [job] = rl.json("job-list")["data"]
        here = rl.project / ".remote" / "jobs" / str(job["job_id"])
        wait_for(lambda: brought(rl, here) == "one\n", 60, "the first line")
        assert not (here / "exit.json").exists()
        (here / "job.out").write_text("ONE\n")  # what is here isn't looked at again: it could be 5 GB
        (there / "go").touch()
        rl("job-wait", code=3)
        rl("job-rsync")
        assert (here / "job.out").read_text() == "ONE\ntwo\n"
        assert json.loads((here / "exit.json").read_text())["exit_code"] == 3

    def test_the_end_of_a_job_that_says_no_more_comes_too(self, rl: Rl) -> None:
        rl("job-run", "--", "sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.05; done")
        [job] = rl.json("job-list")["data"]
        here = rl.project / ".remote" / "jobs" / str(job["job_id"])
        wait_for(lambda: brought(rl, here) == "one\n", 60, "the first line")
        (rl.project.parent / "work" / "go").touch()
        rl("job-wait")
        rl("job-rsync")
        assert (here / "exit.json").exists()

    def test_what_the_server_has_given_back_is_neither_sent_nor_missed(self, rl: Rl) -> None:
        path = rl.project / ".remote" / "configs.yaml"
        path.write_text(path.read_text() + "defaults: {log_max_bytes: 1048576}\n")
        script = "head -c 3000000 /dev/zero | tr '\\0' x | fold -w 99; while [ ! -e go ]; do sleep 0.05; done"
        rl("job-run", "--", "sh", "-c", script)
        [job] = rl.json("job-list")["data"]
        there = rl.project.parent / "work" / ".jobs" / str(job["job_id"])
        log, here = there / "job.out", rl.project / ".remote" / "jobs" / there.name / "job.out"
        # Of all that is written: what comes after it was shortened for the last time is there in full.
        dropped = there / "logs.dropped"
        wait_for(
            lambda: log.stat().st_size == 3_030_303
            and dropped.exists()
            and json.loads(dropped.read_text())["job.out"] > 1_200_000,
            60,
            "a shorter log",
        )
        (rl.project.parent / "work" / "go").touch()
        rl("job-wait")
        rl("job-rsync")
        assert here.read_bytes() == log.read_bytes()
        assert here.stat().st_blocks * 512 < 2_000_000


class TestWhatIsGone:
    @pytest.mark.parametrize(
        "name",
        ["../job.out", "/etc/passwd", "ranks/../attempt_0/0/stdout.log", "ranks/x/attempt_0/0/error.json", "",
         "job.out/x", "ranks/./attempt_0/0/stdout.log", "job.out\n", "exit.json", "ranks/x/y/0/stdout.log"],
    )  # fmt: skip
    def test_names_that_are_no_logs_are_nothing(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "logs.dropped").write_text(json.dumps({name: 5, "job.err": 10**30, "job.out": -1}))
        assert log_sync._dropped(tmp_path / "logs.dropped") == {}

    def test_links_are_not_written_through(self, tmp_path: Path) -> None:
        folder, other = tmp_path / "job", tmp_path / "other"
        folder.mkdir()
        other.mkdir()
        (folder / "job.out").symlink_to(other / "new")
        (folder / "ranks").symlink_to(other)
        for name in ("job.out", "ranks/run_x/attempt_0/0/stdout.log"):
            log_sync._lengthen(folder, name, 5)
        assert list(other.iterdir()) == []
        log_sync._lengthen(folder, "job.err", 5)
        log_sync._lengthen(folder, "job.err", 3)
        assert (folder / "job.err").stat().st_size == 5


def outside(project: Path) -> dict[str, float]:
    """All that is in the project but the jobs' folder, with its times."""
    kept = project / ".remote" / "jobs"
    return {
        str(path): path.lstat().st_mtime
        for path in project.rglob("*")
        if kept not in path.parents and path.is_file() and "jobs.sqlite3" not in path.name
        and path.parent.name != "logs"
    }  # fmt: skip


class TestHostileServers:
    def test_links_in_a_job_folder_stay_there(self, rl: Rl, tmp_path: Path) -> None:
        folder = run(rl, "echo", "x")
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "stdout.log").write_text("of somebody else\n")
        (folder / "job.1.out").symlink_to(secret / "stdout.log")
        (folder / "ranks").symlink_to(secret)
        (folder / "up").symlink_to("../..")
        os.mkfifo(folder / "job.2.out")
        (folder / "notes.txt").write_text("mine\n")
        rl("job-rsync")
        here = rl.project / ".remote" / "jobs" / folder.name
        assert sorted(path.name for path in here.iterdir()) == [
            "exit.json", "job.err", "job.out", "notes.txt"
        ]  # fmt: skip
        for attempt in ("1", "2"):
            assert rl("job-tail", "--no-follow", "--attempt", attempt).stdout == ""

    @pytest.mark.parametrize(
        "edit",
        ["s/x/x/", "s/--sender/--sender-L/;s/-L/ -L/", "s/--sender/--sender-l/;s/-l/ -l/",
         "s/--files-from=-//;s/--from0//", "s/--files-from=-//;s/--from0//;s/--sender/--sender-R/;s/-R/ -R/"],
    )  # fmt: skip
    def test_an_rsync_that_sends_what_was_not_asked_for(
        self, rl: Rl, bin_dir: Path, tmp_path: Path, edit: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(log_sync, "_PATIENCE_S", 3)  # some of these make both ends wait for each other
        folder = run(rl, "echo", "x")
        evil = tmp_path / "evil"
        shutil.copytree(folder, evil / folder.name)
        other = "b" * 32
        (evil / other).mkdir()
        (evil / other / "job.out").write_text("another job's\n")
        (evil / "configs.yaml").write_text("mine now\n")
        (evil / folder.name / "job.err").unlink()
        (evil / folder.name / "job.err").symlink_to("/etc/passwd")
        (evil / folder.name / "ranks").symlink_to(rl.project)
        mine = rl.project / ".remote" / "jobs" / other
        mine.mkdir(parents=True)
        (mine / "job.out").write_text("mine\n")
        wrapper = bin_dir / "rsync"
        wrapper.write_text(EVIL_RSYNC.format(real=shutil.which("rsync"), evil=evil, edit=f"'{edit}'"))
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        before = outside(rl.project)
        with Fleet.load(str(rl.project)) as fleet:
            refresh(fleet, logs=True)
        assert outside(rl.project) == before
        assert (mine / "job.out").read_text() == "mine\n"
        jobs = rl.project / ".remote" / "jobs"
        assert {path.name for path in jobs.iterdir()} <= {folder.name, other}
        assert not [path for path in jobs.rglob("*") if path.is_symlink()]
        assert not (jobs / folder.name / "ranks" / ".remote").exists() or "-L" in edit


