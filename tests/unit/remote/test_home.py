"""Servers that share a home find that out, however they come."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from remote_launch.remote import home

if TYPE_CHECKING:
    from pathlib import Path


def test_of_two_servers_that_come_at_the_same_time_one_hears_of_the_other(tmp_path: Path) -> None:
    (tmp_path / ".rl").mkdir()
    for number in range(100):
        together = threading.Barrier(2)
        heard: dict[str, str | None] = {}

        def come(server: str, run: str = f"run{number}") -> None:
            together.wait()  # noqa: B023 - joined below
            heard[server] = home.visited_by(str(tmp_path), run, server)  # noqa: B023

        threads = [threading.Thread(target=come, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert heard in ({"a": None, "b": "a"}, {"a": "b", "b": None})


def test_a_server_that_asks_again_hears_of_nobody_and_old_visits_go(tmp_path: Path) -> None:
    (tmp_path / ".rl").mkdir()
    assert home.visited_by(str(tmp_path), "first", "a") is None
    assert home.visited_by(str(tmp_path), "first", "a") is None
    (old,) = (tmp_path / ".rl").iterdir()
    os.utime(old, (0, 0))
    assert home.visited_by(str(tmp_path), "second", "b") is None
    assert not old.exists()
    assert home.visited_by(str(tmp_path), "second", "a") == "b"
    assert home.visited_by(str(tmp_path), None, "a") is None
