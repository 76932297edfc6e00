"""Making an environment by a recipe: what is done is left alone, what is half done is done anew, and nothing
is left behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from remote_launch.transport.listing import list_files, stats_of
from tests.support.served import PYTHON, Served, until

CLAIM = {"project_id": "p1", "project": "mine", "create": True}
# What makes a python environment look like one: enough for the program, which imports nothing of it.
MAKE = 'mkdir -p "$1/bin" && ln -s "$PYTHON" "$1/bin/python" && echo "made $1"'


class Recipe:
    """A recipe of one environment in a workdir, and its packages; the scripts count their runs."""

    def __init__(self, served: Served, root: Path) -> None:
        self.served, self.root = served, root
        self.prefix = root / ".rl" / "env"
        self.environment = {
            "fingerprint": "e1", "mark": str(self.prefix / ".rl-environment"), "empties": str(self.prefix),
            "steps": [self.step("create", f'echo run >> "{root}/created"; {MAKE}', str(self.prefix))],
        }
        self.packages: dict[str, Any] = {
            "fingerprint": "k1", "mark": str(self.prefix / ".rl-packages"), "empties": None,
            "steps": [self.step("install", f'echo run >> "{root}/installed"; echo got six')],
        }

    def step(self, name: str, script: str, *args: str) -> dict[str, Any]:
        return {"name": name, "script": script, "args": list(args), "env": {"PYTHON": sys.executable}}

    def request(self, **more: Any) -> dict[str, Any]:
        recipe = {
            "python": str(self.prefix / "bin" / "python"), "prefix": str(self.prefix),
            "lock": f"{self.prefix}.rl-lock", "parts": [self.environment, self.packages], "programs": [],
        }
        return {"workdir": str(self.root), "claim": CLAIM, "recipe": recipe, "who": "ann@laptop", **more}

    def check(self, **more: Any) -> dict[str, Any]:
        return self.served.call("prepare", op="check", **self.request(**more))

    def run(self, **more: Any) -> list[dict[str, Any]]:
        done = self.start(**more)
        out, _ = done.communicate(timeout=60)
        return [json.loads(line) for line in out.splitlines()]

    def start(self, **more: Any) -> subprocess.Popen[bytes]:
        started = self.served.popen("prepare")
        assert started.stdin is not None
        started.stdin.write(json.dumps({"op": "run", **self.request(**more)}).encode())
        started.stdin.close()
        started.stdin = None
        return started

    def count(self, name: str) -> int:
        path = self.root / name
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def recipe(served: Served, tmp_path: Path) -> Recipe:
    made = Recipe(served, tmp_path / "proj")
    assert made.check()["parts"] == [False, False]
    return made


def test_both_parts_are_made_once(recipe: Recipe) -> None:
    frames = recipe.run()
    assert [frame["done"] for frame in frames if "done" in frame] == ["create", "install"]
    assert {"out": "got six\n"} in frames
    assert "end" in frames[-1]
    assert recipe.check()["parts"] == [True, True]
    again = recipe.run()
    assert [frame["same"] for frame in again if "same" in frame] == ["create", "install"]
    assert (recipe.count("created"), recipe.count("installed")) == (1, 1)


def test_changed_packages_leave_the_environment(recipe: Recipe) -> None:
    recipe.run()
    recipe.packages["fingerprint"] = "k2"
    assert recipe.check()["parts"] == [True, False]
    recipe.run()
    assert (recipe.count("created"), recipe.count("installed")) == (1, 2)


def test_a_changed_environment_is_emptied_and_its_packages_come_again(recipe: Recipe) -> None:
    recipe.run()
    (recipe.prefix / "old.txt").touch()
    recipe.environment["fingerprint"] = "e2"
    recipe.run()
    assert (recipe.count("created"), recipe.count("installed")) == (2, 2)
    assert not (recipe.prefix / "old.txt").exists()


def test_force_does_everything_anew(recipe: Recipe) -> None:
    recipe.run()
    recipe.run(force=True)
    assert (recipe.count("created"), recipe.count("installed")) == (2, 2)


def test_an_environment_whose_python_is_gone_is_not_taken_for_done(recipe: Recipe) -> None:
    recipe.run()
    (recipe.prefix / "bin" / "python").unlink()
    assert recipe.check()["parts"] == [False, False]


def test_one_made_on_another_kind_of_machine_is_not_taken_for_done(recipe: Recipe) -> None:
    recipe.run()
    mark = Path(recipe.environment["mark"])
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "platform": "Linux riscv64"}))
    assert recipe.check()["parts"] == [False, True]


@pytest.mark.parametrize("rubbish", [b"", b"[]", b"{", b"\xff" * 100])
def test_a_mark_that_is_rubbish_is_no_mark(recipe: Recipe, rubbish: bytes) -> None:
    recipe.run()
    Path(recipe.packages["mark"]).write_bytes(rubbish)
    assert recipe.check()["parts"] == [True, False]


def test_a_step_that_fails_is_told_and_begun_anew(recipe: Recipe) -> None:
    works = recipe.packages["steps"]
    recipe.packages["steps"] = [recipe.step("install", "echo no such thing; exit 3")]
    last = recipe.run()[-1]
    assert (last["failed"], last["exit_code"], last["signal"]) == ("install", 3, None)
    assert last["left"] > 0
    assert recipe.check()["parts"] == [True, False]
    recipe.packages["steps"] = works
    assert "end" in recipe.run()[-1]
    assert recipe.count("created") == 1


def test_a_step_that_a_signal_ends_is_told_by_its_name(recipe: Recipe) -> None:
    recipe.packages["steps"] = [recipe.step("install", "kill -KILL $$")]
    last = recipe.run()[-1]
    assert (last["failed"], last["exit_code"], last["signal"]) == ("install", None, "KILL")


def test_a_step_whose_connection_broke_off_is_tried_again(recipe: Recipe) -> None:
    tries = f"{recipe.root}/tries"
    script = f'echo run >> "{tries}"; echo ProtocolError; [ $(wc -l < "{tries}") = 2 ]'
    recipe.packages["steps"] = [{**recipe.step("install", script), "retry_on": ["ProtocolError"]}]
    frames = recipe.run()
    assert "end" in frames[-1]
    assert recipe.count("tries") == 2
    recipe.packages["steps"] = [recipe.step("install", f'echo run >> "{recipe.root}/once"; exit 1')]
    recipe.packages["fingerprint"] = "k2"
    assert "failed" in recipe.run()[-1]
    assert recipe.count("once") == 1, "other failures are not"


def test_a_step_whose_connection_always_breaks_off_fails(recipe: Recipe) -> None:
    script = f'echo run >> "{recipe.root}/tries"; echo ProtocolError; exit 2'
    recipe.packages["steps"] = [{**recipe.step("install", script), "retry_on": ["ProtocolError"]}]
    assert recipe.run()[-1]["exit_code"] == 2
    assert recipe.count("tries") == 3


def test_a_download_that_pip_took_for_whole_is_tried_again(recipe: Recipe) -> None:
    """An old pip doesn't see that a file was cut off: its checksum is not the one that its index names."""
    tries, right, wrong = f"{recipe.root}/tries", "a" * 64, "b" * 64
    pip = "six from https://host/six.whl#sha256=%s (from -r requirements.txt):\n Expected sha256 %s\n Got %s"
    recipe.packages["steps"] = [
        recipe.step("install", f'echo run >> "{tries}"; echo "$1"; [ $(wc -l < "{tries}") = 2 ]', text)
        for text in [pip % (right, right, wrong)]
    ]
    recipe.packages["steps"][0]["retry_on"] = ["ProtocolError"]
    assert "end" in recipe.run()[-1]
    assert recipe.count("tries") == 2
    other = f'echo run >> "{recipe.root}/once"; echo "$1"; exit 1'
    recipe.packages["steps"] = [recipe.step("install", other, pip % (right, wrong, right))]
    recipe.packages["steps"][0]["retry_on"] = ["ProtocolError"]
    recipe.packages["fingerprint"] = "k2"
    assert "failed" in recipe.run()[-1]
    assert recipe.count("once") == 1, "the file is whole, and another one than the requirements name"


def test_the_removal_of_an_old_environment_is_told(recipe: Recipe) -> None:
    assert not [frame for frame in recipe.run() if "removing" in frame.get("out", "")]
    again = recipe.run(force=True)
    assert again.index({"out": "removing the old environment\n"}) < again.index({"step": "install"})
    assert not Path(f"{recipe.prefix}.rl-old").exists()


class TestTheOldEnvironment:
    """It is there again when the new one can't be made: a python that was mistyped costs nothing."""

    @pytest.fixture
    def old(self, recipe: Recipe) -> Recipe:
        recipe.run()
        (recipe.prefix / "old.txt").touch()
        recipe.environment["fingerprint"] = "e2"
        return recipe

    def is_back(self, recipe: Recipe) -> bool:
        assert (recipe.prefix / "old.txt").exists()
        assert sorted(path.name for path in recipe.prefix.parent.glob("env*")) == ["env"]
        recipe.environment["fingerprint"] = "e1"
        return recipe.check()["parts"] == [True, True]

    def test_comes_back_when_a_step_fails(self, old: Recipe) -> None:
        script = "echo no python 9.9; touch $1/new; exit 3"
        old.environment["steps"] = [old.step("create", script, str(old.prefix))]
        assert old.run()[-1]["failed"] == "create"
        assert not (old.prefix / "new").exists()
        assert self.is_back(old)

    def test_comes_back_when_the_prepare_is_stopped(self, old: Recipe) -> None:
        old.environment["steps"] = [old.step("create", f'touch "{old.root}/begun"; exec sleep 600')]
        program = old.start()
        until((old.root / "begun").exists, "the step runs")
        program.terminate()
        program.communicate(timeout=60)
        assert self.is_back(old)

    def test_comes_back_at_the_next_prepare_after_a_kill(self, old: Recipe) -> None:
        made = old.environment["steps"]
        old.environment["steps"] = [old.step("create", f'touch "{old.root}/begun"; exec sleep 600')]
        program = old.start()
        until((old.root / "begun").exists, "the step runs")
        program.kill()
        program.communicate(timeout=60)
        assert not (old.prefix / "old.txt").exists()
        old.environment.update(fingerprint="e1", steps=made)
        assert [frame["same"] for frame in old.run() if "same" in frame] == ["create", "install"]
        assert self.is_back(old)

    def test_does_not_come_back_once_another_prepare_has_taken_over(self, old: Recipe) -> None:
        go_on, lock = old.root / "go-on", Path(f"{old.prefix}.rl-lock")
        wait = f'touch "{old.root}/begun"; while [ ! -e "{go_on}" ]; do sleep 0.05; done'
        old.environment["steps"] = [old.step("create", wait)]
        program = old.start()
        until((old.root / "begun").exists, "the step runs")
        anothers = old.root / "lock"
        anothers.write_text(json.dumps({**json.loads(lock.read_text()), "token": "another's"}))
        anothers.replace(lock)
        go_on.touch()
        program.communicate(timeout=60)
        assert not (old.prefix / "old.txt").exists()
        assert (Path(f"{old.prefix}.rl-old") / "old.txt").exists(), "it is the other one's to settle"

    def test_goes_where_a_kill_left_it_beside_the_new_one(self, recipe: Recipe) -> None:
        recipe.run()
        left = Path(f"{recipe.prefix}.rl-old")
        left.mkdir()
        (left / "old.txt").touch()
        recipe.run()
        assert not left.exists()
        assert recipe.check()["parts"] == [True, True]

    def test_in_a_links_place_is_emptied_as_before(self, recipe: Recipe, tmp_path: Path) -> None:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        recipe.prefix.parent.mkdir(exist_ok=True)
        recipe.prefix.symlink_to(scratch)
        assert "end" in recipe.run()[-1]
        recipe.environment["fingerprint"] = "e2"
        assert "end" in recipe.run()[-1]
        assert recipe.prefix.is_symlink()
        assert recipe.check()["parts"] == [True, True]


@pytest.mark.parametrize("force", [True, False])
def test_one_that_a_job_may_run_with_is_not_emptied(recipe: Recipe, force: bool) -> None:
    recipe.run()
    recipe.environment["fingerprint"] = "e1" if force else "e2"
    own = Served(recipe.root)
    job_id = own.start("sleep 600")
    try:
        error = recipe.run(force=force, jobs_folder=".jobs")[-1]["error"]
        assert "1 job still runs" in error["message"]
        assert (recipe.prefix / "bin" / "python").exists()
        assert recipe.check()["parts"] == [force, True], "and it is what it was"
    finally:
        own.end_all()
    until(lambda: (own.probe(job_id)["state"], own.probe(job_id)["left_over"]) == ("LOST", 0), "it is gone")
    assert "end" in recipe.run(force=force, jobs_folder=".jobs")[-1]


def test_a_folder_of_somebodys_is_not_emptied(recipe: Recipe, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").touch()
    recipe.environment["empties"] = str(theirs)
    last = recipe.run()[-1]
    assert "not made by rl" in last["error"]["message"]
    assert (theirs / "thesis.tex").exists()


def test_a_link_in_an_environments_place_is_not_followed(recipe: Recipe, tmp_path: Path) -> None:
    theirs = tmp_path / "miniconda3"
    theirs.mkdir()
    (theirs / "thesis.tex").touch()
    recipe.prefix.symlink_to(theirs)
    assert "not made by rl" in recipe.run()[-1]["error"]["message"]
    assert (theirs / "thesis.tex").exists()


@pytest.mark.parametrize("place", [".rl/bin", ".rl/cache", ".rl", "."])
def test_what_rl_keeps_beside_environments_is_none(recipe: Recipe, place: str) -> None:
    program = recipe.root / ".rl" / "bin" / "rl.pyz"
    program.parent.mkdir(exist_ok=True)
    program.touch()
    recipe.environment["empties"] = str(recipe.root / place)
    assert "error" in recipe.run()[-1]
    assert program.exists()
    assert recipe.count("created") == 0


def test_one_that_was_killed_without_its_mark_is_still_rls_own(recipe: Recipe, tmp_path: Path) -> None:
    prefix = tmp_path / "scratch" / "env"
    recipe.environment["empties"] = str(prefix)
    step = recipe.step("create", 'rm -f "$1/.rl-env"; touch "$1/half"; kill -9 $$', str(prefix))
    made, recipe.environment["steps"] = recipe.environment["steps"], [step]
    assert recipe.run()[-1]["signal"] == "KILL"
    recipe.environment["steps"] = made
    assert "end" in recipe.run()[-1]
    assert not (prefix / "half").exists()
    assert [path.name for path in prefix.parent.iterdir()] == ["env"]


def test_who_lost_the_lock_empties_nothing_and_marks_nothing(recipe: Recipe) -> None:
    go_on = recipe.root / "go-on"
    script = f'echo begun; while [ ! -e "{go_on}" ]; do sleep 0.05; done'
    recipe.environment["steps"].append(recipe.step("wait", script))
    program = recipe.start()
    lock = Path(f"{recipe.prefix}.rl-lock")
    until(lambda: recipe.count("created"), "the step runs")
    anothers = recipe.root / "lock"
    anothers.write_text(json.dumps({**json.loads(lock.read_text()), "token": "another's"}))
    anothers.replace(lock)
    go_on.touch()
    out, _ = program.communicate(timeout=60)
    assert "took over" in json.loads(out.splitlines()[-1])["error"]["message"]
    assert recipe.check()["parts"] == [False, False]
    assert recipe.count("installed") == 0
    assert lock.exists(), "another's lock stays"


def test_an_environment_whose_python_became_another_is_made_anew(recipe: Recipe) -> None:
    recipe.run()
    python = recipe.prefix / "bin" / "python"
    other = recipe.root / "python3.99"
    other.symlink_to("/bin/sh")
    python.unlink()
    python.symlink_to(other)
    assert recipe.check()["parts"] == [False, False]


def test_a_folder_that_its_packages_have_closed_is_emptied(recipe: Recipe) -> None:
    closed = recipe.prefix / "closed"
    closed.mkdir(parents=True)
    (closed / "file").touch()
    closed.chmod(0o500)
    assert "end" in recipe.run()[-1]
    assert not closed.exists()


def test_a_step_that_leaves_something_running_has_ended(recipe: Recipe) -> None:
    script = f'sleep 600 & echo $! > "{recipe.root}/pid"; echo started'
    recipe.packages["steps"] = [recipe.step("install", script)]
    assert "end" in recipe.run()[-1]
    assert not alive(int((recipe.root / "pid").read_text()))


def test_whether_a_server_can_make_a_venv_is_known(recipe: Recipe) -> None:
    imported = subprocess.run([PYTHON, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL)
    assert recipe.check()["machine"]["venv"] is (imported.returncode == 0)


def test_packages_alone_need_an_environment(recipe: Recipe) -> None:
    recipe.environment["only_check"] = True
    assert "no environment yet" in recipe.run()[-1]["error"]["message"]
    assert recipe.count("created") == 0


def test_files_of_the_recipe_are_written_below_dot_rl_alone(recipe: Recipe) -> None:
    recipe.run(files={"requirements.txt": "six\n"})
    assert (recipe.root / ".rl" / "requirements.txt").read_text() == "six\n"
    last = recipe.run(files={"../../evil": "x"})[-1]
    assert "not a path inside" in last["error"]["message"]


def test_a_program_that_is_needed_and_not_there_is_named(recipe: Recipe, tmp_path: Path) -> None:
    recipe.environment["steps"][0]["needs"] = ["uv"]
    recipe.served.env |= {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    last = recipe.run()[-1]
    assert "there is no uv on the server" in last["error"]["message"]


class TestInterrupted:
    """Nothing runs on, and the next prepare waits for nobody who is gone."""

    @pytest.fixture
    def slow(self, recipe: Recipe) -> Recipe:
        deaf = f'trap "" TERM; echo $$ > "{recipe.root}/pid"; exec sleep 600'
        script = f"sh -c {shlex.quote(deaf)} & echo begun; wait"
        recipe.packages["steps"] = [recipe.step("install", script)]
        return recipe

    def grandchild(self, recipe: Recipe) -> int:
        path = recipe.root / "pid"
        return int(until(lambda: path.exists() and path.read_text().strip(), "the step runs"))

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_by_a_signal(self, slow: Recipe, number: int) -> None:
        program = slow.start()
        pid = self.grandchild(slow)
        program.send_signal(number)
        program.communicate(timeout=60)
        until(lambda: not alive(pid), "what the step started is gone")
        assert not (slow.prefix.parent / "env.rl-lock").exists()
        assert slow.check()["parts"] == [True, False]

    def test_when_nobody_reads_any_more(self, slow: Recipe) -> None:
        program = slow.start()
        pid = self.grandchild(slow)
        assert program.stdout is not None
        program.stdout.close()
        program.stdout = None
        until(lambda: not alive(pid), "what the step started is gone")
        program.communicate(timeout=60)

    def test_killed_outright_its_lock_is_stale_at_once(self, slow: Recipe) -> None:
        program = slow.start()
        pid = self.grandchild(slow)
        program.kill()
        program.communicate(timeout=60)
        assert alive(pid)
        slow.packages["steps"] = [slow.step("install", "echo done")]
        assert "end" in slow.run()[-1]
        assert not alive(pid), "what the killed one left running would have gone on installing"

    def test_a_second_one_waits_and_says_for_whom(self, slow: Recipe) -> None:
        first = slow.start()
        self.grandchild(slow)
        second = slow.start(who="bob@desk")
        assert second.stdout is not None
        holder = json.loads(second.stdout.readline())["wait"]
        assert holder["who"] == "ann@laptop"
        for program in (first, second):
            program.send_signal(signal.SIGTERM)
            program.communicate(timeout=60)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestWhichFiles:
    """The one look at sizes, times and modes that spares an unchanged project its rsync."""

    def send(self, served: Served, project: Path, root: Path) -> dict[str, Any]:
        names = [file.path for file in list_files(project).files]
        served.call("workspace", op="check", workdir=str(root), **CLAIM)
        served.call("workspace", op="begin", workdir=str(root), files=names, digest="d")
        subprocess.run(["rsync", "-rlpt", f"{project}/", f"{root}/"], check=True)
        served.call("workspace", op="commit", workdir=str(root), digest="d")
        return {"digest": "d", "stats": stats_of(project, names)}

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        project = tmp_path / "laptop"
        (project / "sub").mkdir(parents=True)
        (project / "train.py").write_text("print(1)\n")
        (project / "sub" / "zwölf €.txt").write_text("12")
        (project / "link").symlink_to("./train.py")
        (project / "run.sh").write_text("#!/bin/sh\n")
        (project / "run.sh").chmod(0o755)
        return project

    def same(self, recipe: Recipe, manifest: dict[str, Any]) -> bool:
        return bool(recipe.check(manifest=manifest)["files_same"])

    def test_what_was_sent_is_the_same(self, served: Served, recipe: Recipe, project: Path) -> None:
        assert self.same(recipe, self.send(served, project, recipe.root))

    @pytest.mark.parametrize("change", ["edit", "mode", "time", "link", "gone"])
    def test_a_change_on_either_side_is_seen(
        self, served: Served, recipe: Recipe, project: Path, change: str
    ) -> None:
        manifest = self.send(served, project, recipe.root)
        for root in (project, recipe.root):
            path = root / "train.py"
            before = path.stat()
            if change == "edit":
                path.write_text("print(12)\n")
                os.utime(path, (before.st_atime, before.st_mtime))
            elif change == "mode":
                path.chmod(0o700)
            elif change == "time":
                os.utime(path, (1, 1))
            elif change == "link":
                (root / "link").unlink()
                (root / "link").symlink_to("run.sh")
            else:
                path.unlink()
            if root == project:
                names = [file.path for file in list_files(project).files]
                assert stats_of(project, names) != manifest["stats"]
            else:
                assert not self.same(recipe, manifest)


def test_servers_of_one_home_see_each_other(recipe: Recipe, served: Served, tmp_path: Path) -> None:
    first = recipe.check(run="r1", server="a")
    second = recipe.check(run="r1", server="b")
    assert first["home"] == second["home"]
    assert (first["shared_with"], second["shared_with"]) == (None, "a")
    assert recipe.check(run="r2", server="b")["shared_with"] is None, "that was another run"
    assert Recipe(served, tmp_path / "elsewhere").check(run="r2", server="c")["home"] != first["home"]
