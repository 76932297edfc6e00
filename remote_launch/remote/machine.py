"""What a server is made of: processors, memory, network interfaces. Each question answered fast, and
without root."""

from __future__ import annotations

import os
import signal
import time


def cpus() -> int:
    """Return the processors that this process may use: affinity, and the cgroup's quota (containers,
    Slurm)."""
    count = len(os.sched_getaffinity(0))
    quota = _cgroup_cpus()
    return max(1, min(count, -int(-quota // 1))) if quota else count


def _cgroup_cpus() -> float | None:
    """Return the smallest cpu quota of our cgroup and its parents, in processors; None without one."""
    found = []
    for folder in cgroup_folders():
        words = (_read(os.path.join(folder, "cpu.max")) or "").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            found.append(int(words[0]) / int(words[1]))
        quota, period = (
            _read(os.path.join(folder, f"cpu.cfs_{name}_us")) or "" for name in ("quota", "period")
        )
        if quota.strip().isdigit() and period.strip().isdigit():  # version 1; "-1" is no quota
            found.append(int(quota) / int(period))
    return min(found) if found else None


def cgroup_folders() -> list[str]:
    """Return the folders of our cgroup and its parents (version 2, and version 1's cpu and memory
    controllers)."""
    folders = []
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = "/sys/fs/cgroup"
        elif "cpu" in controllers.split(",") or "memory" in controllers.split(","):
            base = f"/sys/fs/cgroup/{controllers}"
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        folders += [os.path.join(base, *parts[:depth]) for depth in range(len(parts), -1, -1)]
    return folders


def memory() -> dict[str, int]:
    """Return {"total_bytes", "available_bytes"}, the cgroup's limit counted in."""
    values = {}
    for line in (_read("/proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            values[name] = int(rest.split()[0]) * 1024
    total, available = values.get("MemTotal", 0), values.get("MemAvailable", 0)
    for folder in cgroup_folders():
        limit = (_read(os.path.join(folder, "memory.max")) or "").strip()
        used = (_read(os.path.join(folder, "memory.current")) or "").strip()
        if limit.isdigit() and int(limit) < total:
            total = int(limit)
            available = min(available, total - int(used or 0))
    return {"total_bytes": total, "available_bytes": max(0, available)}


def which(name: str, search_path: str | None = None) -> str | None:
    """Return the program's path, as a shell finds it (a name with a "/" is a path itself); None when there is
    none. ``search_path``: in place of PATH. (shutil takes 3 ms to import, subprocess 4: a server has many to
    answer for where it is a busy login node.)"""
    if search_path is None:
        search_path = os.environ.get("PATH", os.defpath)
    for folder in [""] if "/" in name else search_path.split(os.pathsep):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def output(argv: list[str], timeout_s: float) -> str:
    """Return the stdout of a program, given with its path; "" when it can't be run, fails or takes too
    long."""
    reading, writing = os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, writing, 1),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    try:
        try:
            pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)
        except OSError:
            return ""
        finally:
            os.close(writing)
        text = _read_to_end(reading, time.monotonic() + timeout_s)
        if text is None:
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    finally:
        os.close(reading)
    return text.decode("utf-8", "replace") if text is not None and status == 0 else ""


def _read_to_end(pipe: int, deadline: float) -> bytes | None:
    """Return what comes until the other end is closed; None when that takes too long."""
    import select

    text = b""
    while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(pipe, 65536)
        if not chunk:
            return text
        text += chunk
    return None


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has an address (or a name's address); None when none has
    it."""
    import socket

    # As bytes where it can be: of text, Python imports the tables of international names.
    host = address.encode() if address.isascii() else address
    try:
        wanted = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return None
    if any(one.startswith("127.") or one == "::1" for one in wanted):
        return "lo"
    for name, own in interfaces():
        if own in wanted:
            return name
    return None


def interfaces() -> list[tuple[str, str]]:
    """Return (name, address) of all interfaces' addresses."""
    return [(name, address) for name, address, _prefix, _flags in addresses()]


def addresses() -> list[tuple[str, str, int, int]]:
    """Return (interface, address, prefix length, the interface's flags) of all interfaces' addresses;
    secondary addresses too, which the older ioctls leave out."""
    from . import ifaddrs

    return ifaddrs.addresses()


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read(65536)
    except (OSError, UnicodeDecodeError):
        return None
