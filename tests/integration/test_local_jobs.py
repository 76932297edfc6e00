"""The whole path over ``connection: local``: the installed ``rl``, two servers that are this machine."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl, rl_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A job whose grandchild has left the session and the process group, as torchrun's workers do.
FAMILY = """\
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
print("zwölf €", "x" * 100, flush=True)
print("to stderr", file=sys.stderr, flush=True)
time.sleep(600)
"""


class Project:
    """A project with the servers ``a`` and ``b``; their folders are in the test's own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.root.mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        self.workdirs = {name: folder / f"server-{name}" for name in "ab"}
        # A home of its own: nothing of the user's is read or written, whatever a default says.
        self.rl = Rl(self.root, {"HOME": str(self.home), "RL_PROJECT": ""})
        self.write("train.py", "print('hello')\n")

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def init(self) -> None:
        self.rl("init", "--local", "1", "--name", "proj", "--manager", "none")
        servers = "".join(
            f"  {name}: {{connection: local, workdir: {json.dumps(str(path))}}}\n"
            for name, path in self.workdirs.items()
        )
        text = f"name: proj\nservers:\n{servers}environment: {{manager: none}}\n"
        (self.root / ".remote/configs.yaml").write_text(text)

    def jobs(self, *words: str) -> list[dict[str, Any]]:
        data = self.rl.json("job-list", "--all", "--rsync", *words)["data"]
        assert isinstance(data, list)
        return data


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    made.init()
    yield made
    made.rl("job-kill", "--yes", "--grace", "0.2", code=None)


def wait_for(what: Callable[[], Any], timeout_s: float = 60) -> Any:
    """Return the first true answer. Fails the test after the deadline."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = what()
        if answer:
            return answer
        time.sleep(0.05)
    pytest.fail("it did not come to pass in time")


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class TestWholePath:
    def test_init_rsync_run_list_tail_kill_show(self, project: Project) -> None:
        rl = project.rl
        project.write("family.py", FAMILY)
        rl("rsync")
        started = rl("job-run", "--server", "a", "--tag", "fam", "--", "python3", "family.py")
        assert started.stdout.startswith("job 1 on a: python3 family.py")
        [listed] = rl.json("job-list")["data"]
        assert (listed["key"], listed["server"], listed["state"], listed["tags"]) == (
            1,
            "a",
            "RUNNING",
            ["fam"],
        )

        def tail() -> str:
            return rl("job-tail", "1", "--no-follow").stdout

        wait_for(lambda: "to stderr" in tail())
        assert "zwölf €" in tail()
        child = int(tail().partition("child ")[2].split()[0])
        assert is_alive(child)
        killed = rl.json("job-kill", "--tag", "fam", "--grace", "5")["data"]
        assert [(one["outcome"], one["left_over"], one["job"]["state"]) for one in killed] == [
            ("killed", 0, "KILLED")
        ]
        assert not is_alive(child)
        assert rl("job-list").stdout.startswith("no running jobs")
        shown = rl("job-show", "1")
        assert "KILLED" in shown.stdout
        assert "python3 family.py" in shown.stdout
        assert rl("job-wait", "1", code=128 + signal.SIGTERM).stdout == ""

    @pytest.mark.parametrize(
        ("command", "code", "state"),
        [("exit 0", 0, "SUCCEEDED"), ("exit 37", 37, "FAILED"), ("kill -KILL $$", 137, "FAILED")],
    )
    def test_the_exit_code_is_the_jobs_own(
        self, project: Project, command: str, code: int, state: str
    ) -> None:
        rl = project.rl
        rl("rsync")
        rl("job-run", "--server", "b", "--cmd", f"echo begun; {command}")
        rl("job-wait", code=code)
        [job] = project.jobs()
        assert job["state"] == state
        assert job["ended_at"] >= job["started_at"]
        assert (project.root / f".remote/jobs/{job['job_id']}/job.out").read_text() == "begun\n"
        followed = rl("job-tail", "1", code=code)
        assert followed.stdout == "begun\n"

    def test_several_are_waited_for_and_one_says_nothing_of_the_others(self, project: Project) -> None:
        """The first one's time is not given to each: they would add up."""
        rl = project.rl
        rl("rsync")
        rl("job-run", "--server", "a", "--", "sleep", "600")
        rl("job-run", "--server", "b", "--cmd", "exit 37")
        rl("job-run", "--server", "a", "--", "sleep", "600")
        rl("job-wait", "2", code=37)
        done = rl("job-wait", "1", "2", "3", "--timeout", "0.5", code=124)
        assert "job 1 not ended after 0.5 s" in done.stderr
        refused = rl("job-tail", "1", "2", code=2).stderr
        assert "one job or launch is shown at a time, and 2 are named" in refused
        assert "job 2: FAILED" in done.stderr
        assert "job 3 not ended after 0.5 s" in done.stderr
        told = rl.json("job-wait", "1", "2", "--timeout", "0", code=124)
        assert (told["status"], [one["verdict"]["exit_code"] for one in told["data"]]) == ("partial", [37])
        assert [error["type"] for error in told["errors"]] == ["JobStateError"]

    def test_who_follows_is_told_the_end_though_the_registry_was_removed(self, project: Project) -> None:
        rl = project.rl
        rl("rsync")
        rl("job-run", "--server", "a", "--cmd", "echo up; until [ -e go ]; do sleep 0.05; done; exit 37")
        tail = subprocess.Popen(
            [rl_path(), "job-tail"],
            cwd=project.root,
            env=rl.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with tail:
            try:
                assert tail.stdout is not None
                assert tail.stdout.readline() == "up\n"
                (project.root / ".remote/jobs.sqlite3").unlink()
                (project.workdirs["a"] / "go").touch()
                said = tail.communicate(timeout=60)[1]
            finally:
                tail.kill()
        assert (tail.returncode, "job 1: FAILED" in said) == (37, True), said

    def test_following_shows_every_line_to_the_end(self, project: Project) -> None:
        rl = project.rl
        rl("rsync")
        rl(
            "job-run",
            "--server",
            "a",
            "--cmd",
            "for i in $(seq 2000); do echo line $i; done; sleep 0.3; printf last",
        )
        done = rl("job-tail", "--lines", "-1")
        assert done.stdout.splitlines() == [*(f"line {n}" for n in range(1, 2001)), "last"]

    def test_the_registry_can_be_rebuilt_from_the_servers(self, project: Project) -> None:
        rl = project.rl
        rl("rsync")
        for name in "ab":
            rl("job-run", "--server", name, "--tag", f"on-{name}", "--cmd", f"echo {name}")
            rl("job-wait")
        before = project.jobs()
        (project.root / ".remote/jobs.sqlite3").unlink()
        after = project.jobs()
        for key in ("job_id", "server", "state", "exit_code", "tags", "command", "started_at"):
            assert {str(job[key]) for job in after} == {str(job[key]) for job in before}

    def test_a_job_finds_the_projects_modules_and_its_variables(self, project: Project) -> None:
        project.write("src/inside.py", "NAME = 'from src'\n")
        project.write(
            "use.py", "import os, inside; print(inside.NAME, os.environ['LR'], os.environ['API_KEY'])\n"
        )
        rl = project.rl
        rl("rsync")
        rl(
            "job-run",
            "--server",
            "a",
            "--env",
            "LR",
            "0.1",
            "--env",
            "API_KEY=hunter2",
            "--",
            "python3",
            "use.py",
        )
        rl("job-wait")
        assert rl("job-tail", "1").stdout == "from src 0.1 hunter2\n"
        everything = [
            path for path in project.workdirs["a"].rglob("*") if path.is_file() and path.name != "job.out"
        ]
        records = [
            path
            for path in (project.root / ".remote").rglob("*")
            if path.is_file() and path.name != "job.out"
        ]
        for path in (*everything, *records):
            assert b"hunter2" not in path.read_bytes(), path
        with sqlite3.connect(project.root / ".remote/jobs.sqlite3") as connection:
            assert "hunter2" not in str(connection.execute("SELECT * FROM jobs").fetchall())
        connection.close()


class TestRun:
    def test_passes_input_output_and_exit_code_on(self, project: Project) -> None:
        project.rl("rsync")
        done = project.rl(
            "run",
            "--server",
            "a",
            "--",
            "sh",
            "-c",
            "cat; pwd; echo err >&2; exit 5",
            code=5,
            stdin="piped\n",
        )
        assert done.stdout == f"piped\n{project.workdirs['a']}\n"
        assert done.stderr == "err\n"

    def test_words_arrive_as_typed(self, project: Project) -> None:
        words = ["a b", "$HOME", "*", "'", '"', "", "--", "-x", "zwölf", "~/x", "a\nb"]
        code = "import sys; print(sys.argv[1:])"
        done = project.rl("run", "--server", "a", "--", "python3", "-c", code, *words)
        assert done.stdout.strip() == repr(words)

    def test_a_signal_is_128_and_its_number(self, project: Project) -> None:
        project.rl("run", "--server", "a", "--cmd", "kill -TERM $$", code=143)

    def test_a_timeout_ends_it(self, project: Project) -> None:
        done = project.rl("run", "--server", "a", "--timeout", "0.5", "--", "sleep", "600", code=None)
        assert done.returncode not in (0, None)
        assert "0.5" in done.stderr


class TestSync:
    def files(self, folder: Path) -> set[str]:
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        return {name for name in found if not name.startswith((".rl/", ".jobs/"))}

    def test_sends_what_is_not_excluded_to_all_servers(self, project: Project) -> None:
        project.write("pkg/model.py", "x")
        project.write("name with spaces\tand tab.txt", "x")
        project.write(".git/config", "x")
        project.write("secret.key", "x")
        (project.root / ".remote/exclude.txt").write_text("*.key\n")
        envelope = project.rl.json("rsync")
        assert envelope["status"] == "ok"
        assert [result["server"] for result in envelope["data"]] == ["a", "b"]
        for workdir in project.workdirs.values():
            assert self.files(workdir) == {"train.py", "pkg/model.py", "name with spaces\tand tab.txt"}
        again = project.rl.json("rsync")["data"]
        assert [(result["files_sent"], result["deleted"]) for result in again] == [(0, 0), (0, 0)]

    def test_deletes_what_it_sent_and_is_gone_and_nothing_else(self, project: Project) -> None:
        project.write("old/module.py", "x")
        project.write("data/input.csv", "x")
        project.rl("rsync")
        workdir = project.workdirs["a"]
        (workdir / "old/checkpoint.pt").write_text("trained for a week")
        (workdir / "data/output.csv").write_text("x")
        (workdir / "run").mkdir()
        (workdir / "run/log").write_text("x")
        (project.root / "old/module.py").unlink()
        (project.root / "data/input.csv").unlink()
        result = project.rl.json("rsync")["data"]
        assert [one["deleted"] for one in result] == [2, 2]
        assert self.files(workdir) == {"train.py", "old/checkpoint.pt", "data/output.csv", "run/log"}
        assert not (project.workdirs["b"] / "old").exists()

    def test_a_job_that_runs_keeps_its_folder_through_a_sync(self, project: Project) -> None:
        rl = project.rl
        rl("rsync")
        rl("job-run", "--server", "a", "--cmd", "sleep 600")
        project.write("new.py", "x")
        rl("rsync")
        [job] = project.jobs()
        assert job["state"] == "RUNNING"

    def test_a_foreign_folder_is_refused_until_it_is_adopted(self, project: Project) -> None:
        workdir = project.workdirs["a"]
        workdir.mkdir()
        (workdir / "thesis.tex").write_text("years of work")
        (workdir / "train.py").write_text("theirs")
        envelope = project.rl.json("rsync", code=3)
        assert envelope["status"] == "partial"
        assert [error["server"] for error in envelope["errors"]] == ["a"]
        assert "rl rsync --adopt" in json.dumps(envelope["errors"])
        assert (workdir / "train.py").read_text() == "theirs"
        assert self.files(project.workdirs["b"]) == {"train.py"}
        project.rl("rsync", "--adopt")
        assert (workdir / "train.py").read_text() == "print('hello')\n"
        assert (workdir / "thesis.tex").read_text() == "years of work"

    def test_the_project_itself_is_never_a_workdir(self, project: Project) -> None:
        for folder in (project.root, project.root.parent, project.root / "sub"):
            text = f"name: proj\nservers:\n  a: {{connection: local, workdir: {json.dumps(str(folder))}}}\n"
            (project.root / ".remote/configs.yaml").write_text(text)
            done = project.rl("rsync", code=1)
            assert "error" in done.stderr or "✗" in done.stderr
            assert (project.root / "train.py").read_text() == "print('hello')\n"

    def test_another_project_of_the_same_servers_is_refused(self, project: Project, tmp_path: Path) -> None:
        project.rl("rsync")
        text = (project.root / ".remote/configs.yaml").read_text().replace("name: proj", "name: other")
        (project.root / ".remote/configs.yaml").write_text(text)
        (project.root / ".remote/project_id").unlink()
        done = project.rl("rsync", code=1)
        assert "proj" in done.stderr


def test_logs_of_a_job_that_said_nothing_come_back_empty(project: Project) -> None:
    project.rl("job-run", "--server", "a", "--", "true")
    project.rl("job-wait")
    [job] = project.jobs()
    assert (project.root / ".remote/jobs" / job["job_id"] / "job.out").read_bytes() == b""


class TestPrepare:
    def test_an_interpreter_that_is_there(self, project: Project) -> None:
        envelope = project.rl.json("prepare")
        steps = [[step["step"] for step in result["steps"]] for result in envelope["data"]]
        assert steps == [["rsync", "check python"]] * 2

    def test_a_failed_step_names_server_step_and_hint(self, project: Project) -> None:
        path = project.root / ".remote/configs.yaml"
        path.write_text(
            path.read_text().replace("{manager: none}", "{manager: none, python: /nowhere/python}")
        )
        envelope = project.rl.json("prepare", code=1)
        assert envelope["status"] == "error"
        assert {error["type"] for error in envelope["errors"]} == {"PrepareError"}
        assert {error["step"] for error in envelope["errors"]} == {"check python"}
        assert all(error["hint"] for error in envelope["errors"])


class TestJson:
    """stdout is one JSON object with the same keys, whatever the command and whatever went wrong."""

    def test_everywhere(self, project: Project) -> None:
        rl = project.rl
        commands = [
            ["rsync"],
            ["servers"],
            ["servers", "--check"],
            ["prepare", "--dry-run"],
            ["setup"],
            ["update-packages"],
            ["prepare"],
            ["job-run", "--server", "a", "--cmd", "exit 0"],
            ["job-wait"],
            ["job-list", "--all", "--rsync"],
            ["job-show"],
            ["job-rsync"],
            ["job-kill", "--yes"],
            ["disconnect"],
        ]
        for command in commands:
            done = rl(command[0], "--json", *command[1:])
            envelope = json.loads(done.stdout)
            keys = [key for key in envelope if key != "warnings"]  # where there may be some
            assert keys == ["version", "command", "status", "data", "errors"], command
            assert (envelope["command"], envelope["status"]) == (command[0], "ok")
        for command in (["job-show", "99"], ["job-wait", "99"], ["rsync", "--server", "zzz"]):
            envelope = rl.json(*command, code=2)
            assert envelope["status"] == "error"
            assert envelope["errors"][0]["message"]

    def test_check_tells_what_a_server_has(self, project: Project) -> None:
        [first, _] = project.rl.json("servers", "--check")["data"]
        assert first["reachable"] is True
        assert first["facts"]["cpus"] >= 1
        assert first["facts"]["python_version"].startswith("3.")


class TestInterrupt:
    """Ctrl-C, as a terminal sends it."""

    @pytest.fixture
    def begin(self, project: Project) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], str]]]:
        """Start rl; return it, and what it had printed once ``until`` was there."""
        started = []

        def start(*words: str, until: str) -> tuple[subprocess.Popen[bytes], str]:
            pipe = subprocess.PIPE
            command = [rl_path(), *words]
            process = subprocess.Popen(
                command,
                cwd=project.root,
                env=project.rl.env,
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
            )
            started.append(process)
            assert process.stdout is not None
            printed = ""
            while until not in printed:
                chunk = os.read(process.stdout.fileno(), 4096)
                assert chunk, process.communicate()[1].decode()
                printed += chunk.decode()
            return process, printed

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def test_a_tail_leaves_the_job_running(self, project: Project, begin: Any) -> None:
        project.rl("rsync")
        project.rl("job-run", "--server", "a", "--cmd", "echo begun; sleep 600")
        process, _ = begin("job-tail", until="begun")
        process.send_signal(signal.SIGINT)
        assert "the jobs go on" in process.communicate(timeout=60)[1].decode()
        assert process.returncode == 130
        [job] = project.jobs()
        assert job["state"] == "RUNNING"

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_run_is_ended_with_its_processes(self, project: Project, begin: Any, number: int) -> None:
        process, printed = begin("run", "--server", "a", "--cmd", "sleep 600 & echo $!.; wait", until=".")
        child = int(printed.strip().rstrip("."))
        assert is_alive(child)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == 130
        wait_for(lambda: not is_alive(child))

    def test_a_job_outlives_the_rl_that_started_it(self, project: Project, begin: Any) -> None:
        project.rl("rsync")
        project.rl("job-run", "--server", "a", "--cmd", "echo begun; sleep 600")
        process, _ = begin("job-tail", until="begun")
        process.kill()
        process.wait()
        [job] = project.jobs()
        assert job["state"] == "RUNNING"


def test_nothing_is_written_outside_the_project_and_the_workdirs(project: Project) -> None:
    rl = project.rl
    rl("prepare")
    rl("job-run", "--server", "a", "--cmd", "true")
    rl("job-wait")
    assert sorted(os.listdir(project.home)) == []
