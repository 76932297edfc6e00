"""What rl doctor prints: a checklist, then what to do; or an envelope."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.cli import checklist
from remote_launch.cli.main import run
from remote_launch.core.findings import Finding, Level
from remote_launch.operations.checks import CHECKS
from remote_launch.operations.doctor import Diagnosis
from tests.support.cli import rl_path
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

SERVERS = tuple(f"s{number}" for number in range(8))


def found(
    check: str, servers: tuple[str, ...], level: Level = "ok", message: str = "fine", **more: Any
) -> Finding:
    return Finding(check=check, servers=servers, level=level, message=message, **more)


def shown(capsys: pytest.CaptureFixture[str], *findings: Finding) -> list[str]:
    diagnosis = Diagnosis(servers=SERVERS, findings=findings, unreachable={}, duration_s=1.2)
    checklist.show_diagnosis(diagnosis, CHECKS)
    return capsys.readouterr().out.splitlines()


class TestChecklist:
    def test_equal_findings_are_one_line_in_the_order_of_the_checks(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        disks = [found("disk", (name,), detail="9 GB free") for name in SERVERS]
        lines = shown(capsys, *disks, found("ssh", SERVERS))
        assert lines == [
            "Connection", "  ✓  ssh   fine", "Machine", "  ✓  disk  fine: 9 GB free", "",
            "8 servers: nothing wrong (1.2 s)",
        ]  # fmt: skip

    def test_checks_that_looked_at_nothing_call_nothing_healthy(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Such as those of the ways between servers, of one server."""
        assert shown(capsys) == ["", "8 servers: these checks have nothing to look at here (1.2 s)"]

    def test_problems_come_last_the_worst_first_with_what_to_do(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = shown(
            capsys,
            found("disk", ("s1",), "warning", "little space", detail="2 GB free", do="free some"),
            found("torch", SERVERS, "error", "differs", do="make it equal\nfor all"),
            found("proxy", ("s0", "s1", "s2", "s3", "s4", "s5"), "note", "is set"),
        )
        assert lines[lines.index("What to do") :] == [
            "What to do",
            "  ✗  torch, all 8 servers: differs",
            "     → make it equal",
            "     → for all",
            "  !  disk, s1: little space: 2 GB free",
            "     → free some",
            "",
            "8 servers: 1 error, 1 warning, 1 note (1.2 s)",
        ]
        assert "  ·  proxy  s0, s1, s2, s3 and 2 more: is set" in lines

    def test_what_helps_against_several_problems_is_said_once_below_them(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = shown(
            capsys,
            found("reach", ("s1", "s2"), "error", "s1 can't reach s2", do="open TCP"),
            found("reach", ("s2", "s1"), "error", "s2 can't reach s1", do="open TCP"),
            found("disk", ("s1",), "error", "no space", do="free some"),
        )
        assert lines[lines.index("What to do") + 1 : -2] == [
            "  ✗  reach, s1, s2: s1 can't reach s2",
            "  ✗  reach, s2, s1: s2 can't reach s1",
            "     → open TCP",
            "  ✗  disk, s1: no space",
            "     → free some",
        ]

    def test_what_a_server_says_does_not_steer_the_terminal(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        evil = "\x1b[2J\x1b]0;x\x07red\nnext"
        lines = shown(capsys, found("login-shell", ("s1",), "error", evil, detail=evil, do=evil))
        assert not any("\x1b" in line or "\x07" in line for line in lines)
        assert any("s1: red next: red next" in line for line in lines)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".remote").mkdir()
    servers = {name: {"connection": "local", "workdir": str(tmp_path / name)} for name in ("a", "b")}
    content = {"name": "proj", "servers": servers, "environment": {"manager": "none"}}
    (tmp_path / ".remote/configs.yaml").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RL_PROJECT", raising=False)
    return tmp_path


class TestCommand:
    def test_local_servers_are_examined_for_real(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["doctor", "--json", "--no-allreduce"]) in (0, 1)  # this machine may have no rsync
        envelope = json.loads(capsys.readouterr().out)
        assert (envelope["command"], envelope["errors"]) == ("doctor", [])
        data = envelope["data"]
        assert (data["servers"], data["unreachable"]) == (["a", "b"], [])
        assert {"ssh", "clock", "disk", "environment", "equal", "network"} <= {
            one["check"] for one in data["findings"]
        }
        assert set(data["findings"][0]) == {
            "check", "servers", "level", "message", "detail", "do", "data"
        }  # fmt: skip

    def test_only_the_checks_asked_for(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["doctor", "a", "--only", "clock"]) == 0
        out = capsys.readouterr().out.splitlines()
        assert out[:2] == ["Connection", "  ✓  clock  right, to the second or two"]
        assert run(["doctor", "--only", "clokc"]) == 2
        assert "did you mean 'clock'" in capsys.readouterr().err

    def test_to_ask_for_the_import_is_to_ask_for_a_deep_look(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (project / "fake/bin").mkdir(parents=True)
        python = project / "fake/bin/python"
        python.write_text("#!/bin/sh\necho 'ImportError: no libcudnn' >&2; exit 1\n")
        python.chmod(0o755)
        (project / "fake/pyvenv.cfg").write_text("version = 3.11.2\n")
        packages = project / "fake/lib/python3.11/site-packages/torch"
        packages.mkdir(parents=True)
        (packages / "version.py").write_text("__version__ = '2.13.0'\n")
        config = project / ".remote/configs.yaml"
        content = json.loads(config.read_text())
        content["environment"]["python"] = str(python)
        config.write_text(json.dumps(content))
        assert run(["doctor", "a", "--only", "import"]) == 1
        assert "torch can't be imported: ImportError: no libcudnn" in capsys.readouterr().out

    def test_a_workdir_that_cannot_be_made_is_an_error(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (project / "file").write_text("")
        config = project / ".remote/configs.yaml"
        config.write_text(config.read_text().replace(str(project / "b"), str(project / "file/b")))
        assert run(["doctor", "--no-network"]) == 1
        assert "workdir, b: its workdir" in capsys.readouterr().out

    def test_a_server_that_does_not_answer_is_a_line_and_code_3(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = (project / ".remote/configs.yaml").read_text()
        closed = '"b": {"hostname": "127.0.0.1", "port": 1, '
        text = text.replace('"b": {"connection": "local", ', closed)
        (project / ".remote/configs.yaml").write_text(text)
        assert run(["doctor", "--no-network", "--only", "ssh"]) == 3
        assert "ssh, b: 127.0.0.1 port 1 refused the connection" in capsys.readouterr().out
        assert run(["doctor", "b", "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["status"] == "error"

    def test_the_list_needs_no_project(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run(["doctor", "--list", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)["data"]
        assert [one["check"] for one in listed] == [check.id for check in CHECKS]
        assert run(["doctor", "--list"]) == 0
        assert "login-shell" in capsys.readouterr().out

    def test_on_a_terminal_lines_are_wrapped_below_their_beginning(self, project: Path) -> None:
        env = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
        argv = [rl_path(), "doctor", "--no-network", "--only", "system"]
        with Terminal(argv, cwd=project, env=env) as terminal:
            terminal.expect("2 servers: ")
            screen = terminal.screen
        lines = [line for line in screen.splitlines() if "Linux" in line or line.startswith("             ")]
        assert "\x1b[32m✓" in screen
        assert all(len(line) <= 60 + 12 for line in lines), lines
