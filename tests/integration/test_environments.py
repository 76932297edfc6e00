"""prepare, env and clean on this machine as three servers, two of which share a home: what a user sees."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.cli import Rl, rl_path
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path


class Lab:
    """A project with the servers a, b (one home) and c; "bad" asks for a Python that there is not."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        (self.root / ".remote").mkdir(parents=True)
        (self.root / "train.py").write_text("print('hello')\n")
        (folder / "home").mkdir()
        self.ab, self.c = folder / "ab", folder / "c"
        servers = {
            "a": {"connection": "local", "workdir": str(self.ab)},
            "b": {"connection": "local", "workdir": str(self.ab)},
            "c": {"connection": "local", "workdir": str(self.c)},
            "bad": {
                "connection": "local",
                "workdir": str(folder / "bad"),
                "environment": {"python": "python3.1"},
            },
        }
        content = {"name": "proj", "servers": servers, "environment": {"manager": "venv"}}
        (self.root / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        self.rl = Rl(self.root, {"HOME": str(folder / "home"), "RL_PROJECT": ""})

    def good(self, command: str, *words: str) -> Any:
        """Run a command on a, b and c."""
        return self.rl(command, "--server", "a", "--server", "b", "--server", "c", *words)

    def good_error(self, command: str, *words: str) -> str:
        return self.rl(command, "--server", "c", *words, code=None).stderr

    def python_that(self, line: str) -> None:
        """Have environments made with a Python that first runs a line of shell."""
        python = self.root.parent / "python3"
        python.write_text(f'#!/bin/sh\n{line}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        config = self.root / ".remote" / "configs.yaml"
        content = yaml.safe_load(config.read_text())
        content["environment"]["python"] = str(python)
        config.write_text(yaml.safe_dump(content, sort_keys=False))

    def fake_torch(self, workdir: Path, version: str, cuda: str | None) -> None:
        (site,) = (workdir / ".rl" / "env").glob("lib/python3*/site-packages")
        (site / "torch").mkdir(exist_ok=True)
        (site / "torch" / "version.py").write_text(f"__version__ = {version!r}\ncuda = {cuda!r}\n")

    def states(self) -> dict[str, str]:
        return {item["server"]: item["state"] for item in self.rl.json("env")["data"]}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def cells(output: str) -> dict[str, list[str]]:
    """Given a table, return its rows by server."""
    rows = [line.split() for line in output.splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_from_nothing_to_an_environment_and_back(lab: Lab) -> None:
    done = lab.rl("prepare", code=3)
    rows = cells(done.stdout)
    assert {server: row[0] for server, row in rows.items()} == {
        "server": "result", "a": "ready", "b": "ready", "c": "ready", "bad": "failed",
    }  # fmt: skip
    assert "shares its home with" in done.stdout
    assert "[c] create environment (venv) …" in done.stderr
    assert "✗ bad: create environment (venv): exit code 1" in done.stderr
    (log,) = (line.partition("the whole output: ")[2] for line in done.stderr.splitlines() if ".log" in line)
    assert "no such python" in (lab.root / log).read_text()
    assert lab.states() == {"a": "up_to_date", "b": "up_to_date", "c": "up_to_date", "bad": "unfinished"}

    again = lab.good("prepare")
    assert again.stdout.count("nothing to do") == 3
    assert again.stderr == ""

    lab.fake_torch(lab.ab, "2.4.1+cu121", "12.1")
    lab.fake_torch(lab.c, "2.13.0+cpu", None)
    differs = lab.good("prepare")
    assert cells(differs.stdout)["a"][2] == "2.4.1+cu121"
    assert "warning: torch differs: 2.4.1 on a, b; 2.13.0 on c" in differs.stderr
    warnings = lab.rl.json("env")["warnings"]
    assert any("torch differs" in text for text in warnings)
    assert "torch differs" not in lab.rl("prepare", "--json", "--server", "c").stderr

    assert "asks before it removes" in lab.good_error("clean", "--all")
    looked = lab.good("clean", "--all", "--dry-run")
    assert "a and b share a home" in looked.stderr
    assert lab.states()["c"] == "up_to_date"
    removed = lab.good("clean", "--environment", "--yes")
    assert "c: removed environment" in removed.stdout
    assert {lab.states()[name] for name in "abc"} == {"absent"}
    assert (lab.ab / "train.py").exists()
    lab.good("clean", "--all", "--yes")
    assert not lab.ab.exists()
    assert not lab.c.exists()


def test_what_failed_on_one_server_is_not_called_done_on_another_that_shares_its_home(
    lab: Lab, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    lab.python_that(f"[ ! -e {broken} ] || exit 9")
    lab.rl("prepare", "--server", "a", "--server", "b")
    broken.touch()
    again = lab.rl("prepare", "--force", "--server", "a", "--server", "b", code=None)
    assert again.returncode != 0
    assert "nothing to do" not in again.stdout
    broken.unlink()
    assert lab.good("prepare", "--force").returncode == 0


def test_env_offers_no_prepare_for_an_interpreter_that_rl_does_not_make(lab: Lab) -> None:
    content = {
        "name": "proj", "environment": {"manager": "none", "python": "/nowhere/python"},
        "servers": {"a": {"connection": "local", "workdir": str(lab.ab)}},
    }  # fmt: skip
    (lab.root / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    said = lab.rl("env").stderr
    assert "rl prepare" not in said
    assert "next: a has no /nowhere/python: name another by python: in the inventory" in said


def test_on_a_terminal_clean_asks_and_no_is_the_default(lab: Lab) -> None:
    lab.good("rsync")
    argv = [rl_path(), "clean", "--code", "--server", "c"]
    with Terminal(argv, cwd=lab.root, env=lab.rl.env) as terminal:
        terminal.expect(r"Remove code from c\? \[y/N\]:")
        terminal.type("")
        assert terminal.end() == 1
    assert (lab.c / "train.py").exists()
    with Terminal(argv, cwd=lab.root, env=lab.rl.env) as terminal:
        terminal.expect(r"\[y/N\]:")
        terminal.type("y")
        assert terminal.end() == 0
    assert not (lab.c / "train.py").exists()


def test_on_a_terminal_prepare_has_live_rows_and_then_a_table(lab: Lab, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    lab.python_that(f'[ "$1 $2" != "-m venv" ] || until [ -e {seen} ]; do sleep 0.05; done')
    env = {**lab.rl.env, "TERM": "xterm", "COLUMNS": "80"}
    argv = [rl_path(), "prepare", "--server", "a", "--server", "bad"]
    with Terminal(argv, cwd=lab.root, env=env) as terminal:
        terminal.expect(r"a\S*\s+\S*create environment \(venv\)")
        seen.touch()
        assert terminal.end(120) == 3
        assert re.search(r"\n a +\S*ready", terminal.screen)
    assert (lab.ab / ".rl" / "env").is_dir()
