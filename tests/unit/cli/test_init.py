"""The questions of rl init."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from remote_launch.cli.main import run
from remote_launch.core.inventory import load_inventory
from remote_launch.core.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Typed(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def typed(*lines: str) -> None:
        monkeypatch.setattr("sys.stdin", Typed("".join(f"{line}\n" for line in lines)))

    return typed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my proj ü"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RL_PROJECT", raising=False)
    return folder


def test_the_suggested_answers_make_an_inventory(folder: Path, answer: Callable[..., None]) -> None:
    answer("", "10.0.0.5", "", "", "")
    assert run(["init"]) == 0
    inventory = load_inventory(Project(root=folder))
    assert inventory.name == "my-proj"
    (server,) = inventory.servers.values()
    assert (server.name, server.hostname) == ("10.0.0.5", "10.0.0.5")
    assert (server.username, server.port, server.private_key) == (None, None, None)


def test_an_answer_that_cannot_be_is_asked_for_again(
    folder: Path, answer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    answer("a b", "proj", "box:0", "box.example.com:2222", "me;", "me", "~/k", "gpu a", "gpu-a")
    assert run(["init"]) == 0
    said = capsys.readouterr().err
    assert "'a b' can't be a project's name" in said
    assert "the port is not a number" in said
    assert "not a login name" in said
    assert "'gpu a' can't be a server's name" in said
    (server,) = load_inventory(Project(root=folder)).servers.values()
    assert (server.name, server.hostname, server.username, server.port) == (
        "gpu-a", "box.example.com", "me", 2222,
    )  # fmt: skip


def test_a_user_typed_with_the_host_is_not_asked_for(folder: Path, answer: Callable[..., None]) -> None:
    answer("proj", "me@box.example.com", "~/k", "")
    assert run(["init"]) == 0
    (server,) = load_inventory(Project(root=folder)).servers.values()
    assert (server.name, server.username) == ("box", "me")


def test_nothing_is_asked_where_there_is_an_inventory(
    folder: Path, answer: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "--local", "1"]) == 0
    answer()
    assert run(["init"]) == 1
    said = capsys.readouterr().err
    assert "there is an inventory already" in said
    assert "Project name" not in said
