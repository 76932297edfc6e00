"""What a sync would send, asked of the real rsync, and what it warns of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from remote_launch.errors import ConfigError
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.sync import plan_sync

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "proj"
    (project / ".remote").mkdir(parents=True)
    (project / ".remote/configs.yaml").write_text("servers:\n  a: {connection: local}\n")
    (project / "train.py").write_text("print(1)")
    return project


def test_links_that_lead_out_are_named_and_not_sent(project: Path) -> None:
    (project / "src").mkdir()
    (project / "data").symlink_to("/etc")
    (project / "src/above").symlink_to("../../elsewhere")
    (project / "src/in\nside").symlink_to("../train.py")
    plan = plan_sync(Fleet.load(str(project)))
    assert [file.path for file in plan.files] == ["src/in\nside", "train.py"]
    assert plan.warning is not None
    assert "the links data, src/above." in plan.warning


def test_excluded_links_are_no_news(project: Path) -> None:
    (project / "data").symlink_to("/etc")
    (project / ".remote/exclude.txt").write_text("/data\n")
    assert plan_sync(Fleet.load(str(project))).warning is None


def test_many_links_are_cut_short(project: Path) -> None:
    for number in range(9):
        (project / f"link{number}").symlink_to("/etc")
    assert "link4, …" in str(plan_sync(Fleet.load(str(project))).warning)


def test_a_list_of_excludes_that_is_named_and_is_not_there_is_an_error(project: Path) -> None:
    """Else all that it leaves out would be sent."""
    with (project / ".remote/configs.yaml").open("a") as file:
        file.write("exclude_file: .remote/exlude.txt\n")
    with pytest.raises(ConfigError, match=r"exlude\.txt: no such file"):
        plan_sync(Fleet.load(str(project)))


def test_outputs_are_not_sent(project: Path) -> None:
    for name in ("checkpoints/last.pt", "runs/a/b/x.pt", "runs/a/config.py", "src/checkpoints/code.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    with (project / ".remote/configs.yaml").open("a") as file:
        file.write("outputs: [checkpoints/, 'runs/**/*.pt']\n")
    plan = plan_sync(Fleet.load(str(project)))
    assert [file.path for file in plan.files] == ["runs/a/config.py", "src/checkpoints/code.py", "train.py"]
