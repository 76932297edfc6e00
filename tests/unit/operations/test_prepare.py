"""Servers that share a home: what one has made is made for the other, whichever was there first."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from remote_launch.operations import prepare
from remote_launch.operations.fleet import Fleet

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from remote_launch.core.inventory import Server

INVENTORY = """\
name: proj
servers:
  a: {connection: local, workdir: /w}
  b: {connection: local, workdir: /w}
environment: {manager: venv}
"""


class Home:
    """The home of both. a visits it first, but hears of that only when b has made the environment."""

    def __init__(self) -> None:
        self.made = threading.Event()
        self.visited = threading.Event()
        self.makers: list[str] = []

    def check(self, _fleet: Fleet, server: Server, _verb: str, request: dict[str, Any], **_: Any) -> Any:
        is_made = self.made.is_set()
        if server.name == "a":
            self.visited.set()
            assert self.made.wait(60)
        else:
            assert self.visited.wait(60)
        parts = [is_made] * len(request["recipe"]["parts"])
        return {
            "workspace": {"status": "ours"}, "home": "h", "parts": parts, "files_same": True,
            "shared_with": None if server.name == "a" else "a",
        }

    def make(self, _fleet: Fleet, server: Server, *_: Any) -> Any:
        self.makers.append(server.name)
        self.made.set()
        return SimpleNamespace(steps=[], versions={})


def test_who_was_there_first_but_made_nothing_is_told_who_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".remote").mkdir()
    (tmp_path / ".remote/configs.yaml").write_text(INVENTORY)
    home = Home()
    monkeypatch.setattr(prepare, "call", home.check)
    monkeypatch.setattr(prepare, "run_recipe", home.make)
    monkeypatch.setattr(prepare, "supply", lambda *_: None)
    with Fleet.load(str(tmp_path)) as fleet:
        servers = fleet.select()
        plan = prepare.plan_prepare(fleet, servers)
        outcomes = prepare.prepare(fleet, servers, plan, lambda _: None)
    outcomes.raise_on_error()
    assert home.makers == ["b"]
    assert outcomes.values["a"].unchanged
    assert outcomes.values["a"].shared_with == "b"
