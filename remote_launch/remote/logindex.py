"""When the bytes of a job's logs were written: lines carry no time, so the supervisor notes the files' sizes.

logs.index holds one JSON line a look, ``[time, {name: size}]`` with the files that have grown since the look
before. What lies further back is kept more coarsely: so the index stays small however long a job runs, and
"the last 10 minutes" is met within seconds, "the last day" within minutes. A size is always one that the
file had at that time or before: what is shown may begin a little early, never late.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from .logfiles import log_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .jobdir import JobDir
    from .loglimit import LogLimit

EVERY_S = 1.0
LIST_EVERY_S = 5.0
AGE_PER_GAP = 256.0  # what is 256 s old need not be known to better than 1 s
THIN_AT_ROWS = 4096
LIMIT_BYTES = 32 << 20


class LogIndex:
    """Notes sizes, for as long as a supervisor calls ``tick``."""

    def __init__(self, job: JobDir, limit: LogLimit | None = None) -> None:
        self._job = job
        self._limit = limit
        self._path = index_path(job)
        self._rows = read_rows(self._path)
        self._sizes: dict[str, int] = {}
        for _, sizes in self._rows:
            self._sizes.update(sizes)
        self._thin_at = max(THIN_AT_ROWS, 2 * len(self._rows))
        self._names: list[str] = []
        self._looked_at = self._listed_at = -1e9

    def wait_s(self, now: float) -> float:
        """Given the monotonic time, return how long until the next look."""
        return max(0.0, self._looked_at + EVERY_S - now)

    def tick(self, now: float) -> None:
        """Look, when it is time to. A disk that is full or gone is no reason to stop."""
        if now - self._looked_at < EVERY_S:
            return
        self._looked_at = now
        if now - self._listed_at >= LIST_EVERY_S:
            self._listed_at = now
            self._names = [file.name for file in log_files(self._job)]
        grown = {}
        for name in self._names:
            with contextlib.suppress(OSError):
                size = os.lstat(os.path.join(self._job.path, name)).st_size
                if size != self._sizes.get(name, 0):
                    self._sizes[name] = grown[name] = size
                    if self._limit is not None:
                        self._limit.apply(name, size)
        if grown:
            self._add((time.time(), grown))

    def _add(self, row: tuple[float, dict[str, int]]) -> None:
        self._rows.append(row)
        thin = len(self._rows) >= self._thin_at
        if thin:
            self._rows = thinned(self._rows, row[0])
            self._thin_at = max(THIN_AT_ROWS, 2 * len(self._rows))
        with contextlib.suppress(OSError):
            path = self._path + ".new" if thin else self._path
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if thin else os.O_APPEND)
            fd = os.open(path, flags, 0o600)
            try:
                rows = self._rows if thin else [row]
                os.write(fd, "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode())
            finally:
                os.close(fd)
            if thin:
                os.replace(path, self._path)


def thinned(rows: list[tuple[float, dict[str, int]]], now: float) -> list[tuple[float, dict[str, int]]]:
    """Given rows, return fewer: the older, the further apart. What a dropped row says moves into the next
    one, which so says of some files less than they had: never more."""
    kept: list[tuple[float, dict[str, int]]] = []
    pending: dict[str, int] = {}
    for at, sizes in rows[:-1]:
        pending = {**pending, **sizes}
        if not kept or abs(at - kept[-1][0]) >= max(EVERY_S, (now - at) / AGE_PER_GAP):
            kept.append((at, pending))
            pending = {}
    last_at, last = rows[-1]
    return [*kept, (last_at, {**pending, **last})]


def index_path(job: JobDir) -> str:
    return os.path.join(job.path, "logs.index")


def read_rows(path: str) -> list[tuple[float, dict[str, int]]]:
    """Given an index file, return its rows; those that make no sense are left out."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return []
    with os.fdopen(fd, "rb") as file:
        try:
            lines = file.read(LIMIT_BYTES).splitlines()
        except OSError:
            return []
    rows = []
    for line in lines:
        row = _row(line)
        if row is not None:
            rows.append(row)
    return rows


def _row(line: bytes) -> tuple[float, dict[str, int]] | None:
    try:
        row: Any = json.loads(line)
        at, sizes = row
        return float(at), {str(name): int(size) for name, size in sizes.items() if int(size) >= 0}
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def sizes_at(rows: list[tuple[float, dict[str, int]]], at: float) -> dict[str, int]:
    """Given an index's rows and a time, return how large the files were then (or shortly before)."""
    sizes: dict[str, int] = {}
    for row_at, grown in rows:
        if row_at > at:
            break  # a clock that was set back shows too much, not too little
        sizes.update(grown)
    return sizes
