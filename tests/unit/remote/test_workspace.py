"""Whose folder a workdir is, and what a sync may delete in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.served import Served

ME = {"project_id": "p1", "project": "mine"}


def check(served: Served, workdir: Path | str, **request: Any) -> dict[str, Any]:
    return served.call("workspace", op="check", **{**ME, "workdir": str(workdir), "create": False, **request})


def test_a_new_workdir_is_made_and_then_ours(served: Served, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "proj"
    answer = check(served, place)
    assert (answer["status"], answer["workdir"], answer["digest"]) == ("new", str(place), None)
    assert answer["free_bytes"] > 0
    assert not place.exists()
    assert check(served, place, create=True)["status"] == "new"
    assert json.loads((place / ".rl" / "workspace.json").read_text())["project_id"] == "p1"
    assert check(served, place)["status"] == "ours"


@pytest.mark.parametrize(("make", "status"), [
    ([], "empty"), ([".rl/bin/"], "empty"), ([".remote-scripts/"], "labml"),
    ([".jobs/", "data.bin"], "labml"),
    (["thesis.tex"], "refused"), ([".remote/project_id"], "refused"),
    ([".remote/project_id", ".jobs/"], "refused"),
])
def test_what_lies_in_the_workdir_decides(
    served: Served, tmp_path: Path, make: list[str], status: str
) -> None:
    place = tmp_path / "proj"
    place.mkdir()
    for name in make:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).mkdir() if name.endswith("/") else (place / name).touch()
    answer = check(served, place, create=True)
    assert answer["status"] == status
    assert (place / ".rl" / "workspace.json").exists() is (status != "refused")
    assert bool(answer["reason"]) is (status in ("refused", "labml"))


def test_someone_elses_folder_can_be_adopted_but_not_a_projects_own(served: Served, tmp_path: Path) -> None:
    place = tmp_path / "proj"
    place.mkdir()
    (place / "notes").touch()
    assert check(served, place, adopt=True, create=True)["status"] == "adopted"
    other = check(served, place, project_id="p2", project="theirs")
    assert other["status"] == "refused"
    assert "belongs to project mine" in other["reason"]
    # The same project, cloned anew.
    assert check(served, place, project_id="p2", project="mine")["status"] == "adopted"
    (place / ".remote").mkdir()
    (place / ".remote" / "project_id").write_text("p1")
    answer = check(served, place, adopt=True)
    assert answer["status"] == "refused"
    assert "a project's own folder" in answer["reason"]


def test_places_that_are_never_a_workspace(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(Path.home())
    for place in ("~", "/", str(Path.home().parent), tmp_path / "file", tmp_path / "link", "~/."):
        answer = check(served, place, adopt=True, create=True)
        assert answer["status"] == "refused", place
        assert answer["reason"]
    assert check(served, "/proc/nothing/here", create=True)["status"] == "refused"


@pytest.fixture
def space(served: Served) -> Served:
    check(served, served.workdir, create=True)
    return served


def write(space: Served, *names: str) -> None:
    for name in names:
        (space.workdir / name).parent.mkdir(parents=True, exist_ok=True)
        (space.workdir / name).write_text(name)


def sync(space: Served, digest: str, *names: str) -> dict[str, Any]:
    assert space.call(
        "workspace", op="begin", files=list(names), digest=digest
    ) == {"files": len(names), "digest": digest}
    write(space, *names)
    return space.call("workspace", op="commit", digest=digest)


def test_what_is_no_longer_sent_is_deleted_and_nothing_else(space: Served) -> None:
    assert sync(
        space, "d1", "a.py", "old/deep/b.py", "old/c.py", "kept/d.py"
    ) == {"deleted": 0, "digest": "d1"}
    write(space, "checkpoint.pt", "kept/result.txt", "old/deep/mine.txt")
    assert sync(space, "d2", "a.py", "new é.py") == {"deleted": 3, "digest": "d2"}
    left = {
        str(path.relative_to(space.workdir)) for path in space.workdir.rglob("*") if ".rl" not in path.parts
    }
    assert left == {
        "a.py", "new é.py", "checkpoint.pt", "kept", "kept/result.txt", "old", "old/deep", "old/deep/mine.txt"
    }
    assert check(space, space.workdir)["digest"] == "d2"
    os.unlink(space.workdir / "old/deep/mine.txt")
    assert space.call("workspace", op="commit", digest="d2") == {"deleted": 0, "digest": "d2"}  # said twice


def test_emptied_folders_go_too(space: Served) -> None:
    sync(space, "d1", "a/b/c/d.py", "a/e.py")
    sync(space, "d2", "a/e.py")
    assert not (space.workdir / "a/b").exists()
    sync(space, "d3")
    assert not (space.workdir / "a").exists()


def test_a_sync_that_broke_off_forgets_no_file(space: Served) -> None:
    space.call("workspace", op="begin", files=["half.py"], digest="d1")
    write(space, "half.py")
    assert check(space, space.workdir)["digest"] is None
    assert sync(space, "d2", "a.py")["deleted"] == 1
    space.call("workspace", op="begin", files=["a.py", "half.py"], digest="d3")
    write(space, "half.py")
    assert check(space, space.workdir)["digest"] is None  # so that a sync of d2 sorts it out
    assert sync(space, "d2", "a.py")["deleted"] == 1
    assert not (space.workdir / "half.py").exists()


def test_two_syncs_that_mix_are_noticed(space: Served) -> None:
    space.call("workspace", op="begin", files=["a"], digest="d1")
    space.call("workspace", op="begin", files=["b"], digest="d2")
    assert space.call("workspace", op="commit", digest="d1")["error"]["type"] == "WorkspaceError"
    assert space.call("workspace", op="commit", digest="d2")["digest"] == "d2"


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", "", ".", "a//b", "./a", ".rl/workspace.json", ".jobs/x", "a\0b", 7],
)
def test_hostile_names_are_refused(space: Served, name: object) -> None:
    assert space.call("workspace", op="begin", files=[name], digest="d")["error"]["type"] == "RequestError"


def test_a_tampered_manifest_deletes_nothing_outside(space: Served, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    sync(space, "d1", "a.py", "folder/b.py", "link.py", "dir.py")
    (space.workdir / "elsewhere").symlink_to(outside)
    (space.workdir / "folder" / "b.py").unlink()
    (space.workdir / "folder").rmdir()
    (space.workdir / "folder").symlink_to(outside)
    (space.workdir / "link.py").unlink()
    (space.workdir / "link.py").symlink_to(outside / "precious")
    (space.workdir / "dir.py").unlink()
    (space.workdir / "dir.py").mkdir()
    (outside / "b.py").write_text("x")
    job = space.start("true")
    space.wait(job)
    hostile = [
        "a.py", "folder/b.py", "link.py", "dir.py", "../outside/precious", str(outside / "precious"),
        "elsewhere/precious", f".jobs/{job}/exit.json", ".rl/workspace.json", ".rl/../.jobs", 5, None,
        "x" * 5000, "a\0",
    ]
    (space.workdir / ".rl" / "manifest.json").write_text(json.dumps({"digest": "d1", "files": hostile}))
    assert sync(space, "d2")["deleted"] == 2  # a.py and the link itself
    assert (outside / "precious").exists()
    assert (outside / "b.py").exists()
    assert (space.workdir / "dir.py").is_dir()
    assert space.read(job, "exit.json")["state"] == "SUCCEEDED"
    assert check(space, space.workdir)["status"] == "ours"


def test_a_workdir_that_is_not_marked_takes_no_sync(served: Served) -> None:
    assert served.call("workspace", op="begin", files=[], digest="d")["error"]["type"] == "WorkspaceError"


def test_what_is_outputs_now_is_not_deleted_though_a_sync_has_sent_it(served: Served, tmp_path: Path) -> None:
    from remote_launch.core.globs import parse_glob

    place = tmp_path / "proj"
    check(served, place, create=True)
    names = ["train.py", "checkpoints/a.pt", "runs/x/b.pt", "runs/x/log", "runs.py"]
    for digest, files in (("1", names), ("2", ["train.py"])):
        served.call("workspace", op="begin", workdir=str(place), files=files, digest=digest)
        for name in files:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).touch()
        globs = [parse_glob(text).to_wire() for text in ("checkpoints/", "runs/*/*.pt")]
        answer = served.call("workspace", op="commit", workdir=str(place), digest=digest, outputs=globs)
    assert answer["deleted"] == 2
    left = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert {name for name in left if not name.startswith(".rl/")} == {
        "train.py", "checkpoints/a.pt", "runs/x/b.pt"
    }
