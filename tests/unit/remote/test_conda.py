"""Conda on a server: which one is found, and where it keeps packages."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from remote_launch.remote import environment, programs
from remote_launch.remote.prefixes import ENV_MARK, anew

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("CONDA_EXE", "MAMBA_EXE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(programs, "_found", {})
    monkeypatch.setattr(
        programs,
        "_PLACES",
        {
            name: (tuple(place for place in places if place.startswith("~/")), names)
            for name, (places, names) in programs._PLACES.items()
        },
    )
    return folder


def program(path: Path, code: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def find(tmp_path: Path) -> str | None:
    return programs.find("conda", str(tmp_path / "work"))


def test_none(home: Path, tmp_path: Path) -> None:
    assert find(tmp_path) is None
    found = program(home / "miniforge3/bin/conda")
    assert find(tmp_path) == found  # found as soon as it is there


def test_what_the_user_names_goes_first(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(home / "miniforge3/bin/conda")
    on_path = program(tmp_path / "bin/mamba")
    assert find(tmp_path) == on_path
    monkeypatch.setattr(programs, "_found", {})
    named = program(tmp_path / "opt/bin/conda")
    monkeypatch.setenv("CONDA_EXE", named)
    assert find(tmp_path) == named


def test_what_the_inventory_names_goes_before_all(home: Path, tmp_path: Path) -> None:
    on_path = program(tmp_path / "bin/conda")
    mine = program(home / "scratch/bin/conda")
    work = str(tmp_path / "work")
    assert programs.find("conda", work, {"CONDA_EXE": "~/scratch/bin/conda"}) == mine
    assert programs.find("conda", work, {"CONDA_EXE": "/not/there"}) == on_path
    assert programs.find("conda", work) == on_path


def test_one_that_does_not_run_is_passed_over(home: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin/conda", code=1)
    there = program(home / ".local/bin/micromamba")
    assert find(tmp_path) == there


def test_half_an_installation_is_none(home: Path, tmp_path: Path) -> None:
    half = program(home / ".rl/miniforge3/bin/conda")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/conda").symlink_to(half)
    assert find(tmp_path) is None
    (home / ".rl/miniforge3/.rl-conda").touch()
    assert find(tmp_path) == str(tmp_path / "bin/conda")


class TestPackages:
    """Where packages are kept decides whether files are linked or copied."""

    def ask(self, monkeypatch: pytest.MonkeyPatch, conda: str, far: str, **env: str) -> str | None:
        monkeypatch.setattr(programs, "_device", lambda path: 2 if path.startswith(far) else 1)
        return programs.caches({"CONDA": conda, **env}, "/data/p/.rl/env", "/data/p").get("CONDA_PKGS_DIRS")

    def test_on_one_filesystem_conda_is_left_alone(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        conda = program(home / "miniforge3/bin/conda")
        assert self.ask(monkeypatch, conda, "/elsewhere") is None

    def test_beside_the_environment_and_what_is_there_is_taken(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        conda = program(home / "miniforge3/bin/conda")
        assert self.ask(monkeypatch, conda, str(home)) == f"/data/p/.rl/cache/conda,{home}/miniforge3/pkgs"
        assert self.ask(monkeypatch, conda, str(home), CONDA_PKGS_DIRS="/mine") is None

    def test_micromamba_keeps_them_elsewhere(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        conda = program(home / ".local/bin/micromamba")
        assert self.ask(monkeypatch, conda, "/mamba", MAMBA_ROOT_PREFIX="/mamba") == "/data/p/.rl/cache/conda"

    def test_a_conda_of_roots(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        conda = program(home / "opt/bin/conda")
        monkeypatch.setattr(os, "access", lambda path, _: path != str(home / "opt"))
        told = self.ask(monkeypatch, conda, str(home / ".conda"))
        assert told == f"/data/p/.rl/cache/conda,{home}/.conda/pkgs"


def test_the_version_of_a_prefix_by_its_own_files(tmp_path: Path) -> None:
    python = tmp_path / "env/bin/python"
    program(python)
    meta = tmp_path / "env/conda-meta"
    meta.mkdir()
    for name in ("python-3.12.5-h2ad013b_0_cpython.json", "python_abi-3.12-5_cp312.json", "pip-24.json"):
        (meta / name).write_text("{}")
    assert environment.versions(str(python))["python"] == "3.12.5"


def test_a_prefix_is_emptied_and_keeps_its_mark(tmp_path: Path) -> None:
    prefix = tmp_path / "envs/x"
    for _ in range(2):
        with anew(str(prefix), str(tmp_path / "work"), lambda: False, lambda _: None):
            assert [path.name for path in prefix.iterdir()] == [ENV_MARK]
            (prefix / "conda-meta").mkdir()
    shutil.rmtree(prefix)
