"""Where the project is, and its id."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from remote_launch.core.files import write_atomic, write_new
from remote_launch.core.project import PROJECT_VARIABLE, Project, find_project
from remote_launch.errors import ConfigError, ProjectNotFoundError


@pytest.fixture(autouse=True)
def _no_project_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROJECT_VARIABLE, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "proj"
    (root / ".remote").mkdir(parents=True)
    (root / ".remote" / "configs.yaml").write_text("servers: {a: h}\n")
    return root


class TestFindProject:
    def test_upward(self, root: Path) -> None:
        deep = root / "a" / "b"
        deep.mkdir(parents=True)
        assert find_project(deep).root == root

    def test_the_current_folder_by_default(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root)
        assert find_project().root == root

    def test_an_inventory_wins_over_a_nearer_bare_folder(self, root: Path) -> None:
        inner = root / "inner"
        (inner / ".remote").mkdir(parents=True)
        assert find_project(inner).root == root

    def test_a_bare_folder_is_found_when_there_is_no_inventory(self, tmp_path: Path) -> None:
        (tmp_path / "x" / ".remote").mkdir(parents=True)
        (tmp_path / "x" / "y").mkdir()
        assert find_project(tmp_path / "x" / "y").root == tmp_path / "x"

    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(ProjectNotFoundError, match=r"no \.remote folder") as caught:
            find_project(tmp_path)
        assert "rl init" in (caught.value.hint or "")

    @pytest.mark.parametrize("folder", ["", ".remote"])
    def test_by_option(self, root: Path, tmp_path: Path, folder: str) -> None:
        assert find_project(tmp_path, str(root / folder)).root == root

    def test_by_variable_and_the_option_wins(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other"
        (other / ".remote").mkdir(parents=True)
        monkeypatch.setenv(PROJECT_VARIABLE, str(other))
        assert find_project(root).root == other
        assert find_project(root, str(root)).root == root

    def test_a_wrong_option_is_not_searched_upward(self, root: Path) -> None:
        (root / "sub").mkdir()
        with pytest.raises(ProjectNotFoundError, match=r"--project .*sub: no \.remote folder in it"):
            find_project(root, str(root / "sub"))
        with pytest.raises(ProjectNotFoundError, match="no such folder"):
            find_project(root, str(root / "nowhere"))

    def test_a_relative_option_and_links_give_one_root(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root.parent / "link").symlink_to(root)
        monkeypatch.chdir(root.parent)
        assert find_project(None, "link").root == root
        assert find_project(root.parent / "link").root == root


class TestPaths:
    def test_each_has_its_place(self, root: Path) -> None:
        project = Project(root=root)
        remote = root / ".remote"
        assert project.remote_dir == remote
        assert project.config == remote / "configs.yaml"
        assert project.exclude_file == remote / "exclude.txt"
        assert project.logs_dir == remote / "logs"
        assert project.jobs_dir == remote / "jobs"
        assert project.registry == remote / "jobs.sqlite3"

    def test_resolve(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        project = Project(root=root)
        assert project.resolve("./a/b") == root / "a" / "b"
        assert project.resolve("~/a") == Path("/home/me/a")
        assert project.resolve("/a") == Path("/a")
        assert project.resolve("~no-such-user/a") == Path("~no-such-user/a")


def _id_of(root: str) -> str:
    return Project(root=Path(root)).project_id


class TestProjectId:
    def test_made_once(self, root: Path) -> None:
        first = Project(root=root).project_id
        assert len(first) == 32
        assert int(first, 16) >= 0
        assert Project(root=root).project_id == first

    def test_two_processes_agree(self, root: Path) -> None:
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            assert len(set(pool.map(_id_of, [str(root)] * 16))) == 1
        assert sorted(path.name for path in (root / ".remote").iterdir()) == ["configs.yaml", "project_id"]

    def test_something_else_in_the_file(self, root: Path) -> None:
        (root / ".remote" / "project_id").write_text("hello\n")
        with pytest.raises(ConfigError, match=r"project_id: not a project id") as caught:
            _ = Project(root=root).project_id
        assert "delete" in (caught.value.hint or "")

    def test_no_folder_to_write_to(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="can't keep the project's id"):
            _ = Project(root=tmp_path).project_id


class TestFiles:
    def test_write_new_never_overwrites(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        assert write_new(path, "1")
        assert not write_new(path, "2")
        assert path.read_text() == "1"
        assert list(tmp_path.iterdir()) == [path]

    def test_write_new_without_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(1, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
        path = tmp_path / "f"
        assert write_new(path, "1")
        assert not write_new(path, "2")
        assert path.read_text() == "1"

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        write_atomic(path, "1")
        with pytest.raises(UnicodeEncodeError):
            write_atomic(path, "\ud800")
        assert path.read_text() == "1"
        assert list(tmp_path.iterdir()) == [path]
