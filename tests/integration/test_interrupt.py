"""Ctrl-C on the terminal of ``rl torch-launch --follow``: it asks, and what it does then leaves no job behind
that one didn't want, and ends none that one did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.cli import Rl, rl_path
from tests.support.fake_torch import make_environment
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CTRL_C = "\x03"
ASKS = r"\[d\]etach, \[k\]ill them, \[c\]ontinue"
SCRIPT = """
import os, sys, time
def say(line):  # at once: a line that is there in parts is drawn, and shown again when it is whole
    sys.stdout.write(line + "\\n")
for line in range(int(os.environ.get("BURST", 0))):
    say(f"line {line} of the start")
for number in range(6000):
    say(f"epoch {number} of rank {os.environ['RL_NODE_RANK']}")
    time.sleep(0.1)
"""


@pytest.fixture
def rl(tmp_path: Path) -> Iterator[Rl]:
    project = tmp_path / "project"
    (project / ".remote").mkdir(parents=True)
    (project / "go.py").write_text(SCRIPT)
    servers = {
        name: {"connection": "local", "workdir": str(tmp_path / "work" / name), "nproc_per_node": 1}
        for name in ("one", "two")
    }
    python = str(make_environment(tmp_path / "env"))
    content = {"name": "p", "servers": servers, "environment": {"manager": "none", "python": python}}
    (project / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    rl = Rl(project)
    rl("rsync")
    yield rl
    rl("job-kill", "--yes")


def follow(rl: Rl, *options: str) -> Terminal:
    words = ["torch-launch", "--follow", *options, "go.py"]
    return Terminal([rl_path(), *words], cwd=rl.project, env={**rl.env, "TERM": "xterm"})


def lines(terminal: Terminal) -> list[str]:
    """What was shown, without the terminal's own word for the key that was pressed: that may stand in the
    middle of a line."""
    return terminal.screen.replace("^C", "").splitlines()


def go_on_and_interrupt(terminal: Terminal) -> None:
    """Be asked, go on, and be asked again once both ranks have said more."""
    terminal.press(CTRL_C)
    terminal.expect(ASKS)
    terminal.type("c")
    terminal.expect("epoch [0-9]+ of rank 0")
    terminal.expect("epoch [0-9]+ of rank 1")
    terminal.press(CTRL_C)
    terminal.expect(ASKS)


def states(rl: Rl) -> list[str]:
    return [job["state"] for job in rl.json("job-list", "--all", "--rsync")["data"]]


def test_it_asks_and_goes_on_and_a_second_one_detaches(rl: Rl) -> None:
    with follow(rl) as terminal:
        terminal.expect("epoch [0-9]+ of rank 1")
        go_on_and_interrupt(terminal)
        terminal.press(CTRL_C)
        terminal.expect("detached; the jobs go on")
        assert terminal.end() == 130
    assert states(rl) == ["RUNNING", "RUNNING"]
    shown = [line for line in lines(terminal) if "of rank 0" in line and "│" in line]
    epochs = [int(line.split("epoch ")[1].split()[0]) for line in shown]
    assert epochs == list(range(len(epochs))), f"a line is lost or shown twice:\n{terminal.screen}"


def test_it_kills_when_it_is_told_to(rl: Rl) -> None:
    with follow(rl) as terminal:
        terminal.expect("epoch [0-9]+ of rank 1")
        terminal.press(CTRL_C)
        terminal.expect(ASKS)
        terminal.type("k")
        terminal.expect("jobs 1, 2: KILLED")
        assert terminal.end() == 143
    assert states(rl) == ["KILLED", "KILLED"]


def test_in_the_background_it_asks_nothing(rl: Rl) -> None:
    """There the terminal is another program's: to ask on it would stop this one, for good."""
    script = f"set -m; {rl_path()} torch-launch --follow go.py & read x; kill -INT %1; wait %1; echo code $?"
    with Terminal(["/bin/sh", "-c", script], cwd=rl.project, env={**rl.env, "TERM": "xterm"}) as terminal:
        terminal.expect("epoch [0-9]+ of rank 1")
        terminal.type("")
        terminal.expect("detached; the jobs go on")
        terminal.expect("code 130")
    assert states(rl) == ["RUNNING", "RUNNING"]


def test_what_a_slow_terminal_has_not_shown_yet_is_not_lost(rl: Rl) -> None:
    """At a Ctrl-C a terminal throws away what it was sent and has not shown, unless it is told not to."""
    with follow(rl, "--env", "BURST=300") as terminal:
        terminal.fill()
        go_on_and_interrupt(terminal)
        terminal.type("k")
        terminal.expect("jobs 1, 2: KILLED")
        assert terminal.end() == 143
    for name in ("one:0", "two:1"):
        shown = [line for line in lines(terminal) if name in line and "of the start" in line]
        numbers = [int(line.split("line ")[1].split()[0]) for line in shown]
        assert numbers == list(range(300)), terminal.screen
