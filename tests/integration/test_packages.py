"""Packages from every kind of file, installed for real by pip and uv on this machine as servers. Needs an
index with six and iniconfig."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from remote_launch.transport.programs_here import uv_here
from tests.support.cli import Rl
from tests.support.packages import uv_environment

if TYPE_CHECKING:
    from pathlib import Path

HASHES = {  # of the wheels on PyPI
    "six": ("1.17.0", "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"),
    "iniconfig": ("2.3.1", "9121e2c1fdb355232495be3194c8dfe87ccc2d5dee45947b78e68f499790d7a7"),
}
PYPROJECT = """[project]
name = "demo"
version = "0.1"
description = "Demo"
requires-python = ">=3.8"
dependencies = ["six>=1.10"]
[dependency-groups]
dev = ["iniconfig"]
[build-system]
requires = ["flit_core>=3.2"]
build-backend = "flit_core.buildapi"
"""


def poetry_lock(**hashes: str) -> str:
    """A lock with six for the project and iniconfig for its tests."""
    text = ""
    for name, group in (("iniconfig", "dev"), ("six", "main")):
        version, sha256 = HASHES[name]
        text += (
            f'[[package]]\nname = "{name}"\nversion = "{version}"\noptional = false\ngroups = ["{group}"]\n'
            f'files = [{{file = "{name}.whl", hash = "sha256:{hashes.get(name, sha256)}"}}]\n\n'
        )
    return text + '[metadata]\nlock-version = "2.1"\npython-versions = ">=3.8"\ncontent-hash = "0"\n'


class Lab:
    """A project with one server, whose packages can be asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "project"
        (self.root / ".remote").mkdir(parents=True)
        self.workdir = folder / "work"
        self.rl = Rl(self.root, {"HOME": str(folder), "RL_PROJECT": "", **uv_environment()})

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.root / name.replace("__", ".").replace("_in_", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    def inventory(self, manager: str, **environment: Any) -> None:
        entry = {"connection": "local", "workdir": str(self.workdir)}
        content = {"servers": {"a": entry}, "environment": {"manager": manager, **environment}}
        (self.root / ".remote" / "configs.yaml").write_text(yaml.safe_dump({"name": "proj", **content}))

    def installed(self) -> dict[str, str]:
        """The packages of the environment, without those that venv brings."""
        ask = (
            "import importlib.metadata as m, json;"
            "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
        )
        python = self.workdir / ".rl/env/bin/python"
        done = subprocess.run([python, "-c", ask], cwd="/", capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        return {name: found[name] for name in sorted(found) if name not in ("pip", "setuptools")}

    def steps(self) -> list[str]:
        """Prepare; return the names of the steps that something was done in."""
        [entry] = self.rl.json("prepare")["data"]
        return [step["step"] for step in entry["steps"] if not step["unchanged"]]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.mark.parametrize("manager", ["venv", "uv"])
def test_from_a_poetry_lock_with_its_hashes_and_the_project(lab: Lab, manager: str) -> None:
    lab.inventory(manager)
    lab.write(pyproject__toml=PYPROJECT, poetry__lock=poetry_lock(), demo__py="x = 1\n")
    lab.rl("prepare")
    assert lab.installed() == {"demo": "0.1", "six": "1.17.0"}
    assert lab.steps() == []

    lab.inventory(manager, packages=["six==1.16.0"])
    assert lab.steps() == [
        f"install packages of the inventory ({'uv' if manager == 'uv' else 'pip'})",
        f"install the project ({'uv' if manager == 'uv' else 'pip'})",
    ]
    assert lab.installed()["six"] == "1.16.0"


@pytest.mark.parametrize("manager", ["venv", "uv"])
def test_a_wrong_hash_is_not_installed(lab: Lab, manager: str) -> None:
    lab.inventory(manager)
    lab.write(poetry__lock=poetry_lock(six="0" * 64))
    done = lab.rl("prepare", code=1)
    assert "another file than poetry.lock names" in done.stderr
    assert lab.installed() == {}


def test_from_a_uv_lock(lab: Lab) -> None:
    lab.inventory("uv")
    lab.write(pyproject__toml=PYPROJECT, demo__py="x = 1\n")
    env = {**os.environ, **uv_environment()}
    subprocess.run([str(uv_here()), "lock", "--quiet"], cwd=lab.root, env=env, check=True, timeout=120)
    lab.rl("prepare")
    assert set(lab.installed()) == {"demo", "six"}


def test_from_a_pipfile_then_requirements_that_include_others(lab: Lab) -> None:
    lab.inventory("uv")
    lab.write(Pipfile='[packages]\nsix = "==1.16.0"\n[dev-packages]\niniconfig = "*"\n')
    lab.rl("prepare")
    assert lab.installed() == {"six": "1.16.0"}

    (lab.root / "Pipfile").unlink()
    lab.write(requirements__txt="-r more_in_a.txt\n".replace("_in_", "/"), more_in_a__txt="six==1.17.0\n")
    assert lab.steps() == ["rsync", "install packages (uv)"]
    lab.write(more_in_a__txt="six==1.17.0\niniconfig\n")
    lab.rl("prepare")
    assert set(lab.installed()) == {"iniconfig", "six"}


@pytest.mark.parametrize("manager", ["venv", "uv"])
def test_what_the_index_does_not_have(lab: Lab, manager: str) -> None:
    lab.inventory(manager)
    for requirements, words in [
        ("six==1.16.0\nsix==1.17.0\n", "requirements.txt conflict"),
        ("no-such-package-of-ours-0\n", "no such package: check its name in requirements.txt"),
        ("six==99\n", "no such version"),
    ]:
        lab.write(requirements__txt=requirements)
        done = lab.rl("prepare", code=1)
        assert "✗ a: install packages" in done.stderr
        assert words in done.stderr
    assert lab.installed() == {}


def test_an_index_with_a_login_shows_nowhere(lab: Lab) -> None:
    lab.inventory("uv", index_url="http://me:token77@127.0.0.1:9/simple", packages=["six"])
    shown = lab.rl("prepare", "--dry-run", "--json").stdout
    assert "127.0.0.1:9" in shown
    done = lab.rl("prepare", code=1)
    logs = [path.read_text() for path in (lab.root / ".remote/logs").rglob("*") if path.is_file()]
    assert "token77" not in "".join([shown, done.stdout, done.stderr, *logs])
