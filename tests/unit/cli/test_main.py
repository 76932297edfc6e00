"""The command line before any command runs: help, errors, exit codes, what is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest

from remote_launch import __version__
from remote_launch.cli import main as module
from remote_launch.cli.main import COMMANDS, rl, run
from remote_launch.errors import ConnectTimeoutError, RemoteLaunchError, ServersFailedError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [name for section in COMMANDS.values() for name in section]
HEAVY = (
    "yaml",
    "rich",
    "paramiko",
    "fabric",
    "asyncio",
    "invoke",
    "cryptography",
    "sqlite3",
    "torch",
    "subprocess",
    "ssl",
)

INVENTORY = """\
name: proj
servers:
  a: {connection: local}
  b: {connection: local}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".remote").mkdir()
    (tmp_path / ".remote/configs.yaml").write_text(INVENTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RL_PROJECT", raising=False)
    return tmp_path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RL_PROJECT", raising=False)
    return tmp_path


class TestHelp:
    def test_of_rl_names_every_command(self, nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["--help"]) == 0
        out = capsys.readouterr().out
        for name in NAMES:
            assert f"  {name} " in out
        assert run(["-h"]) == 0

    @pytest.mark.parametrize("name", NAMES)
    def test_of_each_command_works_without_a_project_and_has_an_example(
        self, nowhere: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        assert run([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert f"Usage: rl {name} " in out
        assert "Example" in out
        assert f"  rl {name}" in out.partition("Example")[2]

    @pytest.mark.parametrize("name", NAMES)
    def test_each_option_says_what_it_does(self, name: str) -> None:
        command = rl.get_command(click.Context(rl), name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.help, f"rl {name} {option.opts[0]} has no help"

    def test_underscores_do_too(self, nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job_list", "--help"]) == 0
        assert "List jobs" in capsys.readouterr().out

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["--version"]) == 0
        assert capsys.readouterr().out == f"rl {__version__}\n"


def test_help_imports_nothing_heavy_and_opens_nothing(tmp_path: Path) -> None:
    code = "import sys; from remote_launch.cli.main import run; run(['--help'])"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    ours = {name for name in imported if name.startswith("remote_launch")}
    assert ours == {"remote_launch", "remote_launch.errors", "remote_launch.cli", "remote_launch.cli.main"}
    # What the interpreter and its site-packages bring anyway is not ours to avoid; click brings the rest.
    click_only = [sys.executable, "-X", "importtime", "-c", "import click"]
    base = subprocess.run(click_only, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    base_names = {line.rpartition("|")[2].strip() for line in base.splitlines()}
    third_party = {name.split(".")[0] for name in imported - base_names} - set(sys.stdlib_module_names)
    assert third_party <= {"remote_launch", "click"}
    assert not {name.split(".")[0] for name in imported - base_names} & set(HEAVY)
    assert list(tmp_path.iterdir()) == []


class TestUnknown:
    def test_command(self, nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-lst"]) == 2
        captured = capsys.readouterr()
        assert "no command 'job-lst', did you mean 'job-list'?" in captured.err
        assert captured.out == ""

    def test_option(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-list", "--sever", "a"]) == 2
        assert "--server" in capsys.readouterr().err

    def test_server(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-list", "--server", "c"]) == 2
        err = capsys.readouterr().err
        assert "unknown server 'c'" in err
        assert "known servers: a, b" in err

    def test_job(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for command in ("job-show", "job-tail", "job-wait", "job-kill"):
            assert run([command, "12"]) == 2
            assert "unknown job '12'" in capsys.readouterr().err

    def test_tag(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-wait", "--tag", "train.py"]) == 2
        assert "no job is tagged train.py" in capsys.readouterr().err


class TestProject:
    def test_none_says_rl_init(self, nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-list"]) == 1
        captured = capsys.readouterr()
        assert "no .remote folder" in captured.err
        assert "rl init" in captured.err
        assert captured.out == ""

    def test_a_broken_inventory_names_file_and_line(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (project / ".remote/configs.yaml").write_text("name: x\nservers:\n  a: {hostname: h, prot: 22}\n")
        assert run(["servers"]) == 1
        err = capsys.readouterr().err
        assert f"{project}/.remote/configs.yaml:3: servers.a.prot" in err
        assert "did you mean" in err

    def test_yaml_that_is_none_names_the_line(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (project / ".remote/configs.yaml").write_text("name: x\nservers: [\n")
        assert run(["servers"]) == 1
        assert "configs.yaml:" in capsys.readouterr().err

    def test_project_names_one_elsewhere(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir("/")
        assert run(["--project", str(project), "servers"]) == 0
        monkeypatch.setenv("RL_PROJECT", str(project))
        assert run(["servers"]) == 0
        assert capsys.readouterr().out.count("this machine") == 4


class TestErrors:
    """What each error becomes, through a command that raises it."""

    @pytest.fixture
    def raising(self, monkeypatch: pytest.MonkeyPatch, project: Path) -> Any:
        def make(error: BaseException) -> None:
            def fail(*_: Any) -> None:
                raise error

            monkeypatch.setattr("remote_launch.operations.fleet.Fleet.load", fail)

        return make

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (UsageError("no", hint="so"), 2),
            (RemoteLaunchError("no", hint="so"), 1),
            (RemoteLaunchError("no", hint="so", exit_code=124), 124),
        ],
    )
    def test_message_and_next_step_on_stderr(
        self, raising: Any, capsys: pytest.CaptureFixture[str], error: RemoteLaunchError, code: int
    ) -> None:
        raising(error)
        assert run(["servers"]) == code
        assert capsys.readouterr() == ("", "error: no\n  → so\n")

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
    def test_ctrl_c(self, raising: Any, capsys: pytest.CaptureFixture[str], error: BaseException) -> None:
        raising(error)
        assert run(["servers"]) == 130
        assert "interrupted" in capsys.readouterr().err

    def test_several_servers_are_all_named(self, raising: Any, capsys: pytest.CaptureFixture[str]) -> None:
        raising(
            ServersFailedError(
                {"a": ConnectTimeoutError("a", "no answer", hint="is it on?"), "b": None}, "start"
            )
        )
        assert run(["servers"]) == 3
        assert (
            capsys.readouterr().err == "error: start: 1 of 2 servers failed\n✗ a: no answer\n  → is it on?\n"
        )

    def test_json(self, raising: Any, capsys: pytest.CaptureFixture[str]) -> None:
        raising(ServersFailedError({"a": ConnectTimeoutError("a", "no answer", hint="is it on?"), "b": None}))
        assert run(["servers", "--json"]) == 3
        captured = capsys.readouterr()
        assert json.loads(captured.out) == {
            "version": 1,
            "command": "servers",
            "status": "partial",
            "data": None,
            "errors": [
                {"type": "ConnectTimeoutError", "message": "a: no answer", "hint": "is it on?", "server": "a"}
            ],
        }
        assert captured.err == ""

    def test_escape_sequences_in_a_message_do_not_reach_the_terminal(
        self, raising: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        raising(RemoteLaunchError("\x1b]0;owned\x07no\x1b[2J", hint="\x1bcso"))
        assert run(["servers"]) == 1
        assert "\x1b" not in capsys.readouterr().err

    def test_a_bug_keeps_its_traceback(self, raising: Any) -> None:
        raising(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            run(["servers"])


class TestJsonFlag:
    """--json belongs to rl only before the script's name."""

    def error_of(self, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
        assert run(argv) == 1
        return capsys.readouterr().out

    @pytest.mark.parametrize(
        "argv",
        [
            ["torch-launch", "train.py", "--json"],
            ["torch-launch", "--nproc-per-node", "2", "-m", "pkg.train", "--json"],
            ["job-run", "--server", "a", "prep", "--json"],
            ["job-run", "--server", "a", "--", "prep", "--json"],
            ["run", "--server", "a", "--", "tool", "--json"],
        ],
    )
    def test_of_the_script_is_not_rls(
        self, nowhere: Path, capsys: pytest.CaptureFixture[str], argv: list[str]
    ) -> None:
        assert self.error_of(argv, capsys) == ""

    @pytest.mark.parametrize(
        "argv",
        [
            ["torch-launch", "--json", "train.py"],
            ["job-run", "--json", "--server", "a", "--", "prep"],
            ["--project", "job-list", "job-show", "--json"],
        ],
    )
    def test_of_rl(self, nowhere: Path, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
        envelope = json.loads(self.error_of(argv, capsys))
        assert envelope["status"] == "error"
        assert envelope["command"] in argv
        assert envelope["command"] != "job-list"


def test_the_reader_of_a_pipe_may_go(project: Path) -> None:
    """rl … | head: no traceback, no error."""
    rows = "".join(f"  s{n}: {{connection: local}}\n" for n in range(3000))
    (project / ".remote/configs.yaml").write_text(f"name: proj\nservers:\n{rows}")
    read, write = os.pipe()
    command = [sys.executable, "-c", "from remote_launch.cli.main import main; main()", "servers"]
    process = subprocess.Popen(command, cwd=project, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert os.read(read, 10)
    os.close(read)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


def test_an_encoding_that_lacks_a_character_is_no_error(project: Path) -> None:
    command = [sys.executable, "-c", "from remote_launch.cli.main import main; main()", "job-show"]
    done = subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[1].startswith(b"  ? start one")


def test_every_command_is_where_the_table_says() -> None:
    context = click.Context(rl)
    assert rl.list_commands(context) == NAMES
    for name in NAMES:
        command = rl.get_command(context, name)
        assert command is not None
        assert command.name == name
    assert module.rl.get_command(context, "nope") is None
