"""A stand-in for nvidia-smi, for servers without a card: it answers rl's questions with the rows that a test
gives."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

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


def program(
    cards: str | Sequence[str] = "",
    processes: str | Sequence[str] = "",
    *,
    listed: str = "",
    fails: str = "",
    hangs: bool = False,
) -> str:
    """Return the stand-in, a shell script."""
    if hangs:
        return "#!/bin/sh\nexec sleep 60\n"
    if fails:
        return f"#!/bin/sh\necho {shlex.quote(fails)}\nexit 9\n"
    answers = {"*--query-gpu=*": cards, "*--query-compute-apps=*": processes, "-L": listed}
    lines = ["#!/bin/sh", 'case "$*" in']
    for question, rows in answers.items():
        text = rows if isinstance(rows, str) else "".join(f"{row}\n" for row in rows)
        lines.append(f"{question}) printf %s {shlex.quote(text)};;")
    return "\n".join([*lines, "*) echo unexpected question: $*; exit 2;;", "esac", ""])


def stand_in(
    folder: Path, cards: str | Sequence[str] = "", processes: str | Sequence[str] = "", **more: Any
) -> Path:
    """Write an nvidia-smi (see ``program``) into a folder and return the folder, which goes in front of
    PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / "nvidia-smi.new"
    aside.write_text(program(cards, processes, **more))
    aside.chmod(0o755)
    aside.replace(folder / "nvidia-smi")  # somebody may be about to run it
    return folder
