"""Whether the kernel ended a process because memory ran out.

KILL comes from persons too, so nothing is said for sure without evidence of the moment: the kernel's own log
names the pid, or the count of such kills in the job's cgroup went up around the death. Where only the whole
machine's count did, it is "probably". Where that count stood still, memory was not the reason.
"""

from __future__ import annotations

import os
import re
import time

from . import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

LOOK_EVERY_S = 5.0
SLACK_S = 2.0  # torch's own times are whole seconds
DYING_S = 10.0  # a process is counted when it is chosen; to give back very much memory takes seconds
RISES_KEPT = 64
UNKNOWN = "signal KILL (the kernel does that when memory runs out)"
_KILLED = re.compile(r"[Kk]illed process (\d+)\b")
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # the kernel's log has pids of this one
_LOG_LIMIT_BYTES = 16 << 20
_JOURNAL_TIMEOUT_S = 3.0


class Count:
    """A count of the kernel's that only rises, and when it was seen to. ``known`` is False where there is
    none."""

    def __init__(self, read: Callable[[], int | None]) -> None:
        self._read = read
        self._value = read()
        self._looked_at = time.monotonic()
        self.known = self._value is not None
        self._rises: list[tuple[float, float]] = []  # between which two looks

    def look(self) -> None:
        if not self.known:
            return
        value, now = self._read(), time.monotonic()
        if value is not None and self._value is not None and value > self._value:
            self._rises = [*self._rises, (self._looked_at, now)][-RISES_KEPT:]
        self._value, self._looked_at = value if value is not None else self._value, now

    def rose_at(self, moment: float) -> bool:
        """True when it rose around a moment (of the monotonic clock), or shortly before."""
        return any(first - SLACK_S <= moment <= last + DYING_S for first, last in self._rises)


class OomWatch:
    """Made before the job starts; ``tick`` now and then; then ``explain`` says what a death was."""

    def __init__(self) -> None:
        folders = machine.cgroup_folders()
        self._cgroup = Count(lambda: cgroup_kills(folders))
        self._machine = Count(machine_kills)
        self._limit_bytes = limit_bytes(folders)
        self._born_at = time.monotonic()
        self._next_look = self._born_at + LOOK_EVERY_S

    def tick(self, now: float) -> None:
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY_S
            self._cgroup.look()
            self._machine.look()

    def wait_s(self, now: float) -> float:
        return max(0.0, self._next_look - now)

    def explain(self, died_at: float, pid: object) -> str | None:
        """Given when a process was ended by KILL (epoch seconds), return by what: "the kernel: out of memory
        (limit 2 GiB)"; None when that is known to be no matter of memory."""
        self._cgroup.look()
        self._machine.look()
        moment = time.monotonic() - (time.time() - died_at)
        if self._cgroup.rose_at(moment) or (isinstance(pid, int) and pid in logged_kills(self._born_at)):
            return f"the kernel: out of memory{self._limit_in_words()}"
        if self._machine.rose_at(moment):
            return "signal KILL, probably by the kernel: memory had run out on the machine"
        return None if self._machine.known else UNKNOWN

    def _limit_in_words(self) -> str:
        return f" (limit {size_in_words(self._limit_bytes)})" if self._limit_bytes else ""


def explain(failure: dict[str, Any], watch: OomWatch | None, pid: object = None) -> dict[str, Any]:
    """Given the failure record of a process, return it with what KILL was in "killed_by" and in the
    message."""
    by_signal = failure.get("signal") == "KILL"
    if not by_signal and failure.get("exit_code") != 137:  # what a shell makes of it
        return failure
    at = failure.get("time")
    by = watch.explain(at if isinstance(at, float) else time.time(), pid) if watch else UNKNOWN
    if by is None or (by == UNKNOWN and not by_signal):
        return failure
    rank = failure.get("rank")
    who = "" if rank is None else f"rank {rank} "
    return {**failure, "killed_by": by, "message": f"{who}was killed by {by}"}


def cgroup_kills(folders: list[str]) -> int | None:
    """Return how many processes of our cgroup the kernel has killed for memory; None when it doesn't say."""
    for folder in folders:
        for name in ("memory.events", "memory.oom_control"):  # version 2, version 1
            count = _field(os.path.join(folder, name), "oom_kill")
            if count is not None:
                return count
    return None


def machine_kills() -> int | None:
    """Return how many processes of the whole machine the kernel has killed for memory; None: not told."""
    return _field("/proc/vmstat", "oom_kill")


def _field(path: str, name: str) -> int | None:
    try:
        with open(path, "rb") as file:
            for line in file:
                words = line.split()
                if len(words) == 2 and words[0] == name.encode() and words[1].isdigit():
                    return int(words[1])
    except OSError:
        pass
    return None


def limit_bytes(folders: list[str]) -> int | None:
    """Return the smallest memory limit of our cgroup and its parents; None without one."""
    found = []
    for folder in folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                with open(os.path.join(folder, name)) as file:
                    word = file.read(64).strip()
            except (OSError, UnicodeDecodeError):
                continue
            if word.isdigit() and int(word) < 1 << 60:  # version 1 has 2**63 rounded to pages for none
                found.append(int(word))
    return min(found) if found else None


def size_in_words(size: int) -> str:
    """Given bytes, return "2 GiB" or "1.5 GiB"."""
    value, unit = (size / 2**30, "GiB") if size >= 2**30 else (size / 2**20, "MiB")
    return f"{value:.1f}".rstrip("0").rstrip(".") + f" {unit}"


def logged_kills(since: float) -> set[int]:
    """Return the pids that the kernel's log says it killed for memory after ``since`` (monotonic clock).
    Nothing where it can't be read, or where pids here are not the log's."""
    try:
        if os.readlink("/proc/self/ns/pid") != _FIRST_PID_NAMESPACE:
            return set()
        return {pid for at, pid in _kmsg() if at >= since - SLACK_S}
    except OSError:
        age_s = max(1, int(time.monotonic() - since) + 5)
        words = ["journalctl", "-k", "-q", "--no-pager", "-o", "cat", "--since", f"{age_s} seconds ago"]
        said = machine.output(words, _JOURNAL_TIMEOUT_S)
        return {int(found.group(1)) for found in _KILLED.finditer(said)}


def _kmsg() -> list[tuple[float, int]]:
    """Return (seconds since boot, pid) of the kills in the kernel's log. Raises OSError where it is closed
    to us."""
    found = []
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        size = 0
        while size < _LOG_LIMIT_BYTES:
            try:
                record = os.read(fd, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # the oldest records were overwritten meanwhile
            if not record:
                break
            size += len(record)
            head, _, message = record.decode("utf-8", "replace").partition(";")
            killed = _KILLED.search(message)
            fields = head.split(",")
            if killed and len(fields) > 2 and fields[2].isdigit():
                found.append((int(fields[2]) / 1e6, int(killed.group(1))))
    finally:
        os.close(fd)
    return found
