"""AMD's cards, as ``rocm-smi --json`` tells of them. Its names of fields changed over the years ("Card
series", "Card Series", "Device Name"); some versions give "N/A" where others leave the field out."""

from __future__ import annotations

import json
import os
import re

from .tools import ask, find_tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PLACES = ("/opt/rocm/bin/rocm-smi", "/usr/bin/rocm-smi")
_QUESTION = (
    "--showid", "--showproductname", "--showuniqueid", "--showbus", "--showuse", "--showtemp",
    "--showmeminfo", "vram", "--json",
)
_NAMES = ("card series", "device name", "card model", "gfx version")
_TEMPERATURES = tuple(f"temperature (sensor {place}) (c)" for place in ("edge", "junction", "memory"))
# The graphics of a processor show up beside the real cards, with some 64 to 512 MiB of their own.
_SMALLEST_MB = 1024
_KFD = "/sys/class/kfd/kfd"


def survey(kfd: str = _KFD) -> tuple[list[dict[str, Any]], list[str]]:
    """Return AMD's cards, as ``gpus.cards`` tells, and what is wrong, in words. Both empty where there is no
    rocm-smi."""
    program = find_tool("rocm-smi", _PLACES)
    if program is None:
        return [], []
    (told,) = ask([program, *_QUESTION])
    cards = parse_cards(told.text)
    if told.is_late:
        return [], ["rocm-smi does not come back: the driver hangs; reboot the server if it stays so"]
    if not cards:
        last = " ".join(told.text.split())[:200]
        return [], [f"rocm-smi finds no card (exit code {told.exit_code}): {last or 'it says nothing'}"]
    add_processes(cards, kfd)
    return cards, []


def parse_cards(text: str) -> list[dict[str, Any]]:
    """Given what rocm-smi printed (warnings may stand before the JSON), return the cards."""
    try:
        told = json.loads(text[text.index("{"):text.rindex("}") + 1])
    except (ValueError, RecursionError):
        return []
    cards = []
    for key, values in told.items() if isinstance(told, dict) else ():
        place = re.match(r"card(\d+)\Z", key)
        if place and isinstance(values, dict):
            cards.append(_card(int(place.group(1)), {str(k).lower(): str(v) for k, v in values.items()}))
    cards.sort(key=lambda card: card["index"])
    uuids = [card["uuid"] for card in cards]
    for card in cards:  # the two dies of an MI250 say the same
        card["uuid"] = card["uuid"] if uuids.count(card["uuid"]) == 1 else ""
    real = [card for card in cards if (card["memory_total_mb"] or 0) >= _SMALLEST_MB]
    return real or cards


def _card(index: int, values: dict[str, str]) -> dict[str, Any]:
    def first(names: tuple[str, ...]) -> str:
        found = (values.get(name, "").strip() for name in names)
        return next((value for value in found if value and value.upper() != "N/A"), "")

    names = [values.get(name, "").strip() for name in _NAMES]
    names = [name for name in names if name and name.upper() != "N/A" and not name.startswith("0x")]
    return {
        "vendor": "amd", "index": index, "uuid": first(("unique id",)),
        "name": names[0] if names else "AMD GPU",
        "memory_total_mb": _mb(first(("vram total memory (b)",))),
        "memory_used_mb": _mb(first(("vram total used memory (b)",))),
        "utilization_percent": _number(first(("gpu use (%)",))),
        "temperature_c": _number(first(_TEMPERATURES)), "bus_id": first(("pci bus",)) or None,
        "ecc_errors": None, "mig": False, "mig_devices": [], "trouble": None, "processes": [],
    }


def _number(word: str) -> int | None:
    found = re.match(r"\d+(?:\.\d+)?\Z", word)
    return int(float(word)) if found else None


def _mb(word: str) -> int | None:
    size = _number(word)
    return None if size is None else size >> 20


def add_processes(cards: list[dict[str, Any]], kfd: str = _KFD) -> None:
    """Put the processes to their cards. The kernel says which process holds how much of which card;
    ``rocm-smi --showpids`` says only of how many."""
    by_gpu_id = {}
    by_bus = {(card["bus_id"] or "").lower(): card for card in cards}
    for node in _listed(f"{kfd}/topology/nodes"):
        folder = f"{kfd}/topology/nodes/{node}"
        lines = _read(f"{folder}/properties").splitlines()
        values = dict(line.split(" ", 1) for line in lines if " " in line)
        location, domain = _number(values.get("location_id", "")), _number(values.get("domain", "0"))
        if location is not None:
            bus = f"{domain or 0:04x}:{location >> 8 & 0xff:02x}:{location >> 3 & 0x1f:02x}.{location & 7}"
            if bus in by_bus:
                by_gpu_id[_read(f"{folder}/gpu_id").strip()] = by_bus[bus]
    for pid in _listed(f"{kfd}/proc"):
        for name in _listed(f"{kfd}/proc/{pid}"):
            card = by_gpu_id.get(name.partition("vram_")[2])
            used = _number(_read(f"{kfd}/proc/{pid}/{name}").strip()) if card else None
            if card and used and pid.isdigit():
                card["processes"].append({"pid": int(pid), "memory_mb": used >> 20, "command": ""})


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read(65536)
    except (OSError, UnicodeDecodeError):
        return ""
