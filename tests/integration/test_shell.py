"""rl ssh and rl attach on a terminal, over sshd and on this machine."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.cli import Rl, rl_path
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from tests.support.sshd import SshdServer


SECRET = f"k3y-{uuid.uuid4().hex}"  # other workers of the test run use the same home

# One process that says when it is there to be interrupted.
SLEEPER = """python3 -c 'import time; print("{}", "is up", flush=True); time.sleep(600)'"""


@pytest.fixture(params=["openssh", "local"])
def rl(request: pytest.FixtureRequest, tmp_path: Path, sshd: SshdServer) -> Rl:
    """A project on one server, s, with a secret variable and an environment of its own."""
    project, home = tmp_path / "project", tmp_path / "home"
    (project / ".remote").mkdir(parents=True)
    home.mkdir()
    tools = tmp_path / "tools" / "bin"
    tools.mkdir(parents=True)
    (tools / "mytool").write_text("#!/bin/sh\necho my tool\n")
    (tools / "mytool").chmod(0o755)
    entry: dict[str, Any] = {
        "workdir": str(tmp_path / "work"), "env": {"MY_TOKEN": SECRET, "MINE": "my value"},
        "python": str(tools / "python"),
    }
    (tools / "python").symlink_to(Path(sys.executable).resolve())
    if request.param == "local":
        entry["connection"] = "local"
    else:
        entry |= {"hostname": sshd.name, "ssh_config": str(sshd.ssh_config)}
    content = {"name": "project", "servers": {"s": entry}, "environment": {"manager": "none"}}
    (project / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (project / "x.py").write_text("pass")
    rl = Rl(project, {"RL_PROJECT": ""})
    rl("rsync")
    return rl


def terminal(rl: Rl, *words: str, size: tuple[int, int] | None = None) -> Terminal:
    env = {**rl.env, "TERM": "dumb", "SHELL": "/bin/bash"}
    return Terminal([rl_path(), *words], cwd=rl.project, env=env, size=size)


def ready(screen: Terminal) -> None:
    screen.type("PS1='r''eady> '")
    screen.expect("ready> ")


def test_a_shell_in_the_project_s_folder(rl: Rl, tmp_path: Path) -> None:
    with terminal(rl, "ssh", "s") as screen:
        ready(screen)
        screen.type("echo at=$PWD token=$MY_TOKEN mine=$MINE; tty; mytool")
        screen.expect(f"at={tmp_path}/work token={SECRET} mine=my value")
        screen.expect("/dev/pts/")
        screen.expect("my tool")
        screen.type("exit 37")
        assert screen.end() == 37


def test_no_secret_stays_behind_or_shows(rl: Rl, tmp_path: Path) -> None:
    with terminal(rl, "ssh", "s") as screen:
        ready(screen)
        unseen = f"{SECRET[:-1]}[{SECRET[-1]}]"  # grep's own words are no match
        screen.type(f"cat ~/.rl/shell-*/* ~/.rl/shell-* 2>/dev/null | grep -c '{unseen}'; echo files")
        screen.expect(r"(?m)^0\s+files$")
        screen.type(f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr -d '\\0' | grep -c '{unseen}'; echo words")
        screen.expect(r"(?m)^0\s+words$")
        screen.type("exit")
        screen.end()
    assert not list((tmp_path / "work").rglob("shell-*"))


def test_ctrl_c_and_ctrl_z_are_the_shell_s(rl: Rl) -> None:
    with terminal(rl, "ssh", "s") as screen:
        ready(screen)
        screen.type(SLEEPER.format("first"))
        screen.expect("first is up")
        screen.press("\x03")
        screen.expect("ready> ")
        screen.type(SLEEPER.format("second"))
        screen.expect("second is up")
        screen.press("\x1a")
        screen.expect("Stopped")
        # Until the shell has seen the end; else it asks at "exit" what is to become of the stopped job.
        screen.type("while kill -9 %1 2>&1; do sleep 0.1; done; echo gone $((40 + 2))")
        screen.expect("gone 42")
        screen.type("exit 5")
        assert screen.end() == 5


def test_the_window_has_its_size(rl: Rl) -> None:
    with terminal(rl, "ssh", "s", size=(31, 97)) as screen:
        ready(screen)
        screen.type("stty size")
        screen.expect("31 97")
        screen.resize(40, 120)
        screen.type("until stty size | grep -x '40 120'; do read -t 0.1; done")  # the news travels
        # ssh may not listen yet for what it was told: a person would pull at the window once more.
        screen.expect("(?m)^40 120", meanwhile=screen.tell_size)
        screen.type("exit 0")
        assert screen.end() == 0


def test_a_job_s_shell_outlives_the_job(rl: Rl) -> None:
    job = rl.json("job-run", "--server", "s", "--env", "LR=0.1", "--cmd", "echo up; sleep 600")["data"][0]
    with terminal(rl, "attach", str(job["key"])) as screen:
        ready(screen)
        screen.type("echo lr=$LR dir=$(basename $RL_JOB_DIR) here=$(basename $PWD) id=${RL_JOB_ID:-none}")
        screen.expect(f"lr=0.1 dir={job['job_id']} here={job['job_id']} id=none")
        screen.type("until grep -x 'u''p' job.out; do sleep 0.1; done")  # it may not have begun
        screen.expect("(?m)^up$")
        [killed] = rl.json("job-kill", str(job["key"]), "--grace", "1")["data"]
        assert (killed["outcome"], killed["left_over"]) == ("killed", 0)
        screen.type("echo still $((40 + 2))")
        screen.expect("still 42")
        screen.type("exit 3")
        assert screen.end() == 3


def test_without_a_job_it_is_the_newest_that_runs(rl: Rl) -> None:
    assert "there are no jobs yet" in rl("attach", code=2).stderr
    running = rl.json("job-run", "--server", "s", "--", "sleep", "600")["data"][0]
    rl("job-run", "--server", "s", "--", "true")
    rl("job-wait")
    with terminal(rl, "attach") as screen:
        screen.expect(f"job {running['key']} on s: sleep 600")
        ready(screen)
        screen.type("echo here=$(basename $PWD)")
        screen.expect(f"here={running['job_id']}")
        screen.type("exit 0")
        assert screen.end() == 0
    rl("job-kill", "--yes", "--grace", "1")


def test_a_job_that_is_elsewhere_and_a_pipe_are_refused(rl: Rl) -> None:
    job = rl.json("job-run", "--server", "s", "--", "true")["data"][0]
    assert "needs a terminal" in rl("attach", str(job["key"]), code=2).stderr
