"""Processes as /proc tells of them: who they are, whose they are, and how they are ended.

A process is (pid, start ticks): the pair is unique until the next boot, a pid alone is not. The processes of
a job are those that carry ``RL_JOB_ID=<id>`` in their environment (any parent, any session) plus all
descendants of its supervisor, which is a subreaper: setproctitle and an emptied environment hide the mark,
only a dead supervisor hides the descent. The root of a descent is always the supervisor's own pid, never a
parent's: an orphan's parent is pid 1, and that tree is the whole machine.
"""

from __future__ import annotations

import os
import signal
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MARK = b"\0RL_JOB_ID="


def boot_id() -> str:
    """Return the kernel's id of this boot (containers share their host's)."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def boot_time() -> float:
    """Return when the machine booted, in epoch seconds."""
    with open("/proc/stat") as file:
        for line in file:
            if line.startswith("btime "):
                return float(line.split()[1])
    return 0.0


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat after the command's name: [0] state, [1] parent, [19] start ticks."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None when there is none, or only a zombie."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    return None if len(fields) < 20 or fields[0] in (b"Z", b"X") else int(fields[19])


def age_s(ticks: float | None) -> float | None:
    """Given a process's start ticks, return how long ago that was, whatever the clock was set to since."""
    if not ticks:
        return None
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def is_alive(pid: int, ticks: int) -> bool:
    """True while the very process (not a later one of the same pid) runs."""
    return pid > 0 and start_ticks(pid) == ticks


def members(job_id: str, root: int | None = None) -> dict[int, int]:
    """Given a job and its supervisor's pid (when that lives), return {pid: start ticks} of the job's
    processes, without ``root``, ourselves and zombies."""
    mark = _MARK + job_id.encode() + b"\0"
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        try:
            fields = _stat(pid)
            parents[pid] = int(fields[1])
            if fields[0] in (b"Z", b"X"):
                continue
            ticks[pid] = int(fields[19])
            with open(f"/proc/{pid}/environ", "rb") as file:
                if mark in b"\0" + file.read() + b"\0":
                    found.add(pid)
        except (OSError, IndexError):
            continue  # gone meanwhile, or another user's
    if root is not None:
        found |= _descendants(root, parents)
    return {pid: ticks[pid] for pid in found if pid in ticks and pid not in (root, os.getpid())}


def _descendants(root: int, parents: dict[int, int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = [root]
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def marked() -> dict[str, int]:
    """Return {job_id: number of live processes that carry it}, of all jobs on the machine that we may look
    into. One pass."""
    counts: dict[str, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environ = b"\0" + file.read() + b"\0"
        except OSError:
            continue
        at = environ.find(_MARK)
        if at >= 0 and start_ticks(int(name)) is not None:
            job_id = environ[at + len(_MARK):environ.index(b"\0", at + 1)].decode("ascii", "replace")
            counts[job_id] = counts.get(job_id, 0) + 1
    return counts


def signal_all(processes: dict[int, int], number: int) -> None:
    """Signal each process, unless its pid has passed to another one meanwhile."""
    for pid, ticks in processes.items():
        if is_alive(pid, ticks):
            send(pid, number)


def send(pid: int, number: int) -> bool:
    """Signal one process; False when it is gone or not ours."""
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def exit_of(status: int) -> tuple[int | None, str | None]:
    """Given a wait status, return (exit code, None), or (None, signal name) for a process that a signal
    ended."""
    if os.WIFSIGNALED(status):
        return None, signal_name(os.WTERMSIG(status))
    return os.WEXITSTATUS(status), None


def signal_name(number: int) -> str:
    """Given 15, return "TERM"; a signal without a name is its number."""
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return str(number)


def signal_number(name: object) -> int | None:
    """Given "TERM", "SIGTERM" or 15, return 15; None for what is no signal."""
    word = str(name).upper()
    if word.isdigit():
        return int(word) if 0 < int(word) < signal.NSIG else None
    found = getattr(signal, word if word.startswith("SIG") else "SIG" + word, None)
    return int(found) if isinstance(found, signal.Signals) else None


def become_subreaper() -> None:
    """Have orphaned descendants handed to this process, not to pid 1. Not inherited over fork."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """In a new child: be sent TERM when the parent ends. The parent may already have ended: then exit."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, argument: int) -> None:
    import ctypes  # a probe, the most frequent of all calls, needs none of it

    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)  # prctl is variadic: without the type, upper halves of registers are undefined
    if libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero):
        raise OSError(ctypes.get_errno(), f"prctl({option})")
