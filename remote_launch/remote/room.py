"""Blocks that are set aside beforehand for what must be written down though the disk is full: that a job is
to be killed, and how it ended. A disk that fills up is what many jobs die of."""

from __future__ import annotations

import contextlib
import json
import os

from .jobdir import write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .jobdir import JobDir

ROOM_BYTES = 16384
KILL_BYTES = 1024
_SUFFIX = ".room"


def set_aside(path: str, size_bytes: int = ROOM_BYTES) -> None:
    """Have blocks for a JSON file. Without them it may find none: no reason to stop."""
    with contextlib.suppress(OSError):
        fd = os.open(path + _SUFFIX, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(b" " * size_bytes)


def write(path: str, data: Any) -> None:
    """Write JSON as ``write_atomic`` does; where that is impossible, over what was set aside, if it fits.
    Raises OSError."""
    try:
        write_atomic(path, data)
    except OSError:
        if not _write_over(path, json.dumps(data).encode()):
            raise


def give_back(path: str) -> None:
    """Give back what was set aside for a file and not used."""
    with contextlib.suppress(OSError):
        os.unlink(path + _SUFFIX)


def prepare(job: JobDir) -> None:
    """Set aside what a job needs."""
    set_aside(job.exit)
    set_aside(job.kill, KILL_BYTES)


def clear(job: JobDir) -> None:
    """Give back what a job that has ended did not use."""
    give_back(job.exit)
    give_back(job.kill)


def _write_over(path: str, content: bytes) -> bool:
    """Not one block more is taken: JSON may end in spaces."""
    try:
        fd = os.open(path + _SUFFIX, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "wb") as file:
            if len(content) > os.fstat(fd).st_size:
                return False
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(path + _SUFFIX, path)
    except OSError:
        return False
    return True
