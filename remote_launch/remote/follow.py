"""Stream log files as they grow, from given offsets, until their jobs end. Frames: one JSON line, then
``length`` raw bytes.

Files are polled (fstat only, 20 to 50 ms): inotify is silent on NFS, and the cost is some microseconds a
file.
"""

from __future__ import annotations

import json
import os
import select
import time

from . import jobdir
from .jobdir import SPEC_LIMIT_BYTES, CorruptError, JobDir, Refusal
from .states import TERMINAL, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHUNK_BYTES = 65536
TAIL_SEARCH_BYTES = 4 << 20  # a line longer than this is cut: nobody waits for 5 GB of progress bar
LIST_EVERY_S = 0.2
STATE_EVERY_S = 1.0  # for what leaves no exit.json: a dead supervisor
PING_EVERY_S = 5.0
POLL_S = (0.02, 0.05)
_STREAMS = {"stdout.log": "stdout", "stderr.log": "stderr"}


class _Closed(Exception):  # noqa: N818 - the normal end
    """Nobody reads any more."""


def follow(request: dict[str, Any]) -> int:
    """Given {"jobs": [{"job_id", "ranks", "launcher", "offsets", "lines"}], "follow"}, write frames to stdout
    until all jobs have ended (or, without "follow", to the ends that the files have now). ``ranks`` are
    global ranks, null all of them."""
    folder = jobdir.jobs_folder(request)
    items = request.get("jobs")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Refusal("RequestError", "the request names no jobs")
    live = bool(request.get("follow"))
    server = jobdir.text(request, "server")
    jobs = [_Job(jobdir.job_dir(folder, item.get("job_id")), server, item, live) for item in items]
    try:
        _stream(jobs, live)
    except (_Closed, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        for job in jobs:
            job.close()
    return 0


def _stream(jobs: list[_Job], live: bool) -> None:
    watcher = select.poll()
    watcher.register(1, 0)  # errors and hang-ups only: the reader is gone
    pinged_at = busy_at = time.monotonic()
    while True:
        wrote = False
        for job in jobs:
            if not job.ended:
                wrote = job.step() or wrote
        if all(job.ended for job in jobs):
            return
        now = time.monotonic()
        if wrote:
            busy_at = now
        if live and now - pinged_at >= PING_EVERY_S:
            pinged_at = now
            put({"ping": time.time()})
        pause_s = 0.0 if wrote else POLL_S[0] if now - busy_at < 1.0 else POLL_S[1]
        if watcher.poll(pause_s * 1000):
            raise _Closed


def put(header: dict[str, Any], content: bytes = b"") -> None:
    """Write one frame. Raises BrokenPipeError when the reader is gone."""
    rest = memoryview(json.dumps(header).encode() + b"\n" + content)
    while rest:
        rest = rest[os.write(1, rest):]


class _File:
    """One log file that is being read."""

    def __init__(self, path: str, name: str, stream: str, rank: int | None, offset: int) -> None:
        self.offset = offset
        self._was_emptied = False
        self.limit: int | None = None  # how far to read; None: as far as it grows
        self._header = {"file": name, "stream": stream, "rank": rank}
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)

    def chunk(self, job_id: str) -> bool:
        """Send what is new, at most CHUNK_BYTES of it; False when nothing is."""
        size = os.fstat(self.fd).st_size
        if size < self.offset:
            self.offset = 0
            self._was_emptied = True  # by someone: what comes now is new, though its offset was had before
        if self.limit is not None:
            size = min(size, self.limit)
        if size <= self.offset:
            return False
        content = os.pread(self.fd, min(CHUNK_BYTES, size - self.offset), self.offset)
        if not content:
            return False
        self.put(job_id, content)
        return True

    def put(self, job_id: str, content: bytes = b"") -> None:
        header = {"job": job_id, **self._header, "offset": self.offset, "length": len(content)}
        if self._was_emptied:
            header["emptied"] = True
        put(header, content)
        self._was_emptied = False
        self.offset += len(content)


class _Job:
    """One job whose files are being read."""

    def __init__(self, job: JobDir, server: str | None, item: dict[str, Any], live: bool) -> None:
        self.ended = False
        self._server = server
        self._live = live
        self._job = job
        offsets = item.get("offsets") or {}
        ranks, lines = item.get("ranks"), item.get("lines", 10)
        if not isinstance(offsets, dict) or not (
            ranks is None or isinstance(ranks, list)
        ) or not isinstance(lines, int):
            raise Refusal("RequestError", "offsets is an object, ranks a list or null, lines a number")
        self._offsets = {
            str(name): max(0, int(offset)) for name, offset in offsets.items() if isinstance(offset, int)
        }
        self._ranks: list[int] | None = ranks
        self._launcher = bool(item.get("launcher"))
        self._lines = lines
        self._files: dict[str, _File] = {}
        self._spec: dict[str, Any] | None = None
        self._fresh = True  # nothing was listed yet
        self._listed_at = self._looked_at = -1e9
        self._state: dict[str, Any] | None = None  # once terminal

    def step(self) -> bool:
        """Send a chunk of each file that has grown; after the last byte of an ended job, its end. True when
        anything was sent."""
        now = time.monotonic()
        if not os.path.isdir(self._job.path):
            self._end({"state": None, "reason": "there is no such job on this server"})
            return True
        # The state first, then the list, then the bytes: what a job wrote before its end is so never missed.
        if self._state is None:
            self._look(now)
        if self._fresh or self._state is not None or now - self._listed_at >= LIST_EVERY_S:
            self._list(now)
        wrote = False
        for file in list(self._files.values()):
            wrote = file.chunk(self._job.job_id) or wrote
        if not wrote and (self._state is not None or not self._live):
            self._end(self._state or self._now())
        return wrote

    def _look(self, now: float) -> None:
        if os.path.lexists(self._job.exit) or now - self._looked_at >= STATE_EVERY_S:
            self._looked_at = now
            state = self._now()
            if state["state"] in TERMINAL or state["state"] is None:
                self._state = state

    def _now(self) -> dict[str, Any]:
        try:
            return state_of(self._job, server=self._server)
        except (CorruptError, OSError) as error:
            return {"state": None, "reason": str(error)}

    def _end(self, state: dict[str, Any]) -> None:
        self.ended = True
        self.close()
        fields = {name: state.get(name) for name in ("state", "exit_code", "signal", "reason")}
        put({"end": True, "job": self._job.job_id, **fields})

    def _list(self, now: float) -> None:
        """Open the files that have come since the last look. At the first look a file starts at its last
        lines; a later one at 0."""
        self._listed_at = now
        if self._spec is None:
            try:
                self._spec = jobdir.read_object(self._job.spec, SPEC_LIMIT_BYTES)
            except CorruptError:
                self._spec = {}
        if self._spec is None:
            return  # a start that is just under way
        torchrun = self._spec.get("torchrun") is not None
        if not torchrun or self._launcher:
            self._open(self._job.out, "stdout", None)
            self._open(self._job.err, "stderr", None)
        if torchrun:
            first_rank = int(jobdir.number(self._spec, "first_rank", 0) or 0)
            for path, stream, local_rank in rank_files(self._job):
                if self._ranks is None or first_rank + local_rank in self._ranks:
                    self._open(path, stream, first_rank + local_rank)
        self._fresh = False

    def _open(self, path: str, stream: str, rank: int | None) -> None:
        name = os.path.relpath(path, self._job.path)
        if name in self._files:
            return
        try:
            file = _File(path, name, stream, rank, self._offsets.get(name, 0))
        except OSError:
            return
        if not self._live:
            file.limit = os.fstat(file.fd).st_size
        if self._fresh and not self._offsets:
            file.offset = start_of_last_lines(file.fd, self._lines)
            if file.offset:
                # Said without bytes too: who resumes must know where the file stood.
                file.put(self._job.job_id)
        self._files[name] = file

    def close(self) -> None:
        for file in self._files.values():
            os.close(file.fd)
        self._files = {}


def rank_files(job: JobDir) -> list[tuple[str, str, int]]:
    """Return (path, stream, local rank) of torchrun's logs: ranks/<run>/attempt_<n>/<local
    rank>/<stream>.log."""
    found = []
    for attempt in _folders(job.ranks, depth=2):
        for entry in _scan(attempt):
            if entry.name.isdigit() and entry.is_dir(follow_symlinks=False):
                found += [
                    (os.path.join(entry.path, name), stream, int(entry.name))
                    for name, stream in _STREAMS.items() if os.path.lexists(os.path.join(entry.path, name))
                ]
    return sorted(found)


def _folders(path: str, depth: int) -> list[str]:
    if depth == 0:
        return [path]
    return [
        found for entry in _scan(path) if entry.is_dir(
            follow_symlinks=False
        ) for found in _folders(entry.path, depth - 1)
    ]


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(path))
    except OSError:
        return []


def start_of_last_lines(fd: int, lines: int) -> int:
    """Given an open file, return the offset at which its last ``lines`` lines start; 0 for -1. Reads blocks
    from the end."""
    size = os.fstat(fd).st_size
    if lines < 0:
        return 0
    if lines == 0:
        return size
    at = size
    wanted = lines + 1  # the newline at the very end closes the last line, it does not start one
    while at > 0 and size - at < TAIL_SEARCH_BYTES:
        block = os.pread(fd, min(CHUNK_BYTES, at), max(0, at - CHUNK_BYTES))
        at = max(0, at - CHUNK_BYTES)
        if size - at <= CHUNK_BYTES and not block.endswith(b"\n"):
            wanted = lines  # an unfinished last line
        count = block.count(b"\n")
        if count >= wanted:
            place = len(block)
            for _ in range(wanted):
                place = block.rindex(b"\n", 0, place)
            return at + place + 1
        wanted -= count
    return at
