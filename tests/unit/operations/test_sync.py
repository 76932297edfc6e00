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


class TestTheWarningOfSize:
    def warnings(self, project: Path, limit: str) -> tuple[str, ...]:
        (project / ".remote/configs.yaml").write_text(
            f"servers:\n  a: {{connection: local}}\nsync: {{{limit}}}\n"
        )
        return plan_sync(Fleet.load(str(project))).warnings

    def test_names_the_heaviest_folder(self, project: Path) -> None:
        (project / "data").mkdir()
        for number in range(3):
            (project / f"data/{number}.bin").write_bytes(bytes(1_000_000))
        (project / "one.bin").write_bytes(bytes(2_000_000))
        [warning] = self.warnings(project, "max_warn_bytes: 4 MB")
        assert "the most is in data (3 MB)" in warning
        assert warning.endswith("add a line to exclude.txt: /data")

    def test_names_the_file_where_that_is_what_is_heavy(self, project: Path) -> None:
        (project / "data").mkdir()
        (project / "data/1.bin").write_bytes(bytes(1_000_000))
        (project / "one.bin").write_bytes(bytes(4_000_000))
        [warning] = self.warnings(project, "max_warn_bytes: 4 MB")
        assert "the most is one.bin (4 MB)" in warning
        assert warning.endswith("add a line to exclude.txt: /one.bin")

    def test_has_no_folder_to_leave_out_where_the_files_lie_in_the_projects_own(self, project: Path) -> None:
        for number in range(5):
            (project / f"{number}.txt").touch()
        [warning] = self.warnings(project, "max_warn_files: 4")
        assert "the most are in the project's own folder (6 files)" in warning
        assert "exclude.txt" in warning
        assert "/." not in warning

    def test_stands_beside_the_one_of_links(self, project: Path) -> None:
        (project / "out").symlink_to("/etc")
        (project / "more.py").touch()
        assert len(self.warnings(project, "max_warn_files: 1")) == 2
