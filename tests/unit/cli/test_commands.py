"""The commands' words and what they print, with no server asked."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.cli.main import run
from remote_launch.core.jobs import JobState
from remote_launch.core.registry import Registry
from remote_launch.core.torchrun import Script
from remote_launch.operations.launch import LaunchRequest
from tests.support.records import new_record

if TYPE_CHECKING:
    from pathlib import Path

INVENTORY = """\
name: proj
servers:
  a: {connection: local, nproc_per_node: 2}
  b: {connection: local, nproc_per_node: 2}
environment: {manager: venv}
"""
# DESIGN 3: what --json of job-list promises of each job.
JOB_KEYS = {
    "job_id", "key", "launch_id", "server", "node_rank", "state", "exit_code", "signal", "reason", "tags",
    "command", "attempt", "created_at", "started_at", "ended_at",
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".remote").mkdir()
    (tmp_path / ".remote/configs.yaml").write_text(INVENTORY)
    (tmp_path / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RL_PROJECT", raising=False)
    return tmp_path


class CapturedError(Exception):
    """Carries the request out of the command."""


@pytest.fixture
def launched(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line up to its plan; return the request that it became."""

    def parse(*words: str) -> LaunchRequest:
        def capture(_: Any, request: LaunchRequest) -> None:
            raise CapturedError(request)

        monkeypatch.setattr("remote_launch.operations.launch.plan_launch", capture)
        with pytest.raises(CapturedError) as caught:
            assert run([*words]) == "never"
        request = caught.value.args[0]
        assert isinstance(request, LaunchRequest)
        return request

    return parse


class TestScriptWords:
    @pytest.mark.parametrize(
        "words",
        [
            ["--x=y", "key=value", "-m", "--device", "cuda", "--json", "--help", "-n", "3"],
            ["--env", "A", "b"],
            ["--nproc-per-node", "9", "--server", "zzz", "--tag", "t", "--dry-run", "--follow"],
            ["--", "-x", "--"],
            ["", " ", "$HOME", "*", "a b", "'", '"', "zwölf", "\n"],
        ],
    )
    def test_after_its_name_all_are_the_scripts(self, launched: Any, words: list[str]) -> None:
        request = launched("torch-launch", "--nproc-per-node", "2", "train.py", *words)
        assert request.script == Script(name="train.py", args=tuple(words))
        assert (request.nproc_per_node, dict(request.env), list(request.tags)) == ("2", {}, [])

    def test_module(self, launched: Any) -> None:
        expected = Script(name="package.train", args=("-m", "lr=0.1"), module=True)
        assert launched("torch-launch", "-m", "package.train", "-m", "lr=0.1").script == expected

    def test_cmd(self, launched: Any) -> None:
        request = launched("torch-launch", "--cmd", "python train.py --name 'a b'")
        assert request.script == Script(name="train.py", args=("--name", "a b"))
        module = launched("torch-launch", "--cmd", "python -m pkg.train --x")
        assert module.script == Script(name="pkg.train", args=("--x",), module=True)

    def test_labml_remotes_command_line(self, launched: Any) -> None:
        request = launched(
            "helper-torch-launch",
            "--nproc-per-node",
            "2",
            "--use-env",
            "--cmd",
            "train.py -x",
            "--env",
            "A",
            "b",
        )
        assert request.script == Script(name="train.py", args=("-x",))
        assert dict(request.env) == {"A": "b"}
        assert launched("helper-torch-launch", "--cmd", "train.py").script.pass_local_rank

    @pytest.mark.parametrize(
        "words", [[], ["--cmd", "train.py", "train.py"], ["--cmd", ""], ["--cmd", "'open"]]
    )
    def test_none_or_twice_is_a_usage_error(
        self, project: Path, capsys: pytest.CaptureFixture[str], words: list[str]
    ) -> None:
        assert run(["torch-launch", *words]) == 2
        assert "error: " in capsys.readouterr().err

    def test_a_script_that_is_not_there_names_the_near_one(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["torch-launch", "trian.py"]) == 2
        assert "did you mean 'train.py'" in capsys.readouterr().err


class TestEnvOption:
    @pytest.mark.parametrize(
        ("words", "env"),
        [
            (["--env", "A=b"], {"A": "b"}),
            (["--env", "A", "b"], {"A": "b"}),
            (["--env=A=b"], {"A": "b"}),
            (["--env", "A=", "--env", "B=x=y", "--env", "C", "-1"], {"A": "", "B": "x=y", "C": "-1"}),
            (["--env", "A", "b=c"], {"A": "b=c"}),
            (["--env", "A=1", "--env", "A=2"], {"A": "2"}),
            (["--env", "A=a b\nc'\"$x"], {"A": "a b\nc'\"$x"}),
        ],
    )
    def test_both_spellings(self, launched: Any, words: list[str], env: dict[str, str]) -> None:
        assert dict(launched("torch-launch", *words, "train.py").env) == env

    @pytest.mark.parametrize(
        "words",
        [
            ["--env", "A"],
            ["--env"],
            ["--env", "1A=b", "train.py"],
            ["--env", "A B", "c"],
            ["--env", "A", "--tag", "x"],
            ["--env", "", "x"],
        ],
    )
    def test_a_name_without_a_value_is_a_usage_error(
        self, project: Path, capsys: pytest.CaptureFixture[str], words: list[str]
    ) -> None:
        assert run(["torch-launch", *words]) == 2
        assert "--env" in capsys.readouterr().err

    def test_the_commands_own_is_untouched(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        argv = [
            "job-run",
            "--server",
            "a",
            "--env",
            "A",
            "b",
            "--dry-run",
            "--json",
            "--",
            "tool",
            "--env",
            "X",
            "Y",
            "--",
            "-z",
        ]
        assert run(argv) == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert data["argv"] == ["tool", "--env", "X", "Y", "--", "-z"]
        assert data["env"] == {"A": "b"}


class TestJobRun:
    def dry_run(self, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
        assert run(["job-run", "--dry-run", "--json", *words]) == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert isinstance(data, dict)
        return data

    def test_a_command_is_words_or_a_text(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = self.dry_run(capsys, "--server", "a", "echo", "a b", "--json")
        assert (words["argv"], words["shell"], words["command"]) == (
            ["echo", "a b", "--json"],
            None,
            "echo 'a b' --json",
        )
        text = self.dry_run(capsys, "--server", "a", "--cmd", "echo a && b")
        assert (text["argv"], text["shell"]) == (None, "echo a && b")
        assert text["tags"] == ["custom", "no-tags"]

    def test_no_secret_is_shown_and_nothing_is_recorded(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--server", "a", "--env", "WANDB_API_KEY=hunter2", "--env", "LR=1", "x"]
        assert run(["job-run", "--dry-run", *words]) == 0
        captured = capsys.readouterr()
        assert "hunter2" not in captured.out + captured.err
        assert "LR=1" in captured.out
        assert "WANDB_API_KEY" in captured.out
        assert not (project / ".remote/jobs.sqlite3").exists()

    def test_a_window_without_restarts_is_refused(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for words in (["job-run", "--server", "a"], ["torch-launch", "--nproc-per-node", "1"]):
            assert run([*words, "--restart-window", "60", "train.py"]) == 2
            assert "--max-restarts N" in capsys.readouterr().err

    def test_several_servers_ask_which(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for command in ("run", "job-run"):
            assert run([command, "--", "x"]) == 2
            assert "one of: a, b" in capsys.readouterr().err

    def test_a_mistyped_option_is_not_run_as_the_command(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for command in ("run", "job-run"):
            assert run([command, "--servr", "a", "--", "x"]) == 2
            assert "No such option" in capsys.readouterr().err


@pytest.fixture
def jobs(project: Path) -> Registry:
    registry = Registry(project / ".remote/jobs.sqlite3")
    launch: dict[str, Any] = {
        "command": "torchrun train.py",
        "name": "train.py",
        "launch_id": "f" * 32,
        "nnodes": 2,
        "state": JobState.RUNNING,
        "started_at": 1700000000.0,
    }
    failed: dict[str, Any] = {"state": JobState.FAILED}
    registry.add(
        [
            new_record(server="a", node_rank=0, tags=("train.py", "master"), **launch),
            new_record(server="b", node_rank=1, tags=("train.py",), unreachable_since=1700000060.0, **launch),
            new_record(server="b", command="\x1b[2Jprep", name="prep", exit_code=3, tags=("x",), **failed),
            new_record(server="gone", command="old", signal="KILL", **failed),
        ]
    )
    return registry


class TestJobList:
    def test_none(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-list"]) == 0
        assert "no running jobs" in capsys.readouterr().out
        assert run(["job-list", "--all"]) == 0
        assert capsys.readouterr().out.startswith("no jobs (none are known here; rl job-list --rsync")

    def test_the_envelope_of_none(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-list", "--json"]) == 0
        expected = {"version": 1, "command": "job-list", "status": "ok", "data": [], "errors": []}
        assert json.loads(capsys.readouterr().out) == expected

    def test_the_contract_of_a_job(self, jobs: Registry, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-list", "--all", "--json"]) == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert [job["key"] for job in data] == [1, 2, 3, 4]
        for job in data:
            assert set(job) >= JOB_KEYS
        assert data[0]["started_at"] == "2023-11-14T22:13:20.000Z"
        assert (data[0]["state"], data[0]["exit_code"], data[0]["ended_at"]) == ("RUNNING", None, None)
        assert (data[2]["exit_code"], data[3]["signal"]) == (3, "KILL")

    @pytest.mark.parametrize(
        ("words", "keys"),
        [
            ([], [1, 2]),
            (["--all"], [1, 2, 3, 4]),
            (["--stopped"], [3, 4]),
            (["--all", "--tag", "train.py"], [1, 2]),
            (["--all", "--tag", "train.py", "--tag", "master"], [1]),
            (["--all", "--server", "b"], [2, 3]),
            (["--hidden"], [1, 2]),
        ],
    )
    def test_which(
        self, jobs: Registry, capsys: pytest.CaptureFixture[str], words: list[str], keys: list[int]
    ) -> None:
        assert run(["job-list", "--json", *words]) == 0
        assert [job["key"] for job in json.loads(capsys.readouterr().out)["data"]] == keys

    def test_for_people(self, jobs: Registry, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-list", "--all"]) == 0
        out = capsys.readouterr().out
        assert "unreachable for" in out
        assert "SIGKILL" in out
        assert "0/2" not in out
        assert "2 nodes" in out  # one row for the launch
        assert run(["job-list", "--all", "--nodes"]) == 0
        assert "0/2" in capsys.readouterr().out
        assert "\x1b" not in out
        assert out.count("torchrun train.py") == 1

    def test_a_row_that_cannot_be_read_is_said(
        self, jobs: Registry, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import sqlite3

        with sqlite3.connect(jobs.path) as connection:
            connection.execute("UPDATE jobs SET record = '{' WHERE key = 1")
        connection.close()
        assert run(["job-list", "--json"]) == 0
        captured = capsys.readouterr()
        assert [job["key"] for job in json.loads(captured.out)["data"]] == [2]
        assert "job 1" in captured.err


class TestJobShow:
    def test_of_ended_jobs_asks_nobody(self, jobs: Registry, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-show", "3"]) == 0
        out = capsys.readouterr().out
        assert "FAILED: b: exited with 3" in out
        assert "\x1b[2J" not in out

    def test_json(self, jobs: Registry, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-show", "3", "--job", "4", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)["data"]
        assert [group["verdict"]["exit_code"] for group in shown] == [3, 137]
        assert set(shown[0]["jobs"][0]) >= JOB_KEYS

    def test_without_jobs(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for command in ("job-show", "job-tail", "job-wait"):
            assert run([command]) == 2
            assert "no jobs yet" in capsys.readouterr().err


class TestJobWait:
    def test_passes_the_exit_code_on(self, jobs: Registry, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-wait", "3"]) == 3
        assert "FAILED" in capsys.readouterr().err
        assert run(["job-wait", "4"]) == 137

    def test_a_tag_means_jobs_with_it_and_no_others(self, jobs: Registry) -> None:
        assert run(["job-wait", "--tag", "x"]) == 3

    def test_json(self, jobs: Registry, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-wait", "3", "--json"]) == 3
        captured = capsys.readouterr()
        assert json.loads(captured.out)["data"][0]["verdict"]["state"] == "FAILED"
        assert captured.err == ""


class TestJobKill:
    def test_nothing_to_stop(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-kill", "--server", "a", "--yes"]) in (0, 3)
        assert "nothing to stop" in capsys.readouterr().out

    def test_an_ended_job_is_no_failure(self, jobs: Registry, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["job-kill", "3"]) == 0
        assert run(["job-kill", "3", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["data"] == []

    @pytest.mark.parametrize(
        ("words", "left_over", "is_asked"), [(["5"], 0, True), (["--yes"], 2, True), (["--yes"], 0, False)]
    )
    def test_a_lost_job_may_have_processes_left(
        self,
        jobs: Registry,
        monkeypatch: pytest.MonkeyPatch,
        words: list[str],
        left_over: int,
        is_asked: bool,
    ) -> None:
        """Its reason says: rl job-kill ends them."""
        asked: list[Any] = []
        jobs.add([new_record(server="a", command="x", state=JobState.LOST, details={"left_over": left_over})])
        monkeypatch.setattr("remote_launch.operations.refresh.refresh", lambda *_: None)
        monkeypatch.setattr(
            "remote_launch.operations.kill.kill_jobs", lambda _, some, **__: asked.extend(some) or []
        )
        assert run(["job-kill", *words]) == 0
        assert (5 in [job.key for job in asked]) == is_asked

    def test_an_unknown_signal_is_a_usage_error(
        self, jobs: Registry, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["job-kill", "1", "--signal", "FOO"]) == 2
        assert "TERM" in capsys.readouterr().err


class TestInit:
    def test_without_servers_and_without_a_terminal_says_what_to_give(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.stdin", io.StringIO())
        assert run(["init"]) == 2
        assert "--local N" in capsys.readouterr().err
        assert not (tmp_path / ".remote").exists()

    def test_json(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run(["init", "--local", "2", "--name", "p", "--json"]) == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert data["servers"] == ["local-1", "local-2"]
        assert run(["servers", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["data"]
        assert [row["name"] for row in rows] == ["local-1", "local-2"]
        assert run(["init", "--local", "2"]) == 1


class TestDryRuns:
    def test_prepare_asks_nobody(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (project / "requirements.txt").write_text("numpy\n")
        assert run(["prepare", "--dry-run", "--json"]) == 0
        servers = json.loads(capsys.readouterr().out)["data"]["servers"]
        steps = ["rsync", "create environment (venv)", "install packages (pip)"]
        assert {name: [row["step"] for row in rows] for name, rows in servers.items()} == {
            "a": steps,
            "b": steps,
        }
        for command in ("prepare", "setup", "update-packages", "rsync"):
            assert run([command, "--dry-run"]) == 0
            assert capsys.readouterr().out

    def test_rsync_lists_the_files(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["rsync", "--dry-run", "--json"]) == 0
        data = json.loads(capsys.readouterr().out)["data"]
        assert (data["paths"], data["servers"]) == (["train.py"], ["a", "b"])
