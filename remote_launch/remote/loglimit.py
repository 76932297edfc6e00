"""Keep logs from filling the disk: of one that is longer than allowed, the oldest part is given back.

The job writes its files itself, so they can be neither renamed under it nor cut without losing a line now and
then. Instead a hole is punched at their beginning: the blocks are free, what the job writes is not touched,
and every offset stays what it was, for those who follow and for those who bring logs by appending. Where the
file system can't do that (NFS before 4.2), supervisor.log says so, and the logs grow on.
"""

from __future__ import annotations

import contextlib
import errno
import os

from .jobdir import CorruptError, JobDir, read_object, write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

SMALLEST_LIMIT_BYTES = 1 << 20
BLOCK_BYTES = 4096
_PUNCH_HOLE_AND_KEEP_SIZE = 0x03


class LogLimit:
    """``max_bytes`` for each log file of a job. ``dropped``, in logs.dropped too, says how much of each is
    gone."""

    def __init__(self, job: JobDir, max_bytes: float | None, log: Callable[[str], None]) -> None:
        self._job = job
        self._max_bytes = None if max_bytes is None else max(SMALLEST_LIMIT_BYTES, int(max_bytes))
        self._log = log
        self.dropped = dropped_bytes(job) if max_bytes is not None else {}

    def apply(self, name: str, size: int) -> None:
        """Given a log that has grown, shorten it when that is due: to three quarters, that it be seldom."""
        if self._max_bytes is None or size - self.dropped.get(name, 0) <= self._max_bytes:
            return
        end = (size - self._max_bytes * 3 // 4) // BLOCK_BYTES * BLOCK_BYTES
        try:
            fd = os.open(os.path.join(self._job.path, name), os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                punch(fd, end)
            finally:
                os.close(fd)
        except OSError as error:
            self._max_bytes = None
            self._log(f"{name} is longer than it should be and can't be shortened here: {error}")
            return
        self.dropped[name] = end
        with contextlib.suppress(OSError):
            write_atomic(os.path.join(self._job.path, "logs.dropped"), self.dropped)


def punch(fd: int, length: int) -> None:
    """Free the blocks of a file's first bytes; they read as zeros then. Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "fallocate") or ctypes.sizeof(ctypes.c_long) < 8:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    mode = ctypes.c_int(_PUNCH_HOLE_AND_KEEP_SIZE)
    if libc.fallocate(ctypes.c_int(fd), mode, ctypes.c_long(0), ctypes.c_long(length)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def dropped_bytes(job: JobDir) -> dict[str, int]:
    """Return how much is gone from the beginning of each log."""
    try:
        found = read_object(os.path.join(job.path, "logs.dropped")) or {}
    except (CorruptError, OSError):
        return {}
    return {name: size for name, size in found.items() if type(size) is int and size > 0}


def next_data(fd: int, offset: int, size: int) -> int:
    """Given an open log, return where what is left of it begins, at ``offset`` or after."""
    try:
        return max(offset, os.lseek(fd, offset, os.SEEK_DATA))
    except OSError as error:
        return size if error.errno == errno.ENXIO else offset
