"""The table of cards on a narrow terminal."""

from __future__ import annotations

import io

from rich.console import Console

from remote_launch.cli.gpu_table import narrow_rows
from remote_launch.core.cards import Card, CardProcess, Survey
from remote_launch.errors import ConnectTimeoutError
from remote_launch.operations.fanout import Outcome, Outcomes


def card(index: int, *, mine: bool = False) -> Card:
    process = CardProcess(pid=12743, user="ubuntu", is_own=True, memory_mb=29_000, command="python train.py")
    return Card(
        vendor="nvidia", index=index, uuid=f"GPU-{index}", name="NVIDIA H100 80GB HBM3",
        memory_total_mb=81_559, memory_used_mb=30_000 if mine else 4, utilization_percent=100,
        temperature_c=60, processes=(process, process) if mine else (),
    )  # fmt: skip


def test_each_card_has_one_line_of_the_terminals_width() -> None:
    cards = tuple(card(index, mine=index == 1) for index in range(8))
    found = [Outcome(server=f"server-{number}", value=Survey(cards=cards)) for number in range(1, 5)]
    outcomes = Outcomes([
        *found, Outcome(server="bare", value=Survey()),
        Outcome(server="away", error=ConnectTimeoutError("away", "no answer")),
    ])  # fmt: skip
    for columns in (60, 83):
        screen = io.StringIO()
        Console(file=screen, width=columns).print(narrow_rows(outcomes, columns).table(columns))
        lines = [line.rstrip() for line in screen.getvalue().splitlines() if "─" not in line and line.strip()]
        assert len(lines) == 1 + 4 * 8 + 2, screen.getvalue()
        assert max(map(len, lines)) <= columns
        assert lines[1].split() == ["server-1", "0", "0/80", "100", "%", "free"]
        assert lines[2].split()[:6] == ["1", "29/80", "100", "%", "yours", "you:"]
        assert lines[2].endswith("…")
        assert (lines[-2].split(), lines[-1].split()) == (["bare", "none"], ["away", "failed"])
