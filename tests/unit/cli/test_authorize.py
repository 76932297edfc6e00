"""What `rl authorize` and a password in the inventory look like, with no server asked."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from remote_launch.cli.main import run
from tests.support.cli import rl_path

if TYPE_CHECKING:
    from pathlib import Path

INVENTORY = """\
name: p
servers:
  here: {connection: local}
  gpu:
    hostname: 192.0.2.1
    username: me
    private_key: ./key
    password: s3cret
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".remote").mkdir()
    (tmp_path / ".remote/configs.yaml").write_text(INVENTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_plan_as_data(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["authorize", "--dry-run", "--json"]) == 0
    here, gpu = json.loads(capsys.readouterr().out)["data"]
    assert (here["server"], here["key"]) == ("here", None)
    assert gpu == {
        "server": "gpu", "login": "me@192.0.2.1", "key": str(project / "key"), "exists": False, "named": True,
        "password_from": "password",
    }  # fmt: skip


def test_a_local_server_needs_no_login(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["authorize", "--server", "here"]) == 0
    assert "needs no login" in capsys.readouterr().out


def test_a_password_in_the_file_is_warned_of_and_not_shown(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["servers"]) == 0
    said = capsys.readouterr()
    assert f"{project}/.remote/configs.yaml:8: a password stands in this file" in said.err
    assert "s3cret" not in said.out + said.err


def test_completion_knows_the_servers_and_warns_of_nothing(project: Path) -> None:
    words = {"COMP_WORDS": "rl authorize --server ", "COMP_CWORD": "3", "_RL_COMPLETE": "bash_complete"}
    env = {**os.environ, **words}
    done = subprocess.run([rl_path()], env=env, cwd=project, capture_output=True, text=True)
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == ["here", "gpu"]
    assert done.stderr == ""
