"""A server's graphics cards, who uses them, and which of them somebody else holds. NVIDIA's and AMD's, one
list."""

from __future__ import annotations

import contextlib
import os
import pwd

from . import nvidia, rocm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence

# A process of another user that holds less than this doesn't make a card busy: NVIDIA's own services (MPS,
# DCGM) sit on idle cards with some 30 MiB; the smallest CUDA program takes over 100.
OTHERS_MEMORY_MB = 100
# Memory that is in use and that no process in the list explains. A card's own needs and a desktop stay below;
# what runs in another container shows in no other way.
HIDDEN_MEMORY_MB = 2048
UNKNOWN = "unknown"
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, the same on every Linux
SHOWS = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES"}
ROCR = "ROCR_VISIBLE_DEVICES"  # what it hides, HIP's numbers do not count
VISIBLE = (*SHOWS.values(), ROCR)


def survey() -> dict[str, Any]:
    """Return {"cards": as ``cards`` tells, "problems": what is wrong, in words, "visible": what the login
    environment sets of VISIBLE}."""
    (found, problems), (more, other) = nvidia.survey(), rocm.survey()
    found, problems = found + more, problems + other
    all_seen = sees_all()
    for card in found:
        for process in card["processes"]:
            process.update(owner(process["pid"]))
            process["command"] = command(process["pid"]) or process["command"]
        if all_seen:  # an unknown one has ended since the driver was asked
            card["processes"] = [one for one in card["processes"] if one["user"] != UNKNOWN]
        elif card["vendor"] == "nvidia":
            _know_our_own(card)
        card["busy"] = busy(card)
    return {
        "cards": found, "problems": problems,
        "visible": {name: os.environ[name] for name in VISIBLE if name in os.environ},
    }


def cards() -> list[dict[str, Any]]:
    """Return the cards by index: {vendor ("nvidia" | "amd"), index, uuid, name, memory_total_mb,
    memory_used_mb, utilization_percent, temperature_c, bus_id, ecc_errors, mig, mig_devices: [{name, uuid}],
    trouble (words, or None), busy (who else holds it, or None), processes: [{pid, user, is_own, memory_mb,
    command}]}. Megabytes are MiB, as the drivers count; a value that the driver hides is None.

    "user" is "unknown" and "is_own" None for a process that isn't seen from here: in another container, say.
    """
    found: list[dict[str, Any]] = survey()["cards"]
    return found


def busy(card: dict[str, Any]) -> str | None:
    """Given a card, return who else holds it: "alice (python, pid 123, 30000 MiB)"; None when nobody does.

    Our own processes don't count; neither do another user's small ones, nor memory that a desktop may take.
    """
    others = [
        process for process in card["processes"]
        if process["is_own"] is not True
        and (process["memory_mb"] is None or process["memory_mb"] > OTHERS_MEMORY_MB)
    ]
    if others:
        return ", ".join(_words(process) for process in others[:3]) + (" …" if len(others) > 3 else "")
    explained = [process["memory_mb"] for process in card["processes"]]
    used = card["memory_used_mb"]
    if used is None or None in explained or card["mig"]:
        return None
    hidden = used - sum(explained)
    if hidden > HIDDEN_MEMORY_MB:
        return f"a process that can't be seen from here ({hidden} MiB; another container?)"
    return None


def _words(process: dict[str, Any]) -> str:
    memory = process["memory_mb"]
    parts = [process["command"], f"pid {process['pid']}", f"{memory} MiB" if memory is not None else ""]
    return f"{process['user']} ({', '.join(part for part in parts if part)})"


def _know_our_own(card: dict[str, Any]) -> None:
    """In a container the driver names no process, or names it by a pid of the machine. What holds a card's
    device open here is ours; then so is what can't be seen on that card."""
    unknown = [one for one in card["processes"] if one["user"] == UNKNOWN]
    if len(unknown) < len(card["processes"]):
        return
    pids = nvidia.opened_by_us(card)
    if pids:
        used = sum(one["memory_mb"] or 0 for one in unknown) or card["memory_used_mb"]
        first = {"pid": pids[0], "memory_mb": used, "command": command(pids[0]), **owner(pids[0])}
        rest = [{"pid": pid, "memory_mb": 0, "command": command(pid), **owner(pid)} for pid in pids[1:]]
        card["processes"] = [first, *rest]


def sees_all() -> bool:
    """Say whether every process of this machine is in our /proc: no container's, no hidepid."""
    try:
        os.stat("/proc/1")
        return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def owner(pid: int) -> dict[str, Any]:
    """Given a pid, return {"user", "is_own"}."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:  # over already, or of another pid namespace
        return {"user": UNKNOWN, "is_own": None}
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return {"user": name, "is_own": uid == os.getuid()}


def command(pid: int) -> str:
    """Given a pid, return the program and its script, "python train.py"; "" when it can't be read. Its
    other arguments may hold secrets."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    shown = [os.path.basename(words[0])]
    if shown[0].startswith("python"):
        rest = [word for word in words[1:] if word not in ("-u", "-O", "-B", "-E", "-s", "-I")]
        if rest[:1] == ["-m"]:
            shown += rest[:2]
        elif rest and rest[0].endswith(".py"):
            shown.append(os.path.basename(rest[0]))
    return " ".join(shown)[:80]


def in_use(found: list[dict[str, Any]], names: Sequence[str] = ()) -> dict[str, str]:
    """Return those of the cards that others use, or a job of ours that did not queue: {index: who}. One of
    ``names`` that the driver tells nothing of is none to begin on."""
    used = dict.fromkeys(names, "nobody: the driver tells nothing of it")
    for card in found:
        trouble = card.get("trouble")
        who = card.get("busy") or (f"nobody: it {trouble}" if trouble else _own_job(card))
        used.pop(str(card["index"]), None)
        if who:
            used[str(card["index"])] = str(who)
    return used


def _own_job(card: dict[str, Any]) -> str | None:
    """Return who of our own jobs is on a card whose slot was free. A notebook or the like doesn't count."""
    for process in card["processes"]:
        if process.get("is_own"):
            with contextlib.suppress(OSError), open(f"/proc/{process['pid']}/environ", "rb") as file:
                environ = b"\0" + file.read()
                if b"\0RL_JOB_ID=" in environ:
                    how = "" if b"\0RL_SLOTS=" in environ else " that did not queue"
                    return f"a job of yours{how} (pid {process['pid']})"
    return None
