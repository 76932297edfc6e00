"""on_finish, --notify, --notify-local and --stall-timeout through the installed ``rl``, on a local server."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Rl

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def rl(tmp_path: Path) -> Rl:
    project = tmp_path / "project"
    (project / ".remote").mkdir(parents=True)
    (project / "train.py").write_text("pass\n")
    content = {
        "name": "project",
        "servers": {"s": {"connection": "local", "workdir": str(tmp_path / "work")}},
        "environment": {"manager": "none"},
        "on_finish": 'echo "$RL_STATE $RL_EXIT_CODE" > told.new && mv told.new "told-$RL_NAME"',
    }
    (project / ".remote" / "configs.yaml").write_text(json.dumps(content))
    rl = Rl(project, {"RL_PROJECT": ""})
    rl("rsync")
    return rl


def told(rl: Rl, name: str) -> str:
    path = rl.project.parent / "work" / f"told-{name}"
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, "the notification did not run"
        time.sleep(0.02)
    return path.read_text().strip()


def test_the_inventory_s_command_runs_after_each_job(rl: Rl) -> None:
    rl("job-run", "--name", "first", "--cmd", "exit 3")
    assert told(rl, "first") == "FAILED 3"
    [there] = (rl.project.parent / "work" / ".jobs").glob("*/notify.log")
    deadline = time.monotonic() + 60
    while "rl: " not in there.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    rl("job-rsync")
    [log] = (rl.project / ".remote" / "jobs").glob("*/notify.log")
    assert log.read_text() == "rl: the command exited with 0\n"


def test_the_option_goes_before_it_and_an_empty_one_is_none(rl: Rl) -> None:
    rl("job-run", "--name", "a", "--notify", "touch told-other", "--", "true")
    assert told(rl, "other") == ""
    rl("job-run", "--name", "b", "--notify", "", "--", "true")
    rl("job-run", "--name", "c", "--", "true")
    assert told(rl, "c") == "SUCCEEDED 0"
    work = rl.project.parent / "work"
    assert sorted(path.name for path in work.glob("told-*")) == ["told-c", "told-other"]


def test_a_command_here_after_the_wait(rl: Rl, tmp_path: Path) -> None:
    rl("job-run", "--", "sh", "-c", "exit 37")
    here = tmp_path / "here"
    command = f'echo "$RL_STATE $RL_EXIT_CODE $RL_SERVER" > {here}'
    rl("job-wait", "--notify-local", command, code=37)
    assert here.read_text() == "FAILED 37 s\n"
    failed = rl("job-wait", "--notify-local", "echo no such topic >&2; exit 22", code=37)
    assert "--notify-local: exit code 22: no such topic" in failed.stderr


def test_a_launch_that_is_not_followed_can_t_tell_here(rl: Rl) -> None:
    refused = rl("torch-launch", "--nproc-per-node", "1", "--notify-local", "true", "train.py", code=2)
    assert "--notify-local needs --follow" in refused.stderr


def test_a_dry_run_shows_no_address(rl: Rl) -> None:
    words = ("--dry-run", "--notify", "curl https://hooks/T0/B0/secret", "--stall-timeout", "600")
    spec = rl.json("job-run", *words, "--", "true")["data"]
    assert (spec["notify"], spec["stall_timeout_s"]) == ("•••", 600)


def test_a_job_that_hangs_is_stopped(rl: Rl) -> None:
    # So long that "up" comes before it is over, though the machine stand still for a while.
    rl("job-run", "--name", "hang", "--stall-timeout", "8", "--cmd", "echo up; exec sleep 600")
    rl("job-wait", code=1)
    shown = rl("job-show").stdout
    assert "no output for 8 s: stopped; stacks in " in shown
    assert "    up" in shown
    assert told(rl, "hang") == "FAILED"
