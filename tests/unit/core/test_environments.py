"""The steps that make an environment: as data, and run for real with a python and a uv of the tests' own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.environments import (
    Step,
    environment_path,
    environment_python,
    hint_for,
    package_steps,
    requirements_file,
    setup_steps,
)
from remote_launch.core.inventory import Environment, Server
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# Says what it was asked, and makes of "-m venv DIR" (or uv's "venv … DIR") a folder with a python in it.
FAKE = """#!/bin/sh
echo "$0 $*" >> "$FAKE_LOG"
[ -z "$FAKE_FAILS" ] || { echo "$FAKE_FAILS" >&2; exit 1; }
for last in "$@"; do :; done
case "$*" in
  *"pip install"*) ;;
  *venv*) mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


class Machine:
    """A workdir with a PATH of its own; runs steps as ``prepare`` does."""

    def __init__(self, tmp_path: Path) -> None:
        self.workdir = tmp_path / "work dir"
        self.bin = tmp_path / "bin"
        self.log = tmp_path / "log"
        for folder in (self.workdir, self.bin):
            folder.mkdir()
        self.add("python3")
        self.add("uv")
        self.log.write_text("")

    def add(self, name: str) -> Path:
        path = self.bin / name
        path.write_text(FAKE)
        path.chmod(0o755)
        return path

    def run(self, step: Step, **env: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "PATH": f"{self.bin}:{os.environ['PATH']}", "FAKE_LOG": str(self.log),
            "REAL_PYTHON": sys.executable,
            "UV": str(self.bin / "uv"), **env,
        }  # fmt: skip
        words = ["/bin/sh", "-c", step.script, "sh", *step.args]
        return subprocess.run(
            words, cwd=self.workdir, env=variables, capture_output=True, text=True, timeout=30
        )

    def asked(self) -> list[str]:
        """What the fakes were asked since the last time."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return [line.removeprefix(f"{self.bin}/") for line in lines]

    def server(self, **fields: Any) -> Server:
        return Server(**{"name": "s", "workdir": str(self.workdir), **fields})


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def only(steps: list[Step]) -> Step:
    assert len(steps) == 1
    return steps[0]


class TestPaths:
    server = Server(name="s", workdir="~/proj", python="/opt/py/bin/python3")

    def test_the_environment_lies_in_the_workdir(self) -> None:
        environment = Environment(manager="uv")
        assert environment_python(self.server, environment) == "~/proj/.rl/env/bin/python"
        assert environment_path(self.server, environment) == ("~/proj/.rl/env/bin",)

    def test_or_where_the_inventory_says(self) -> None:
        assert environment_python(self.server, Environment(prefix="/envs/x")) == "/envs/x/bin/python"

    def test_none_uses_an_interpreter_that_is_there(self) -> None:
        none = Environment(manager="none")
        assert environment_python(self.server, none) == "/opt/py/bin/python3"
        assert environment_path(self.server, none) == ("/opt/py/bin",)
        named = Environment(manager="none", python="/conda/bin/python")
        assert environment_python(self.server, named) == "/conda/bin/python"
        bare = Server(name="s", workdir="~/proj")
        assert environment_python(bare, none) == "python3"
        assert environment_path(bare, none) == ()


class TestData:
    def test_steps_are_plain_and_secrets_in_them_are_masked(self) -> None:
        server = Server(name="s", workdir="/w", env={"PIP_INDEX_TOKEN": "hunter2", "LANG": "C"})
        shown = only(setup_steps(server, Environment())).to_dict()
        assert shown["step"] == "create environment (venv)"
        assert shown["args"] == ["/w/.rl/env", ""]
        assert shown["env"] == {"PIP_INDEX_TOKEN": "•••", "LANG": "C"}

    @pytest.mark.parametrize(
        ("wanted", "own", "asked"),
        [
            ("3.11", None, "python3.11"),
            ("/opt/py", None, "/opt/py"),
            (None, "/own", "/own"),
            ("3.11", "/own", "/own"),
        ],
    )
    def test_which_python_venv_takes(self, wanted: str | None, own: str | None, asked: str) -> None:
        server = Server(name="s", workdir="/w", python=own)
        assert only(setup_steps(server, Environment(python=wanted))).args == ("/w/.rl/env", asked)

    def test_uv_is_given_the_version(self) -> None:
        server = Server(name="s", workdir="/w")
        assert only(setup_steps(server, Environment(manager="uv", python="3.12"))).args == (
            "/w/.rl/env",
            "3.12",
        )

    def test_conda_says_what_to_use_instead(self) -> None:
        with pytest.raises(ConfigError) as caught:
            setup_steps(Server(name="s", workdir="/w"), Environment(manager="conda"))
        assert "none" in str(caught.value.hint)

    def test_requirements(self) -> None:
        assert requirements_file(Environment(), ["train.py", "requirements.txt"]) == "requirements.txt"
        assert requirements_file(Environment(), ["train.py", "sub/requirements.txt"]) is None
        assert requirements_file(Environment(requirements="gpu.txt"), ["gpu.txt"]) == "gpu.txt"
        with pytest.raises(ConfigError, match=r"gpu\.txt") as caught:
            requirements_file(Environment(requirements="gpu.txt"), ["requirements.txt"])
        assert caught.value.key == "environment.requirements"
        assert package_steps(Server(name="s", workdir="/w"), Environment(), None) == []


@pytest.mark.parametrize("manager", ["venv", "uv"])
class TestCreate:
    def step(self, machine: Machine, manager: str, **environment: Any) -> Step:
        return only(setup_steps(machine.server(), Environment(manager=manager, **environment)))

    def test_once(self, machine: Machine, manager: str) -> None:
        step = self.step(machine, manager)
        done = machine.run(step)
        assert done.returncode == 0, done.stderr
        assert os.access(machine.workdir / ".rl/env/bin/python", os.X_OK)
        assert len(machine.asked()) == 1
        again = machine.run(step)
        assert (again.returncode, again.stdout.startswith("environment found")) == (0, True)
        assert machine.asked() == []

    def test_interrupted_is_done_anew_from_empty(self, machine: Machine, manager: str) -> None:
        step = self.step(machine, manager)
        machine.run(step)
        (machine.workdir / ".rl/env/.rl-ready").unlink()
        (machine.workdir / ".rl/env/half").write_text("half a package")
        machine.asked()
        assert machine.run(step).returncode == 0
        assert len(machine.asked()) == 1
        assert not (machine.workdir / ".rl/env/half").exists()

    def test_a_failure_leaves_nothing_that_passes_for_an_environment(
        self, machine: Machine, manager: str
    ) -> None:
        step = self.step(machine, manager)
        assert machine.run(step, FAKE_FAILS="No space left on device").returncode == 1
        assert not (machine.workdir / ".rl/env/.rl-ready").exists()
        assert machine.run(step).returncode == 0

    def test_a_python_that_is_gone_is_made_anew(self, machine: Machine, manager: str) -> None:
        step = self.step(machine, manager)
        machine.run(step)
        (machine.workdir / ".rl/env/bin/python").unlink()
        assert machine.run(step).returncode == 0
        assert os.access(machine.workdir / ".rl/env/bin/python", os.X_OK)

    def test_another_python_makes_another_environment(self, machine: Machine, manager: str) -> None:
        machine.run(self.step(machine, manager))
        machine.add("python3.12")
        machine.asked()
        done = machine.run(self.step(machine, manager, python="3.12"))
        assert done.returncode == 0, done.stderr
        assert len(machine.asked()) == 1

    def test_a_folder_of_someone_elses_is_never_emptied(self, machine: Machine, manager: str) -> None:
        foreign = machine.workdir.parent / "conda-env"
        (foreign / "bin").mkdir(parents=True)
        (foreign / "bin/python").write_text("theirs")
        (foreign / "bin/python").chmod(0o755)
        step = self.step(machine, manager, prefix=str(foreign))
        done = machine.run(step)
        assert done.returncode == 1
        assert "manager: none" in str(hint_for(step, done.stderr))
        assert (foreign / "bin/python").read_text() == "theirs"

    def test_a_prefix_of_its_own_is_made_and_found(self, machine: Machine, manager: str) -> None:
        step = self.step(machine, manager, prefix=str(machine.workdir.parent / "envs/mine"))
        assert machine.run(step).returncode == 0
        assert "found" in machine.run(step).stdout


class TestPython:
    @pytest.mark.parametrize("fields", [{"python": "3.99"}, {"python": "/nowhere/python"}])
    def test_one_that_is_not_there_is_said_and_the_old_environment_stays(
        self, machine: Machine, fields: dict[str, str]
    ) -> None:
        machine.run(only(setup_steps(machine.server(), Environment())))
        step = only(setup_steps(machine.server(), Environment(**fields)))
        done = machine.run(step)
        assert done.returncode == 1
        assert "no such python on this server" in done.stderr
        assert hint_for(step, done.stderr)
        assert (machine.workdir / ".rl/env/bin/python").exists()

    def test_the_servers_own_python_is_not_replaced_by_another(self, machine: Machine) -> None:
        done = machine.run(only(setup_steps(machine.server(python="/nowhere/python"), Environment())))
        assert done.returncode == 1
        assert machine.asked() == []

    def test_manager_none_checks_the_interpreter(self, machine: Machine) -> None:
        step = only(setup_steps(machine.server(), Environment(manager="none")))
        done = machine.run(step)
        assert done.returncode == 0
        assert done.stdout.startswith("python 3.")
        missing = only(setup_steps(machine.server(), Environment(manager="none", python="/nowhere/python")))
        assert machine.run(missing).returncode == 1

    def test_a_python_without_venv_has_a_hint(self, machine: Machine) -> None:
        step = only(setup_steps(machine.server(), Environment()))
        done = machine.run(
            step, FAKE_FAILS="The virtual environment was not created because ensurepip is not available."
        )
        assert "python3-venv" in str(hint_for(step, done.stderr))
        assert hint_for(step, "something new") is None


@pytest.mark.parametrize("manager", ["venv", "uv"])
class TestPackages:
    def prepared(self, machine: Machine, manager: str, **environment: Any) -> Step:
        settings = Environment(manager=manager, **environment)
        assert machine.run(only(setup_steps(machine.server(), settings))).returncode == 0
        machine.asked()
        return only(package_steps(machine.server(), settings, "requirements.txt"))

    def test_installs_what_the_file_says_with_the_inventorys_words(
        self, machine: Machine, manager: str
    ) -> None:
        (machine.workdir / "requirements.txt").write_text("numpy\n")
        step = self.prepared(machine, manager, pip_args=("-i", "https://index.example/a b"))
        assert machine.run(step).returncode == 0
        [asked] = machine.asked()
        assert asked.endswith("-i https://index.example/a b -r requirements.txt")

    def test_nothing_is_done_until_the_file_or_the_settings_change(
        self, machine: Machine, manager: str
    ) -> None:
        (machine.workdir / "requirements.txt").write_text("numpy\n")
        step = self.prepared(machine, manager)
        machine.run(step)
        machine.asked()
        assert machine.run(step).stdout == "packages unchanged\n"
        assert machine.asked() == []
        other = only(
            package_steps(
                machine.server(), Environment(manager=manager, pip_args=("--pre",)), "requirements.txt"
            )
        )
        machine.run(other)
        assert len(machine.asked()) == 1
        (machine.workdir / "requirements.txt").write_text("numpy<2\n")
        machine.run(other)
        assert len(machine.asked()) == 1

    def test_a_failure_is_tried_again(self, machine: Machine, manager: str) -> None:
        (machine.workdir / "requirements.txt").write_text("numpy\n")
        step = self.prepared(machine, manager)
        failed = machine.run(
            step, FAKE_FAILS="ERROR: Could not find a version that satisfies the requirement numpy"
        )
        assert failed.returncode == 1
        assert hint_for(step, failed.stderr)
        machine.asked()
        assert machine.run(step).returncode == 0
        assert len(machine.asked()) == 1

    def test_a_new_environment_has_no_packages(self, machine: Machine, manager: str) -> None:
        (machine.workdir / "requirements.txt").write_text("numpy\n")
        machine.run(self.prepared(machine, manager))
        machine.add("python3.12")
        machine.run(self.prepared(machine, manager, python="3.12"))
        assert len(machine.asked()) == 1


def test_a_login_in_pip_args_is_refused() -> None:
    """The installer's words show in ps on the server."""
    environment = Environment(
        manager="venv", pip_args=("--index-url", "https://user:token77@index.example/simple")
    )
    with pytest.raises(ConfigError) as refused:
        package_steps(Server(name="a", workdir="~/p"), environment, "requirements.txt")
    assert "token77" not in f"{refused.value} {refused.value.hint}"
    assert "PIP_INDEX_URL" in str(refused.value.hint)
