"""A stand-in for nvidia-smi, for servers without a card: it answers rl's questions with the rows that a test
gives."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

UUID = "GPU-4c0f2a11-0001-4a6e-9d0b-0000000009{:02}"


def card_row(index: int, *, name: str = "NVIDIA A100-SXM4-40GB", used_mb: int = 4) -> str:
    """Return what nvidia-smi says of one card."""
    return (
        f"{index}, {UUID.format(index)}, {name}, 40960, {used_mb}, 0, 31, "
        f"00000000:{index + 1:02X}:00.0, 0, Disabled"
    )


def process_row(index: int, pid: int, memory_mb: int, command: str = "python") -> str:
    """Return what nvidia-smi says of a process on a card."""
    return f"{UUID.format(index)}, {pid}, {memory_mb}, {command}"


def stand_in(
    folder: Path,
    cards: str | Sequence[str] = "",
    processes: str | Sequence[str] = "",
    *,
    listed: str = "",
    fails: str = "",
    hangs: bool = False,
) -> Path:
    """Write an nvidia-smi into a folder and return the folder, which goes in front of PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"cards": cards, "processes": processes, "listed": listed}
    for name, text in rows.items():
        (folder / name).write_text(text if isinstance(text, str) else "".join(f"{row}\n" for row in text))
    answer = f"cat {shlex.quote(str(folder))}/"
    lines = ["#!/bin/sh"]
    if hangs:
        lines.append("exec sleep 60")
    if fails:
        lines.append(f"echo {shlex.quote(fails)}; exit 9")
    lines += [
        'case "$*" in',
        f"*--query-gpu=*) {answer}cards;;",
        f"*--query-compute-apps=*) {answer}processes;;",
        f"-L) {answer}listed;;",
        "*) echo unexpected question: $*; exit 2;;",
        "esac",
    ]
    program = folder / "nvidia-smi"
    program.write_text("\n".join(lines) + "\n")
    program.chmod(0o755)
    return folder
