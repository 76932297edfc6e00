"""NVIDIA's cards, as nvidia-smi tells of them in its query formats (``nvidia-smi --help-query-gpu``)."""

from __future__ import annotations

import os
import re

from .tools import Told, ask, find_tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FOLDER = "/proc/driver/nvidia/gpus"
_DEVICE = "/dev/nvidia"
_PLACES = ("/usr/bin/nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi", "/opt/bin/nvidia-smi")
_FORMAT = "--format=csv,noheader,nounits"
_FIELDS = ("index", "uuid", "name", "memory.total", "memory.used", "utilization.gpu")
# Drivers of before 2020 know no mig.mode.current, and refuse the whole question for it.
_MORE_FIELDS = ("temperature.gpu", "pci.bus_id", "ecc.errors.uncorrected.volatile.total", "mig.mode.current")
_PROCESS_FIELDS = ("gpu_uuid", "pid", "used_memory", "process_name")
_MIG = re.compile(r"\s+MIG (\S.*?)\s+Device\s+\d+: \(UUID: (MIG-\S+)\)")
_GPU = re.compile(r"GPU (\d+): .*\(UUID: ([^)\s]+)\)")
# What nvidia-smi says when it can't answer: the cause and what to do, in our words.
_FAILURES = {
    "version mismatch": "the driver was updated, but the running kernel still has the old one: reboot the"
    " server (or reload the nvidia modules)",
    "couldn't communicate with the nvidia driver": "the NVIDIA driver is not loaded (was the kernel updated"
    " without it?): install the driver for this kernel, or reboot the server",
    "driver not loaded": "the NVIDIA driver is not loaded: modprobe nvidia as root, or reboot the server",
    "insufficient permissions": "nvidia-smi may not ask: may this user open /dev/nvidia*?",
    "gpu is lost": "a card fell off the bus: reboot the server (dmesg | grep Xid says more)",
    "requires reset": "a card must be reset: nvidia-smi --gpu-reset as root, or reboot the server",
    "unable to determine the device handle": "a card does not answer: reboot the server (dmesg | grep Xid"
    " says more)",
    "nvml: unknown error": "NVML fails; in a container: it lost its devices, start it again",
    "no devices were found": "nvidia-smi finds no card",
}


def survey() -> tuple[list[dict[str, Any]], list[str]]:
    """Return NVIDIA's cards, as ``gpus.cards`` tells, and what is wrong, in words. Both empty where there is
    nothing of NVIDIA's."""
    program = find_tool("nvidia-smi", _PLACES)
    if program is None:
        there = _in_proc()
        return [], [f"{there} NVIDIA card(s), but no nvidia-smi to ask about them"] if there else []
    query = [program, f"--query-gpu={','.join(_FIELDS + _MORE_FIELDS)}", _FORMAT]
    running = [program, f"--query-compute-apps={','.join(_PROCESS_FIELDS)}", _FORMAT]
    told, processes = ask(query, running)
    if "not a valid field" in told.text.lower():
        (told,) = ask([program, f"--query-gpu={','.join(_FIELDS)}", _FORMAT])
    cards = parse_cards(told.text)
    problems = [] if cards and told.is_ok and not lost_cards(told.text) else [why_not(told)]
    if any(card["mig"] for card in cards):
        (listed,) = ask([program, "-L"])
        devices = parse_mig(listed.text)
        for card in cards:
            card["mig_devices"] = devices.get(card["uuid"], [])
    parse_processes(processes.text, cards)
    return cards, problems


def _in_proc() -> int:
    try:
        return len(os.listdir(FOLDER))
    except OSError:
        return 0


def lost_cards(text: str) -> bool:
    """Say whether, beside the cards that answer, one does not: nvidia-smi may exit with 0 all the same."""
    return "unable to determine" in text.lower() or "gpu is lost" in text.lower()


def why_not(told: Told) -> str:
    """Given an nvidia-smi that failed or named no card, return why in words."""
    if told.is_late:
        return (
            "nvidia-smi does not come back: the driver hangs (reboot the server if it stays so), or wakes all"
            " cards each time (nvidia-smi -pm 1 as root keeps them awake)"
        )
    text = told.text.lower()
    for sign, words in _FAILURES.items():
        if sign in text:
            return words
    last = " ".join(told.text.split())[:200]
    code = told.exit_code
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return f"nvidia-smi fails ({how}): {last or 'it says nothing'}"


def parse_cards(text: str) -> list[dict[str, Any]]:
    """Given the lines of --query-gpu, return the cards; what the driver hides ([N/A], [Not Supported]) is
    None."""
    cards = []
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) not in (len(_FIELDS), len(_FIELDS + _MORE_FIELDS)) or not words[0].isdigit():
            continue
        more = words[len(_FIELDS):] or [""] * len(_MORE_FIELDS)
        card = {
            "vendor": "nvidia", "index": int(words[0]), "uuid": words[1], "name": words[2],
            "memory_total_mb": number(words[3]), "memory_used_mb": number(words[4]),
            "utilization_percent": number(words[5]), "temperature_c": number(more[0]),
            "bus_id": more[1] or None, "ecc_errors": number(more[2]), "mig": more[3].lower() == "enabled",
            "mig_devices": [], "trouble": _trouble(words), "processes": [],
        }
        cards.append(card)
    return cards


def _trouble(words: list[str]) -> str | None:
    """Given a card's values, return what is wrong with it: they hold it in place of numbers."""
    said = " ".join(words).lower()
    if "requires reset" in said:
        return "must be reset (nvidia-smi --gpu-reset as root, or a reboot)"
    if "gpu is lost" in said:
        return "fell off the bus (reboot the server)"
    if "err!" in said or "unknown error" in said:
        return "gives errors in place of values (dmesg | grep Xid says more)"
    return None


def number(word: str) -> int | None:
    """Given "40960", "37 %" or "[N/A]", return the number or None."""
    found = re.match(r"(\d+)(?:\.\d+)?(?:\s*(?:MiB|%|C))?\Z", word.strip())
    return int(found.group(1)) if found else None


def parse_mig(text: str) -> dict[str, list[dict[str, str]]]:
    """Given the lines of ``nvidia-smi -L``, return the MIG devices by their card's uuid."""
    found: dict[str, list[dict[str, str]]] = {}
    card = ""
    for line in text.splitlines():
        is_card, is_device = _GPU.match(line), _MIG.match(line)
        if is_card:
            card = is_card.group(2)
        elif is_device:
            found.setdefault(card, []).append({"name": is_device.group(1), "uuid": is_device.group(2)})
    return found


def parse_processes(text: str, cards: list[dict[str, Any]]) -> None:
    """Given the lines of --query-compute-apps, put the processes to their cards."""
    by_uuid = {card["uuid"]: card for card in cards}
    by_uuid.update((device["uuid"], card) for card in cards for device in card["mig_devices"])
    for line in text.splitlines():
        words = [word.strip() for word in line.split(",", len(_PROCESS_FIELDS) - 1)]
        card = by_uuid.get(words[0])
        if card is None or len(words) != len(_PROCESS_FIELDS) or not words[1].isdigit():
            continue
        card["processes"].append({
            "pid": int(words[1]), "memory_mb": number(words[2]),
            "command": "" if words[3].startswith("[") else os.path.basename(words[3].split(" ")[0]),
        })


def opened_by_us(card: dict[str, Any]) -> list[int]:
    """Return the pids of our own processes that hold a card's device open."""
    device = f"{_DEVICE}{_minor(card)}"
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                folder = f"/proc/{pid}/fd"
                if any(os.readlink(f"{folder}/{fd}") == device for fd in os.listdir(folder)):
                    found.append(int(pid))
        except OSError:  # it has just ended, or keeps its files to itself
            continue
    return found


def _minor(card: dict[str, Any]) -> int:
    """Return the number of a card's device file; it need not be the index."""
    try:
        with open(f"{FOLDER}/{(card['bus_id'] or '')[-12:].lower()}/information") as file:
            found = re.search(r"Device Minor:\s*(\d+)", file.read(65536))
    except OSError:
        found = None
    return int(found.group(1)) if found else int(card["index"])
