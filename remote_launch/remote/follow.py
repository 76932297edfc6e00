"""Stream log files as they grow, from given offsets, until their jobs end. Frames: one JSON line, then
``length`` raw bytes.

Files are polled (fstat only, 10 to 30 ms): inotify is silent on NFS, and the cost is some microseconds a
file.
"""

from __future__ import annotations

import json
import os
import select
import stat
import time

from . import attempts, jobdir, logindex, loglimit
from .jobdir import SPEC_LIMIT_BYTES, CorruptError, JobDir, Refusal
from .logfiles import LogFile, log_files, start_of_last_lines, start_of_line
from .states import TERMINAL, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHUNK_BYTES = 65536
LIST_EVERY_S = 0.2
STATE_EVERY_S = 1.0  # for what leaves no exit.json: a dead supervisor
PING_EVERY_S = 5.0
QUIET_S = 0.5  # then the reader is told once that no more is coming just now
POLL_S = (0.01, 0.03)


class _Closed(Exception):  # noqa: N818 - the normal end
    """Nobody reads any more."""


def follow(request: dict[str, Any]) -> int:
    """Given {"jobs": [{"job_id", "ranks", "launcher", "offsets", "lines", "since_age_s", "attempt",
    "first_attempt"}], "follow"}, write frames to stdout until all jobs have ended (or, without "follow", to
    the ends that the files have now).

    ``ranks`` are global ranks, null all of them; none and no ``launcher``: the end alone. Without an
    ``attempt`` it is the newest (or, for who resumes, the ``first_attempt`` that was shown) and those that
    come. With ``since_age_s``, files begin at what was written that long ago instead of at their last
    ``lines``: an age, for clocks differ."""
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
    quiet = True
    while True:
        wrote = False
        for job in jobs:
            if not job.ended:
                wrote = job.step() or wrote
        if all(job.ended for job in jobs):
            return
        now = time.monotonic()
        if wrote:
            busy_at, quiet = now, False
        falls_quiet = not quiet and now - busy_at >= QUIET_S
        if live and (falls_quiet or now - pinged_at >= PING_EVERY_S):
            pinged_at, quiet = now, True
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

    def __init__(self, folder: str, log: LogFile, rank: int | None, offset: int) -> None:
        self.offset = offset
        self._was_emptied = False
        self.limit: int | None = None  # how far to read; None: as far as it grows
        self._header = {"file": log.name, "stream": log.stream, "rank": rank, "attempt": log.attempt}
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
        self.fd = os.open(os.path.join(folder, log.name), flags)
        status = os.fstat(self.fd)
        self.size, self.written_at = status.st_size, status.st_mtime
        if not stat.S_ISREG(status.st_mode):
            os.close(self.fd)
            raise OSError("no file")

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
        self.offset = loglimit.next_data(self.fd, self.offset, size)
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
        self._since_age_s = jobdir.number(item, "since_age_s")
        self._attempt = _whole(item, "attempt")
        self._first_attempt = _whole(item, "first_attempt")
        self._files: dict[str, _File] = {}
        self._spec: dict[str, Any] | None = None
        self._fresh = True  # nothing was listed yet
        self._complete = False  # what there is was listed after the job's end
        self._listed_at = self._looked_at = -1e9
        self._state: dict[str, Any] | None = None  # once terminal
        self._started_mark: tuple[int, int] | None = None  # which started.json was read
        self._spec_mark: tuple[int, int] | None = None  # and which one was there when spec.json was

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
        if self._fresh or now - self._listed_at >= LIST_EVERY_S or (self._state and not self._complete):
            self._complete = self._state is not None
            self._list(now)
            if self._state is None:
                self._tell_rest()
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

    def _tell_rest(self) -> None:
        """Tell, once, that the job waits for its next attempt, or for slots."""
        mark = self._mark()
        if mark is not None and mark != self._started_mark:
            self._started_mark = mark
            started = jobdir.read_or_empty(self._job.started)
            if isinstance(started.get("queued"), dict) and not os.path.lexists(self._job.exit):
                put({"job": self._job.job_id, "note": f"queued: {jobdir.text(started, 'reason')}"})
            coming = attempts.to_come(started) if self._live else None
            if coming is not None:
                put({"job": self._job.job_id, "next_attempt": coming})

    def _mark(self) -> tuple[int, int] | None:
        """Return which started.json is there."""
        try:
            found = os.stat(self._job.started)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _now(self) -> dict[str, Any]:
        try:
            return state_of(self._job, server=self._server)
        except (CorruptError, OSError) as error:
            return {"state": None, "reason": str(error)}

    def _end(self, state: dict[str, Any]) -> None:
        self.ended = True
        self.close()
        fields = {name: state.get(name) for name in ("state", "exit_code", "signal", "reason")}
        if state.get("replaced"):
            fields["replaced"] = list(state["replaced"])
        put({"end": True, "job": self._job.job_id, **fields})

    def _list(self, now: float) -> None:
        """Open the files that have come since the last look, of those that are wanted."""
        self._listed_at = now
        mark = self._mark()
        if self._spec is None or mark != self._spec_mark:  # a spare may have become a node meanwhile
            self._spec_mark = mark
            try:
                self._spec = jobdir.read_object(self._job.spec, SPEC_LIMIT_BYTES)
            except CorruptError:
                self._spec = {}
        if self._spec is None:
            return  # a start that is just under way
        found = log_files(self._job)
        if self._first_attempt is None:
            self._first_attempt = max((log.attempt for log in found), default=None)
        self._open_new([log for log in found if self._is_wanted(log)])
        if self._fresh and found and self._attempt not in (None, *(log.attempt for log in found)):
            newest = max(log.attempt for log in found)
            note = f"there are no logs of attempt {self._attempt}; the newest is {newest}, the first 0"
            if self._attempt is not None and 0 < self._attempt < newest:
                note += " (of many attempts, those of the first and of the last ones are kept)"
            put({"job": self._job.job_id, "note": note})
        self._fresh = False

    def _is_wanted(self, log: LogFile) -> bool:
        if self._ranks == [] and not self._launcher:
            return False  # who waits for the end alone
        if self._attempt is not None and log.attempt != self._attempt:
            return False
        if self._attempt is None and log.attempt < (self._first_attempt or 0):
            return False
        if (self._spec or {}).get("torchrun") is None or log.local_rank is None:
            # What a command that is not torchrun writes below ranks/ is its own business.
            return log.local_rank is None and (self._launcher or (self._spec or {}).get("torchrun") is None)
        return self._ranks is None or self._global_rank(log) in self._ranks

    def _global_rank(self, log: LogFile) -> int | None:
        first = int(jobdir.number(self._spec or {}, "first_rank", 0) or 0)
        return None if log.local_rank is None else first + log.local_rank

    def _open_new(self, logs: list[LogFile]) -> None:
        """At the first look a file starts at its last lines, or where it stood at a time; a later one, and
        that of who resumes, at 0 or its offset."""
        opened = []
        for log in logs:
            if log.name not in self._files:
                try:
                    file = _File(self._job.path, log, self._global_rank(log), self._offsets.get(log.name, 0))
                except OSError:
                    continue
                if not self._live:
                    file.limit = file.size
                self._files[log.name] = file
                opened.append((log.name, file))
        if not self._fresh or self._offsets:
            return
        starts = self._starts(opened)
        for name, file in opened:
            file.offset = starts[name]
            if file.offset:
                # Said without bytes too: who resumes must know where the file stood.
                file.put(self._job.job_id)

    def _starts(self, opened: list[tuple[str, _File]]) -> dict[str, int]:
        """Return the offset at which each file is to begin."""
        if self._since_age_s is None:
            return {name: start_of_last_lines(file.fd, self._lines) for name, file in opened}
        since = time.time() - self._since_age_s
        rows = logindex.read_rows(logindex.index_path(self._job))
        sizes = logindex.sizes_at(rows, since)
        starts = {}
        for name, file in opened:
            if file.written_at < since:
                starts[name] = file.size
            elif rows or file.size <= CHUNK_BYTES:
                starts[name] = start_of_line(file.fd, min(sizes.get(name, 0), file.size))
            else:
                starts[name] = start_of_last_lines(file.fd, self._lines)
        if not rows and any(0 < starts[name] < file.size for name, file in opened):
            note = "when its lines were written isn't known (it was started by an older rl)"
            put({"job": self._job.job_id, "note": note})
        return starts

    def close(self) -> None:
        for file in self._files.values():
            os.close(file.fd)
        self._files = {}


def _whole(item: dict[str, Any], name: str) -> int | None:
    value = jobdir.number(item, name)
    return None if value is None else int(value)
