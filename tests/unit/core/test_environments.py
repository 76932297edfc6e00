"""The recipe of an environment: as data, and its steps run with a python and a uv of the tests' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.environments.places import environment_path, environment_python
from remote_launch.core.environments.recipes import recipe_for
from remote_launch.core.environments.sources import Source
from remote_launch.core.environments.steps import Recipe, Step, fingerprint_of, hint_for
from remote_launch.core.inventory import Environment, Server

if TYPE_CHECKING:
    from pathlib import Path

MANAGERS = ("venv", "uv", "none", "conda")
# Says what it was asked, and makes of "-m venv DIR" (or uv's "venv … DIR") a folder with a python in it.
FAKE = """#!/bin/sh
echo "$0 $*" >> "$FAKE_LOG"
[ -z "$FAKE_FAILS" ] || { echo "$FAKE_FAILS" >&2; exit 1; }
for last in "$@"; do :; done
case "$*" in
  *"import ensurepip"*) [ -z "$NO_ENSUREPIP" ] ;;
  *venv*) mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


def server(manager: str = "venv", *, of_server: dict[str, Any] | None = None, **fields: Any) -> Server:
    wanted = {"name": "s", "workdir": "~/proj", **(of_server or {})}
    return Server(**wanted, environment=Environment(manager=manager, **fields))


def recipe(manager: str = "venv", source: Source | None = None, **fields: Any) -> Recipe:
    return recipe_for(server(manager, **fields), source)


def source(content: str = "1") -> Source:
    files = ("requirements.txt", "more.txt")
    return Source(kind="requirements", path="requirements.txt", files=files, content=content)


class TestPlaces:
    def test_the_environment_lies_in_the_workdir(self) -> None:
        assert environment_python(server("uv")) == "~/proj/.rl/env/bin/python"
        assert environment_path(server("uv")) == ("~/proj/.rl/env/bin",)

    def test_or_where_the_inventory_says(self) -> None:
        assert environment_python(server(prefix="/envs/x")) == "/envs/x/bin/python"

    def test_condas_has_its_name(self) -> None:
        assert environment_python(server("conda", name="p_env")) == "~/proj/.rl/p_env/bin/python"

    def test_none_uses_an_interpreter_that_is_there(self) -> None:
        own = {"python": "/opt/py/bin/python3"}
        assert environment_python(server("none", of_server=own)) == "/opt/py/bin/python3"
        assert environment_path(server("none", of_server=own)) == ("/opt/py/bin",)
        assert environment_python(server("none", of_server=own, python="/c/bin/python")) == "/c/bin/python"
        assert environment_python(server("none")) == "python3"
        assert environment_path(server("none")) == ()

    def test_none_takes_no_other_version_than_the_one_wanted(self) -> None:
        assert environment_python(server("none", python="3.11")) == "python3.11"
        assert environment_python(server("none", python="python3.11")) == "python3.11"
        own = {"python": "/opt/py/bin/python3"}
        assert environment_python(server("none", of_server=own, python="3.11")) == "/opt/py/bin/python3"


class TestRecipe:
    @pytest.mark.parametrize("manager", MANAGERS)
    def test_is_plain_data(self, manager: str) -> None:
        made = recipe(manager, source())
        assert made.packages is not None
        wire = json.loads(json.dumps([made.environment.to_wire(), made.packages.to_wire()]))
        for part in wire:
            assert part["fingerprint"]
            assert part["mark"].startswith("~/proj/.rl/")
        assert made.source_files == ("requirements.txt", "more.txt")

    def test_marks_and_lock_lie_with_the_environment(self) -> None:
        made = recipe("venv", source(), prefix="/envs/x")
        assert made.packages is not None
        assert (made.prefix, made.environment.empties) == ("/envs/x", "/envs/x")
        assert (made.environment.mark, made.packages.mark) == (
            "/envs/x/.rl-environment",
            "/envs/x/.rl-packages",
        )
        assert made.lock == "/envs/x.rl-lock"

    def test_an_interpreter_that_is_there_is_never_emptied(self) -> None:
        made = recipe("none", source())
        assert (made.prefix, made.environment.empties) == (None, None)
        assert made.lock.startswith("~/proj/.rl/")

    def test_which_programs_it_needs(self) -> None:
        assert recipe("uv").needs == {"uv"}
        assert (recipe("venv").needs, recipe("venv").wants) == (frozenset(), {"uv"})

    def test_no_packages(self) -> None:
        assert recipe().packages is None

    def test_secrets_are_masked_for_people_and_travel_on_the_wire(self) -> None:
        env = {"PIP_INDEX_TOKEN": "hunter2", "LANG": "C"}
        step = recipe(of_server={"env": env}).steps[0]
        assert step.to_dict()["env"] == {"PIP_INDEX_TOKEN": "•••", "LANG": "C"}
        assert step.to_wire()["env"] == env
        assert "hunter2" not in repr(step)


class TestFingerprints:
    def test_packages_change_without_the_environment(self) -> None:
        one, two = recipe("venv", source("1")), recipe("venv", source("2"))
        assert one.environment.fingerprint == two.environment.fingerprint
        assert one.packages is not None
        assert two.packages is not None
        assert one.packages.fingerprint != two.packages.fingerprint

    @pytest.mark.parametrize(
        "fields",
        [{"manager": "uv"}, {"python": "3.12"}, {"prefix": "/x"}, {"of_server": {"python": "/opt/py"}}],
    )
    def test_another_environment(self, fields: dict[str, Any]) -> None:
        assert recipe(**fields).environment.fingerprint != recipe().environment.fingerprint

    @pytest.mark.parametrize("manager", MANAGERS)
    def test_other_variables_redo_nothing(self, manager: str) -> None:
        env = {"env": {"NCCL_DEBUG": "INFO"}}
        one, two = recipe(manager, source()), recipe(manager, source(), of_server=env)
        assert one.environment.fingerprint == two.environment.fingerprint
        assert one.packages is not None
        assert two.packages is not None
        assert one.packages.fingerprint == two.packages.fingerprint

    def test_are_of_the_data_alone(self) -> None:
        assert fingerprint_of("a", {"x": 1, "y": 2}) == fingerprint_of("a", {"y": 2, "x": 1})
        assert fingerprint_of("a", "b") != fingerprint_of("ab")


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

    def add(self, name: str) -> None:
        path = self.bin / name
        path.write_text(FAKE)
        path.chmod(0o755)

    def step(self, manager: str, *, python: str | None = None, **fields: Any) -> Step:
        own = {"workdir": str(self.workdir), "python": python}
        [step] = recipe_for(server(manager, of_server=own, **fields), None).environment.steps
        return step

    def run(self, step: Step, **env: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "FAKE_LOG": str(self.log),
            "REAL_PYTHON": sys.executable,
            "UV": str(self.bin / "uv"),
            **env,
        }
        words = ["/bin/sh", "-c", step.script, "rl", *step.args]
        return subprocess.run(
            words, cwd=self.workdir, env=variables, capture_output=True, text=True, timeout=30
        )

    def asked(self) -> list[str]:
        return [line.removeprefix(f"{self.bin}/") for line in self.log.read_text().splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("manager", ["venv", "uv"])
class TestCreate:
    def test_makes_a_python(self, machine: Machine, manager: str) -> None:
        done = machine.run(machine.step(manager))
        assert done.returncode == 0, done.stderr
        assert os.access(machine.workdir / ".rl/env/bin/python", os.X_OK)

    def test_the_server_can_name_the_python(self, machine: Machine, manager: str) -> None:
        machine.add("mine")
        machine.run(machine.step(manager, python=str(machine.bin / "mine")))
        assert any("mine" in line for line in machine.asked())

    def test_a_failure_is_the_steps(self, machine: Machine, manager: str) -> None:
        done = machine.run(machine.step(manager), FAKE_FAILS="No space left on device")
        assert done.returncode == 1
        assert "disk is full" in str(hint_for(machine.step(manager), done.stderr))


class TestPython:
    @pytest.mark.parametrize(
        ("wanted", "own", "asked"),
        [
            ("3.11", None, "python3.11"),
            ("/opt/py", None, "/opt/py"),
            (None, "/own", "/own"),
            ("3.11", "/own", "/own"),
            (None, None, ""),
        ],
    )
    def test_which_one_venv_takes(self, wanted: str | None, own: str | None, asked: str) -> None:
        [step] = recipe("venv", python=wanted, of_server={"python": own}).environment.steps
        assert step.args == ("~/proj/.rl/env", asked)

    def test_uv_is_given_the_version(self) -> None:
        [step] = recipe("uv", python="3.12").environment.steps
        assert step.args == ("~/proj/.rl/env", "3.12")

    def test_uv_downloads_none_for_a_server_without_internet(self) -> None:
        [step] = recipe("uv", offline=True).environment.steps
        assert step.env == {"UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never"}

    def test_a_python_that_uv_can_not_download_is_no_matter_of_offline_packages(self) -> None:
        [step] = recipe("uv", python="3.8").environment.steps
        url = "https://github.com/astral-sh/python-build-standalone/releases/download/1/cpython.tar.gz"
        hint = str(hint_for(step, f"cause: Failed to download `{url}`\ncause: dns error"))
        assert "environment.python" in hint
        assert "offline" not in hint

    @pytest.mark.parametrize(
        ("manager", "wanted", "own"),
        [("venv", "3.99", None), ("venv", None, "/nowhere/python"), ("none", None, "/nowhere/python")],
    )
    def test_one_that_is_not_there_is_said(
        self, machine: Machine, manager: str, wanted: str | None, own: str | None
    ) -> None:
        [step] = recipe(manager, python=wanted, of_server={"python": own}).environment.steps
        done = machine.run(step)
        assert done.returncode == 1
        assert "no such python on this server" in done.stderr
        assert hint_for(step, done.stderr)
        assert not (machine.workdir / ".rl/env").exists()

    def test_manager_none_tells_its_version(self, machine: Machine) -> None:
        done = machine.run(machine.step("none"))
        assert (done.returncode, done.stdout.startswith("python 3.")) == (0, True)

    def test_a_python_without_venv_is_helped_by_uv(self, machine: Machine) -> None:
        done = machine.run(machine.step("venv"), NO_ENSUREPIP="1")
        assert done.returncode == 0
        assert "python3-venv" in done.stdout
        assert machine.asked()[-1].startswith("uv venv")

    def test_and_without_uv_has_a_hint(self, machine: Machine) -> None:
        words = "The virtual environment was not created because ensurepip is not available."
        done = machine.run(machine.step("venv"), UV="", FAKE_FAILS=words)
        assert "python3-venv" in str(hint_for(machine.step("venv"), done.stderr))
        assert hint_for(machine.step("venv"), "something new") is None
