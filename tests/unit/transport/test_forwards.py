"""A tunnel that ends with this process leaves nothing in ssh's master."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.transport.forwards import SocketForward

if TYPE_CHECKING:
    from pathlib import Path


class FakeMaster:
    """A master that only notes what it is asked for: nothing listens on the socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = SimpleNamespace(name="s0")
        self.asked: list[str] = []

    def birth(self) -> tuple[int, int] | None:
        return None

    def control(self, what: str, *_: str) -> Any:
        self.asked.append(what)
        return SimpleNamespace(returncode=0, stderr=b"")


def test_a_connection_that_comes_at_its_end_does_not_open_it_again(tmp_path: Path) -> None:
    master = FakeMaster(tmp_path)
    forward = SocketForward(master, lambda: None, ("localhost", 80), 0)  # type: ignore[arg-type]
    forward.close()
    with pytest.raises(OSError, match="closed"):
        forward._join()
    assert master.asked == ["forward", "cancel"]
