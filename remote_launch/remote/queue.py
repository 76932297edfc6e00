"""Who has the slots of this machine, and who waits for them: what ``rl queue`` shows."""

from __future__ import annotations

import os
import time

from . import gpus
from .jobdir import number
from .slots import holder_of, machine_of, note_of, slots_folder
from .tickets import line_folder, tickets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def queue(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"slots": how many the inventory says, or null, "slots_dir": $RL_SLOTS_DIR of the server's env,
    or null}, return {"lines": [{"kind", "slots": [{"name", "holder", "used_by"}], "waiting": [notes]}],
    "problems": what is wrong with the cards' driver, in words, "machine", "time"}.

    "holder" and "waiting" are the notes that jobs leave of themselves (see ``turn``), "used_by" says of a
    card whose slot is free who is on it all the same.
    """
    asked = request.get("slots_dir")
    folder = slots_folder({"RL_SLOTS_DIR": asked} if isinstance(asked, str) else dict(os.environ))
    count = int(number(request, "slots", 0) or 0)
    told = gpus.survey()
    cards = told["cards"]
    names = {"slot": [str(name) for name in range(count)], "gpu": [str(card["index"]) for card in cards]}
    busy = gpus.in_use(cards)
    lines = [
        {
            "kind": kind,
            "slots": [
                {"name": name, "holder": holder, "used_by": busy.get(name) if kind == "gpu" else None}
                for name, holder in _holders(folder, kind, names[kind])
            ],
            "waiting": _waiting(line_folder(folder, kind)),
        }
        for kind in ("slot", "gpu")
    ]
    shown = [line for line in lines if line["slots"] or line["waiting"]]
    return {
        "lines": shown, "problems": told["problems"], "machine": machine_of(folder), "time": time.time(),
    }


def _holders(folder: str, kind: str, names: list[str]) -> list[tuple[str, dict[str, Any] | None]]:
    """Return each slot with its holder's note; those that are held still though there are none now."""
    known = [(name, holder_of(folder, kind, name)) for name in names]
    others = sorted(
        name[len(kind) + 1:] for name in os.listdir(folder)
        if name.startswith(f"{kind}-") and name[len(kind) + 1:] not in names
    )
    held = ((name, holder_of(folder, kind, name)) for name in others)
    return known + [(name, holder) for name, holder in held if holder is not None]


def _waiting(line: str) -> list[dict[str, Any]]:
    notes = (note_of(os.path.join(line, f"{number:012d}")) for number in tickets(line))
    return [note for note in notes if note is not None]
