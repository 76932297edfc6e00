"""Where the outputs of servers differ, and what is said of it before a launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.globs import parse_glob
from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.project import Project
from remote_launch.errors import SyncError
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.looking import checked
from remote_launch.operations.outputs import differences, notice

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000.0
SERVERS = {name: Server(name=name, workdir="~/w") for name in "abc"}


def told(**files: Any) -> list[dict[str, Any]]:
    """What a server tells of the folder ck: a file's name to its size, or to size and time."""
    listed = [
        [name if "." in name else f"{name}.pt", *(value if isinstance(value, tuple) else (value, NOW)), None]
        for name, value in sorted(files.items())
    ]
    return [{
        "text": "ck", "base": "ck", "kind": "folder" if listed else "none", "names": [], "files": listed,
        "count": len(listed), "size_bytes": sum(item[1] for item in listed), "whole": True,
    }]  # fmt: skip


def found(servers: dict[str, list[dict[str, Any]]], **clocks: float) -> list[str]:
    globs = [parse_glob("ck/")]
    seen = {name: checked(SERVERS[name], items, globs) for name, items in servers.items()}
    return [str(difference) for difference in differences(seen, clocks)]


class TestDifferences:
    def test_the_same_everywhere_is_none(self) -> None:
        assert found({"a": told(last=10), "b": told(last=10)}) == []
        assert found({"a": told(), "b": told()}) == []
        assert found({"a": told(last=10)}) == []

    def test_a_file_that_some_lack(self) -> None:
        assert found({"a": told(last=10), "b": told()}) == ["ck/last.pt is on a alone"]
        assert found({"a": told(last=10, two=3), "b": told(), "c": told(last=10, two=3)}) == [
            "ck/last.pt (and 1 more) are on a and c, not on b"
        ]

    def test_some_lack_it_and_the_others_have_different_ones(self) -> None:
        servers = {"a": told(last=(9, NOW)), "b": told(last=(10, NOW + 3600)), "c": told()}
        assert found(servers) == [
            "ck/last.pt is on a and b, not on c, and not the same where it is: the newest is b's"
        ]

    def test_another_size_or_another_time(self) -> None:
        assert found({"a": told(last=10), "b": told(last=11)})
        [text] = found({"a": told(last=(10, NOW)), "b": told(last=(10, NOW + 3600))})
        assert text == "ck/last.pt is not the same on a and b: the newest is b's"

    def test_each_node_may_have_written_its_own_at_about_the_same_time(self) -> None:
        assert found({"a": told(last=(10, NOW)), "b": told(last=(10, NOW + 20))}) == []
        # b's clock is an hour ahead.
        servers = {"a": told(last=(10, NOW)), "b": told(last=(10, NOW + 3605))}
        assert found(servers, a=NOW + 100, b=NOW + 3700) == []
        assert found(servers, a=NOW + 4000, b=NOW + 4000)

    def test_what_each_node_writes_for_itself_does_not_count(self) -> None:
        globs = [parse_glob("ck/")]
        servers = {"a": told(last=1, r0=5), "b": told(last=1, r1=5)}
        seen = {name: checked(SERVERS[name], items, globs) for name, items in servers.items()}
        assert len(differences(seen)) == 2
        assert differences(seen, per_node=[parse_glob("ck/r*")]) == []

    @pytest.mark.parametrize("name", ["events.out.tfevents.17.host.1", "train.log", "curve.png", "m.jsonl"])
    def test_logs_and_figures_do_not_count(self, name: str) -> None:
        assert found({"a": told(**{name: 10}), "b": told()}) == []

    def test_of_lists_that_were_cut_off_the_common_part_counts(self) -> None:
        cut = told(a=1, b=1)
        cut[0].update(whole=False, count=900)
        assert found({"a": cut, "b": told(a=1, b=1, c=1)}) == []
        assert found({"a": cut, "b": told(b=1, c=1)}) == ["ck/a.pt is on a alone"]

    def test_an_odd_name_steers_no_terminal(self) -> None:
        [text] = found({"a": told(**{"\x1b[2Jx.pt": 1}), "b": told()})
        assert text.isprintable()


class TestNotice:
    @pytest.fixture
    def fleet(self, tmp_path: Path) -> Fleet:
        project = Project(root=tmp_path)
        return Fleet(
            project,
            Inventory(
                name="p", servers=SERVERS, sync=Sync(), path=project.config, project=project, outputs=("ck/",)
            ),
        )

    def test_says_what_to_do(self, fleet: Fleet) -> None:
        answers = {"a": {"outputs": told()}, "b": {"outputs": told(last=10)}}
        [text] = notice(fleet, fleet.select(["a", "b"]), answers)
        assert "ck/last.pt is on b alone" in text
        assert "rl push-outputs b" in text

    def test_an_answer_of_any_shape_stops_no_launch(self, fleet: Fleet) -> None:
        for rubbish in (None, 7, [], [{}], [{"kind": "folder", "base": "../x"}], "x"):
            answers = {"a": {"outputs": rubbish, "time": "x"}, "b": {"outputs": told(last=10)}}
            assert notice(fleet, fleet.select(["a", "b"]), answers) == []


class TestChecked:
    @pytest.mark.parametrize("item", [
        {"kind": "folder", "base": "/etc"},
        {"kind": "file", "base": "runs", "names": ["../../.bashrc"]},
        {"kind": "matches", "base": "runs", "names": ["../x.pt"]},
        {"kind": "matches", "base": "runs", "names": ["/etc/x.pt"]},
        {"kind": "matches", "base": "runs", "names": ["a/authorized_keys"]},
        {"kind": "matches", "base": "runs", "names": ["a/./x.pt"]},
        {"kind": "strange", "base": "runs"},
        {},
    ])  # fmt: skip
    def test_names_that_were_not_asked_for_are_refused(self, item: dict[str, Any]) -> None:
        with pytest.raises(SyncError, match="makes no sense"):
            checked(SERVERS["a"], [item], [parse_glob("runs/*/x.pt")])
        with pytest.raises(SyncError, match="makes no sense"):
            checked(SERVERS["a"], [], [parse_glob("runs/*/x.pt")])

    def test_links_that_lead_out_are_none_of_the_files(self) -> None:
        item = told(last=1)[0]
        item["files"] += [["a/in", 1, NOW, "../last.pt"], ["out", 1, NOW, "../x"], ["abs", 1, NOW, "/etc"]]
        [one] = checked(SERVERS["a"], [item], [parse_glob("ck")])
        assert [file.path for file in one.files] == ["last.pt", "a/in"]
        assert one.links_out == ("out", "abs")

    def test_files_that_were_not_asked_for_are_none(self) -> None:
        files = [[name, 1, NOW, None] for name in ("a/x.pt", "train.py", "../up", "/etc/passwd", "b/x.pt")]
        item = {"kind": "matches", "base": "runs", "names": ["a/x.pt"], "files": files}
        [one] = checked(SERVERS["a"], [item], [parse_glob("runs/*/x.pt")])
        assert [file.path for file in one.files] == ["a/x.pt"]
