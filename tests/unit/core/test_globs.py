"""Paths with wildcards: what they match, and that rsync leaves out the same."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from remote_launch.core.globs import check_output, parse_glob, rsync_excludes
from remote_launch.transport.listing import list_files

if TYPE_CHECKING:
    from pathlib import Path

TREE = [
    "a.pt", "b.txt", "runs/one/last.pt", "runs/one/log", "runs/two/deep/last.pt", "runs/.hidden/last.pt",
    "check points/it's.pt", "check points/[1].pt", "check points/1.pt",
]  # fmt: skip


@pytest.mark.parametrize(("text", "base", "parts"), [
    ("checkpoints", "checkpoints", ()),
    ("./checkpoints//last.pt/", "checkpoints/last.pt", ()),
    ("runs/*/last.pt", "runs", ("*", "last.pt")),
    ("*.pt", "", ("*.pt",)),
    ("/scratch/x/**/[ab].pt", "/scratch/x", ("**", "[ab].pt")),
    ("~/data", "~/data", ()),
    (".", "", ()),
    ("/", "/", ()),
])
def test_a_path_is_parted_where_its_wildcards_begin(text: str, base: str, parts: tuple[str, ...]) -> None:
    glob = parse_glob(text)
    assert (glob.base, glob.parts) == (base, parts)


@pytest.mark.parametrize("text", ["", "a/../b", "../x", "~other/x", "a\0b", "x[z-a]"])
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_glob(text)


@pytest.mark.parametrize("text", ["*", "**", ".", "./", "/abs", "~/x", "../x", ".rl/env", ".jobs", "***/"])
def test_what_can_not_be_outputs(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_output(text)


@pytest.mark.parametrize(("text", "expected"), [
    ("*.pt", ["a.pt"]),
    ("?.pt", ["a.pt"]),
    ("[!b].*", ["a.pt"]),
    ("runs/*/last.pt", ["runs/one/last.pt"]),
    ("runs/**/last.pt", ["runs/one/last.pt", "runs/two/deep/last.pt"]),
    ("**/last.pt", ["runs/one/last.pt", "runs/two/deep/last.pt"]),
    ("**/*.pt", [name for name in TREE if name.endswith(".pt") and "hidden" not in name]),
    ("check points/[0-9].pt", ["check points/1.pt"]),
    ("check points/[[]1[]].pt", ["check points/[1].pt"]),
])
def test_what_wildcards_match(text: str, expected: list[str]) -> None:
    glob = parse_glob(text)
    prefix = f"{glob.base}/" if glob.base else ""
    names = [name for name in TREE if name.startswith(prefix) and glob.matches(name.removeprefix(prefix))]
    assert names == expected


@pytest.mark.parametrize(("text", "covered", "others"), [
    ("ck", ["ck", "ck/a", "ck/a/b"], ["ckx", "x/ck"]),
    ("ck/r*", ["ck/r1", "ck/r1/a.pt"], ["ck", "ck/a", "r1"]),
    ("**/*.pt", ["a.pt", "x/a.pt", "x/a.pt/below"], ["x/a.txt"]),
])
def test_what_a_path_covers(text: str, covered: list[str], others: list[str]) -> None:
    glob = parse_glob(text)
    assert [path for path in (*covered, *others) if glob.covers(path)] == covered


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
@pytest.mark.parametrize("text", ["*.pt", "runs", "runs/", "runs/*/last.pt", "runs/**/last.pt", "**/last.pt"])
def test_rsync_leaves_out_what_is_meant_and_what_is_below(tmp_path: Path, text: str) -> None:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    glob = parse_glob(text)
    prefix = f"{glob.base}/" if glob.base else ""

    def meant(name: str) -> bool:
        if not glob.parts:
            return name == glob.base or name.startswith(prefix)
        return name.startswith(prefix) and glob.matches(name.removeprefix(prefix))

    left = {file.path for file in list_files(tmp_path, excludes=rsync_excludes([text])).files}
    # Of hidden names rsync leaves out more: it has no rule of its own for them.
    visible = {name for name in TREE if "hidden" not in name}
    assert left & visible == {name for name in visible if not meant(name)}
