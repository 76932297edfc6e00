"""Cards of a server, shown and chosen, over ``connection: local`` with a stand-in for nvidia-smi."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl
from tests.support.stand_in_cards import card_row, process_row, stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 2**22 + 7  # more than the kernel gives out


class Cards:
    """A project with the local servers ``a`` and ``b``, and a nvidia-smi of the test's own in front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin = folder / "project", folder / "bin"
        (folder / "home").mkdir()
        self.root.mkdir()
        self.rl = Rl(self.root, {"HOME": str(folder / "home"), "RL_PROJECT": ""})
        self.rl("init", "--local", "1", "--name", "proj", "--manager", "none")
        servers = "".join(
            f"  {name}: {{connection: local, workdir: {json.dumps(str(folder / name))}}}\n" for name in "ab"
        )
        text = f"name: proj\nservers:\n{servers}environment: {{manager: none}}\n"
        (self.root / ".remote/configs.yaml").write_text(text)
        (self.root / "train.py").write_text("print('hello')\n")

    def are(self, *rows: str, processes: tuple[str, ...] = (), **more: Any) -> None:
        stand_in(self.bin, rows, processes, **more)
        self.rl.env["PATH"] = f"{self.bin}:{self.rl.env['PATH']}"

    def prepare(self) -> None:
        self.rl("rsync")


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


@pytest.fixture
def mine() -> Iterator[int]:
    """The pid of a process of ours that lives as long as the test."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def test_the_table_tells_whose_each_card_is(cards: Cards, mine: int) -> None:
    cards.are(
        card_row(0, used_mb=9000),
        card_row(1, used_mb=30000),
        card_row(2),
        processes=(process_row(0, mine, 8800),),
    )
    said = cards.rl("servers", "--gpus", "--server", "a").stdout
    lines = [line.split() for line in said.splitlines()]
    assert [line[0] for line in lines[1:4]] == ["a"] * 3
    assert [next(word for word in line if word in ("yours", "held", "free")) for line in lines[1:4]] == [
        "yours", "held", "free",
    ]  # fmt: skip
    assert f"sleep (pid {mine}, 8.6 GiB)" in said
    assert "3 cards on 1 server: 1 free, 1 yours, 1 held by others; 38.1 of 120.0 GiB in use" in said
