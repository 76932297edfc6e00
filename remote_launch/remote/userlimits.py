"""What a user's processes may have here: open files, processes, locked memory, core files."""

from __future__ import annotations

import os
import resource

from . import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIMITS = {
    "nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC, "memlock": resource.RLIMIT_MEMLOCK,
    "core": resource.RLIMIT_CORE,
}


def limits() -> dict[str, Any]:
    """Return the soft limits by name (None: no limit), their hard ones as "nofile_hard" …; "threads" of this
    user's, "threads_limit" (the smallest of the user's and the cgroups'), and "cores_are_piped"."""
    found: dict[str, Any] = {}
    for name, number in _LIMITS.items():
        for key, value in zip((name, f"{name}_hard"), resource.getrlimit(number)):  # noqa: B905 - Python 3.8
            found[key] = None if value == resource.RLIM_INFINITY else value
    found["threads"], found["threads_limit"] = _threads(found["nproc"])
    found["cores_are_piped"] = _first_line("/proc/sys/kernel/core_pattern").startswith("|")
    return found


def _threads(nproc: int | None) -> tuple[int | None, int | None]:
    """Return how many threads count against the narrowest limit, and that."""
    mine = _own_threads()
    limit = None if os.getuid() == 0 else nproc  # root isn't held to it
    room = None if limit is None else limit - mine
    for folder in machine.cgroup_folders():
        most, now = (_first_line(os.path.join(folder, name)) for name in ("pids.max", "pids.current"))
        if most.isdigit() and now.isdigit() and (room is None or int(most) - int(now) < room):
            mine, limit = int(now), int(most)
            room = limit - mine
    return mine, limit


def _own_threads() -> int:
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == os.getuid():
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue  # gone meanwhile
    return count


def _first_line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline(4096).strip()
    except (OSError, UnicodeDecodeError):
        return ""
