"""Where a foreground command runs. On a local server, with no sshd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from remote_launch.operations.fleet import Fleet
from remote_launch.operations.run import run_command

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    (tmp_path / "proj/.remote").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = "servers:\n  a: {connection: local, workdir: ~/it's here}\n"
    (tmp_path / "proj/.remote/configs.yaml").write_text(text)
    return Fleet.load(str(tmp_path / "proj"))


def ran(fleet: Fleet, *words: str) -> tuple[str, str]:
    """Return stdout and stderr."""
    out, err = bytearray(), bytearray()
    run_command(fleet, fleet.server("a"), words, on_stdout=out.extend, on_stderr=err.extend)
    return out.decode(), err.decode()


def test_in_the_workdir_nothing_more_is_said(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "home/it's here").mkdir()
    assert ran(fleet, "pwd") == (f"{tmp_path}/home/it's here\n", "")


def test_a_command_that_runs_in_the_home_folder_for_want_of_the_workdir_says_so(
    fleet: Fleet, tmp_path: Path
) -> None:
    out, err = ran(fleet, "pwd")
    assert out == f"{tmp_path}/home\n"
    assert err == "rl: there is no ~/it's here yet (rl prepare makes it): running in the home folder\n"


def test_a_python_that_is_not_the_environments_is_said(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "home/it's here").mkdir()
    out, err = ran(fleet, "python3", "-c", "print(1)")
    assert out == "1\n"
    assert "there is no environment in ~/it's here/.rl/proj_env/bin yet" in err
    assert ran(fleet, "echo", "1") == ("1\n", "")
    (tmp_path / "home/it's here/.rl/proj_env/bin").mkdir(parents=True)
    assert ran(fleet, "python3", "-c", "print(1)") == ("1\n", "")
