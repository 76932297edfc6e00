"""The line for the slots of a machine: numbered tickets, each a file that its owner has flocked.

A ticket whose lock is free is a dead job's, and whoever is behind it takes it away. Only the first in the
line takes slots, so the order is that of the numbers, and nobody is overtaken or starves.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from .jobdir import Refusal
from .slots import make_folder, write_note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATIENCE_S = 10.0  # for the number; that takes a moment


class Ticket:
    """A place in the line of ``kind``, taken by making it. Raises Refusal, OSError."""

    def __init__(self, folder: str, kind: str, note: dict[str, Any]) -> None:
        self._slots = folder
        self._folder = line_folder(folder, kind)
        self._note = note
        self.number = 0
        self._fd = -1  # none: the number, if there is one, may be another's by now
        self._take()

    def _take(self) -> None:
        make_folder(self._slots)
        os.makedirs(self._folder, 0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        counter = os.open(os.path.join(self._folder, "next"), flags, 0o600)
        try:
            _wait_for(counter)
            last = int(os.pread(counter, 32, 0) or b"0")
            self.number = max([last, *tickets(self._folder)]) + 1
            self._fd = os.open(self._path(self.number), flags | os.O_EXCL, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # before anyone can count it: that needs the counter
            os.pwrite(counter, b"%d" % self.number, 0)
            write_note(self._fd, self._note)
        finally:
            os.close(counter)

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f"{number:012d}")

    def ahead(self) -> int:
        """Return how many are before this one. Dead tickets just before it are taken away."""
        numbers = tickets(self._folder)
        if self._fd < 0 or self.number not in numbers:  # somebody has tidied the folder up
            self._close()
            self._take()
            numbers = tickets(self._folder)
        before = [number for number in numbers if number < self.number]
        while before and self._remove_dead(before[-1]):
            before.pop()
        return len(before)

    def _remove_dead(self, number: int) -> bool:
        path = self._path(number)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return not os.path.lexists(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    @property
    def paths(self) -> list[str]:
        """The files that must be there as long as it is in the line."""
        return [self._folder, self._path(self.number)]

    def drop(self) -> None:
        """Leave the line."""
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                os.unlink(self._path(self.number))
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def line_folder(folder: str, kind: str) -> str:
    """Return where the tickets for the slots of one kind are."""
    return os.path.join(folder, f"line-{kind}")


def tickets(folder: str) -> list[int]:
    """Return the numbers in a line, in order; dead ones among them."""
    try:
        return sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    except FileNotFoundError:
        return []


def _wait_for(fd: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Refusal(
                    "SlotsError", "the queue's counter is held by a process that does not get on",
                    "rl queue shows the queue",
                ) from None
            time.sleep(0.005)
