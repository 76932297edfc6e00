"""What a server is made of: processors, memory, network interfaces. Each question answered fast, and
without root."""

from __future__ import annotations

import ctypes
import os
import socket
import struct


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


def output(argv: list[str], timeout_s: float) -> str:
    """Return a program's stdout; "" when it can't be run, fails or takes too long."""
    import subprocess

    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=timeout_s, check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has an address (or a name's address); None when none has
    it."""
    try:
        wanted = {str(entry[4][0]) for entry in socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return None
    if any(one.startswith("127.") or one == "::1" for one in wanted):
        return "lo"
    for name, own in interfaces():
        if own in wanted:
            return name
    return None


_WHERE = {socket.AF_INET: (4, 4), socket.AF_INET6: (8, 16)}  # of the address in a sockaddr: offset, size


class _IfAddrs(ctypes.Structure):
    """struct ifaddrs of getifaddrs(3), as far as it is read here."""


_IfAddrs._fields_ = [
    ("next", ctypes.POINTER(_IfAddrs)), ("name", ctypes.c_char_p), ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p), ("netmask", ctypes.c_void_p),
]


def interfaces() -> list[tuple[str, str]]:
    """Return (name, address) of all interfaces' addresses."""
    return [(name, address) for name, address, _prefix, _flags in addresses()]


def addresses() -> list[tuple[str, str, int, int]]:
    """Return (interface, address, prefix length, the interface's flags) of all interfaces' addresses;
    secondary addresses too, which the older ioctls leave out."""
    libc = ctypes.CDLL(None)
    head = ctypes.POINTER(_IfAddrs)()
    if libc.getifaddrs(ctypes.byref(head)):
        return []
    found = []
    entry = head
    try:
        while entry:
            item = entry.contents
            if item.address:
                family = struct.unpack("=H", ctypes.string_at(item.address, 2))[0]
                if family in _WHERE:
                    at, size = _WHERE[family]
                    mask = ctypes.string_at(item.netmask + at, size) if item.netmask else b"\xff" * size
                    found.append((
                        item.name.decode("utf-8", "replace"),
                        socket.inet_ntop(family, ctypes.string_at(item.address + at, size)),
                        sum(bin(byte).count("1") for byte in mask), item.flags,
                    ))
            entry = item.next
    finally:
        libc.freeifaddrs(head)
    return found


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read(65536)
    except (OSError, UnicodeDecodeError):
        return None
