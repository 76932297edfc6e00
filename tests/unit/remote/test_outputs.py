"""What jobs have written, as a server tells it, and its removal: through real folders, inside the workdir."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.globs import parse_glob

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served import Served

ME = {"project_id": "p1", "project": "mine"}


@pytest.fixture
def work(served: Served) -> Path:
    """A workdir of ours with things in it."""
    served.call("workspace", op="check", create=True, **ME)
    for name in ("checkpoints/last.pt", "checkpoints/old/1.pt", "runs/a/x.pt", "runs/b/x.pt", "runs/b/log"):
        path = served.workdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (served.workdir / "train.py").write_text("code")
    return served.workdir


def ask(served: Served, op: str, *globs: str, **request: Any) -> dict[str, Any]:
    wire = [parse_glob(text).to_wire() for text in globs]
    return served.call("outputs", op=op, globs=wire, **{**ME, **request})


def look(served: Served, text: str) -> dict[str, Any]:
    [found] = ask(served, "look", text)["found"]
    return found


def files(found: dict[str, Any]) -> list[str]:
    return [name for name, *_ in found["files"]]


class TestLook:
    @pytest.mark.parametrize(("text", "kind", "base", "names", "found"), [
        ("checkpoints/", "folder", "checkpoints", [], ["last.pt", "old/1.pt"]),
        ("checkpoints/last.pt", "file", "checkpoints/last.pt", ["last.pt"], ["last.pt"]),
        ("runs/*/x.pt", "matches", "runs", ["a/x.pt", "b/x.pt"], ["a/x.pt", "b/x.pt"]),
        ("runs/[b]", "matches", "runs", ["b"], ["b/log", "b/x.pt"]),
        ("runs/**", "matches", "runs", ["a", "b"], ["a/x.pt", "b/log", "b/x.pt"]),
        ("**/x.pt", "matches", "", ["runs/a/x.pt", "runs/b/x.pt"], ["runs/a/x.pt", "runs/b/x.pt"]),
        ("nothing", "none", "nothing", [], []),
        ("runs/*.nothing", "none", "runs", [], []),
    ])
    def test_paths_and_wildcards(
        self, served: Served, work: Path, text: str, kind: str, base: str, names: list[str], found: list[str]
    ) -> None:
        del work
        told = look(served, text)
        assert (told["kind"], told["base"], told["names"], files(told)) == (kind, base, names, found)
        assert (told["count"], told["whole"]) == (len(found), True)
        assert told["size_bytes"] == sum(size for _, size, *_ in told["files"])

    def test_the_whole_workdir_is_without_what_is_rls(self, served: Served, work: Path) -> None:
        (work / ".jobs").mkdir()
        (work / ".jobs" / "x").touch()
        told = look(served, ".")
        assert "train.py" in files(told)
        assert not [name for name in files(told) if name.startswith(".")]

    def test_a_name_with_brackets_is_that_name(self, served: Served, work: Path) -> None:
        (work / "runs" / "[b]").mkdir()
        (work / "runs" / "[b]" / "mine").touch()
        assert files(look(served, "runs/[b]")) == ["mine"]

    def test_names_of_any_bytes(self, served: Served, work: Path) -> None:
        name = b"checkpoints/a\xff\n'.pt"
        with open(os.path.join(os.fsencode(work), name), "wb"):
            pass
        told = look(served, "checkpoints/a*")
        assert [os.fsencode(name) for name in told["names"]] == [b"a\xff\n'.pt"]

    def test_a_link_is_followed_where_it_is_named_and_nowhere_else(
        self, served: Served, work: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk" / "big.pt").write_text("big")
        (work / "linked").symlink_to(tmp_path / "disk")
        (work / "runs" / "out").symlink_to(tmp_path / "disk")
        assert files(look(served, "linked")) == ["big.pt"]
        assert "out" in files(look(served, "runs"))
        assert not [name for name in files(look(served, "runs")) if name.startswith("out/")]
        assert look(served, "runs/*/big.pt")["kind"] == "none"

    def test_absolute_paths_and_home(self, served: Served, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "a.pt").touch()
        assert files(look(served, f"{tmp_path}/elsewhere/*.pt")) == ["a.pt"]
        assert look(served, "~/nothing-of-that-name")["kind"] == "none"

    def test_what_makes_no_sense_is_refused(self, served: Served) -> None:
        for glob in (7, {"base": "../x", "parts": []}, {"base": "x", "parts": ["("]}, {"base": "x"}):
            answer = served.call("outputs", op="look", globs=[glob])
            assert answer["error"]["type"] == "RequestError", glob

    def test_a_preflight_tells_of_them_too(self, served: Served, work: Path) -> None:
        del work
        answer = served.call("preflight", outputs=[parse_glob("checkpoints").to_wire()])
        assert files(answer["outputs"][0]) == ["last.pt", "old/1.pt"]


class TestRemove:
    def test_goes_and_nothing_else(self, served: Served, work: Path) -> None:
        answer = ask(served, "remove", "checkpoints/", "runs/*/x.pt", "nothing/here")
        assert [found["files"] for found in answer["found"]] == [2, 2, 0]
        assert [found["kept"] for found in answer["found"]] == [[], [], []]
        left = {str(path.relative_to(work)) for path in work.rglob("*") if path.is_file()}
        assert {name for name in left if not name.startswith(".rl/")} == {"runs/b/log", "train.py"}

    def test_not_while_a_job_runs(self, served: Served, work: Path) -> None:
        served.start("sleep 600")
        answer = ask(served, "remove", "checkpoints")
        assert "a job still runs there" in answer["error"]["message"]
        assert (work / "checkpoints/last.pt").exists()
        assert len(ask(served, "look", "checkpoints")["running"]) == 1

    def test_no_link_is_followed(self, served: Served, work: Path, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk" / "big.pt").touch()
        (work / "linked").symlink_to(tmp_path / "disk")
        (work / "checkpoints" / "out").symlink_to(tmp_path / "disk")
        found = ask(served, "remove", "linked", "linked/*.pt", "linked/big.pt", "checkpoints")["found"]
        assert [[kept["why"] for kept in one["kept"]] for one in found] == [
            ["it is a link to a folder"], ["a link leads there"], ["a link leads there"], []
        ]
        assert (tmp_path / "disk" / "big.pt").exists()
        assert not (work / "checkpoints").exists()

    def test_what_a_sync_has_sent_stays(self, served: Served, work: Path) -> None:
        (work / ".rl" / "manifest.json").write_text(
            json.dumps({"digest": "d", "files": ["runs/b/log", "train.py"]})
        )
        found = ask(served, "remove", "runs/b", "*.py", "runs/a")["found"]
        assert [[kept["why"] for kept in one["kept"]] for one in found] == [
            ["a sync has sent it"], ["a sync has sent it"], []
        ]
        assert (work / "runs/b/log").exists()
        assert not (work / "runs/a").exists()

    @pytest.mark.parametrize("text", [".", "/etc/nothing", "~/x", ".rl", ".jobs", ".rl/*"])
    def test_what_is_no_output_is_refused(self, served: Served, work: Path, text: str) -> None:
        del work
        assert ask(served, "remove", text)["error"]["type"] == "RequestError"
        assert (served.workdir / ".rl").exists()

    def test_not_in_a_folder_that_is_not_ours(self, served: Served, work: Path) -> None:
        answer = ask(served, "remove", "checkpoints", project_id="p2", project="other")
        assert answer["error"]["type"] == "WorkspaceError"
        assert (work / "checkpoints/last.pt").exists()
