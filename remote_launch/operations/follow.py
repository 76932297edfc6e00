"""Log lines of jobs as they are written, from many servers at once, through reconnects, without losing or repeating a line."""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from remote_launch.errors import AuthenticationError, HostKeyError, MissingProgramError, RemoteLaunchError, TransportError
from remote_launch.operations.verbs import stream

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet

_PARTIAL_LINE_S = 1.0  # an unfinished line (a prompt, a progress bar) is shown after this long
_PARTIAL_LINE_BYTES = 64 * 1024
_RECONNECT_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_FINAL = (AuthenticationError, HostKeyError, MissingProgramError)  # trying again can't help


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files of a job: global ranks (None: all, empty: none), and the command's own output (torchrun's, for a launch)."""

    ranks: tuple[int, ...] | None = None
    launcher: bool = True
    lines: int = 10  # how many of each file's last lines to begin with; -1: from the start


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a log, without its newline; bytes that are not UTF-8 are replaced. Untrusted: clean it before a terminal."""

    job: JobRecord
    rank: int | None
    stream: str  # stdout | stderr
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """A job came to an end (or, when not following, all of its logs so far were shown)."""

    job: JobRecord
    state: str
    exit_code: int | None
    signal: str | None
    reason: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something about a server that is no log line: the connection was lost, or is back; or it failed for good (``error``)."""

    server: str
    text: str
    error: RemoteLaunchError | None = None


Event = LogLine | JobEnd | Notice


def follow(
    fleet: Fleet, jobs: Sequence[JobRecord], selection: Selection, *, until_end: bool = True
) -> Generator[Event, None, None]:
    """Yield the events of ``jobs``; ends when every job has ended (with ``until_end``) or all was shown once.

    A lost connection is taken up again at the byte where it was lost, for as long as it takes. Close the generator to stop.
    """
    events: queue.Queue[Event | None] = queue.Queue(maxsize=10_000)
    by_server: dict[str, list[JobRecord]] = defaultdict(list)
    for job in jobs:
        by_server[job.server].append(job)
    stop = threading.Event()
    readers = [_Reader(fleet, fleet.server(name), mine, selection, until_end, events, stop) for name, mine in by_server.items()]
    for reader in readers:
        reader.start()
    running = len(readers)
    try:
        while running:
            try:
                event = events.get(timeout=0.5)
            except queue.Empty:
                continue
            if event is None:
                running -= 1
            else:
                yield event
    finally:
        stop.set()
        if running:
            fleet.cancel()
            while running:  # let the readers put their last words and end
                if events.get() is None:
                    running -= 1
        for reader in readers:
            reader.join()


class _Reader(threading.Thread):
    """Follows the jobs of one server; puts events, then None."""

    def __init__(
        self, fleet: Fleet, server: Server, jobs: Sequence[JobRecord], selection: Selection, until_end: bool,
        events: queue.Queue[Event | None], stop: threading.Event,
    ) -> None:
        super().__init__(name=f"rl-follow-{server.name}", daemon=True)
        self.fleet, self.server, self.selection, self.until_end = fleet, server, selection, until_end
        self.jobs = {job.job_id: job for job in jobs}
        self.waiting = set(self.jobs)
        self.events, self.stopping = events, stop
        self.offsets: dict[str, dict[str, int]] = defaultdict(dict)  # shown so far: job -> file -> bytes
        self.lines = _Lines(self)
        self.heard = False

    def run(self) -> None:
        try:
            self._until_done()
        except KeyboardInterrupt:  # how ``cancel`` ends a run in this thread
            pass
        except RemoteLaunchError as error:
            self.events.put(Notice(server=self.server.name, text=str(error), error=error))
        finally:
            self.lines.flush()
            self.events.put(None)

    def _until_done(self) -> None:
        failures = 0
        while self.waiting and not self.stopping.is_set():
            self.heard = False
            frames = _Frames(self._on_frame)
            try:
                stream(self.fleet, self.server, "follow", self._request(), frames.feed)
                error: TransportError | None = None
            except _FINAL:
                raise
            except TransportError as lost:
                error = lost
            if not self.waiting or self.stopping.is_set():
                return
            if not self.until_end and error is None:
                return
            failures = 1 if self.heard else failures + 1
            pause_s = _RECONNECT_S[min(failures, len(_RECONNECT_S)) - 1]
            why = str(error) if error else f"{self.server.name}: the log stream ended early"
            self.events.put(Notice(server=self.server.name, text=f"{why}; trying again in {pause_s:g} s"))
            self.stopping.wait(pause_s)

    def _request(self) -> dict[str, Any]:
        ranks = None if self.selection.ranks is None else list(self.selection.ranks)
        jobs = [
            {
                "job_id": job_id, "ranks": ranks, "launcher": self.selection.launcher, "offsets": self.offsets[job_id],
                "lines": self.selection.lines,
            }
            for job_id in sorted(self.waiting)
        ]
        return {"jobs": jobs, "follow": self.until_end}

    def _on_frame(self, header: Mapping[str, Any], body: bytes) -> None:
        self.heard = True
        job = self.jobs.get(str(header.get("job")))
        if "ping" in header or job is None or job.job_id not in self.waiting:
            self.lines.show_old_partials()
            return
        if header.get("end"):
            self.lines.flush(job.job_id)
            self.waiting.discard(job.job_id)
            self.events.put(
                JobEnd(
                    job=job, state=str(header.get("state")), exit_code=header.get("exit_code"), signal=header.get("signal"),
                    reason=header.get("reason"),
                )
            )
            return
        file, offset = str(header["file"]), int(header["offset"])
        shown = self.offsets[job.job_id].get(file)
        if shown is not None and offset < shown:  # sent twice: a server must not make us repeat a line
            body = body[shown - offset :]
            offset = shown
        self.offsets[job.job_id][file] = offset + len(body)
        if body:
            self.lines.add(job, file, header, body)
        self.lines.show_old_partials()


class _Lines:
    """Puts chunks together to lines, by file. Characters cut by a chunk's end are whole again before they are decoded."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self._partial: dict[tuple[str, str], tuple[bytes, float, Mapping[str, Any]]] = {}

    def add(self, job: JobRecord, file: str, header: Mapping[str, Any], body: bytes) -> None:
        held, _, _ = self._partial.pop((job.job_id, file), (b"", 0.0, {}))
        *lines, rest = (held + body).split(b"\n")
        for line in lines:
            self._show(job, header, line)
        if len(rest) > _PARTIAL_LINE_BYTES:
            self._show(job, header, rest)
        elif rest:
            self._partial[job.job_id, file] = (rest, time.monotonic(), header)

    def show_old_partials(self) -> None:
        """Show unfinished lines that have waited long enough."""
        limit = time.monotonic() - _PARTIAL_LINE_S
        for (job_id, file), (rest, since, header) in list(self._partial.items()):
            if since < limit:
                del self._partial[job_id, file]
                self._show(self._reader.jobs[job_id], header, rest)

    def flush(self, job_id: str | None = None) -> None:
        """Show what is held, of one job or of all."""
        for (owner, file), (rest, _, header) in list(self._partial.items()):
            if job_id in (None, owner):
                del self._partial[owner, file]
                self._show(self._reader.jobs[owner], header, rest)

    def _show(self, job: JobRecord, header: Mapping[str, Any], line: bytes) -> None:
        rank = header.get("rank")
        text = line.decode("utf-8", "replace").rstrip("\r")
        # A progress bar redraws its line with carriage returns: what a person would see is the last drawing.
        text = text.rpartition("\r")[2]
        self._reader.events.put(
            LogLine(job=job, rank=rank if isinstance(rank, int) else None, stream=str(header.get("stream", "stdout")), text=text)
        )


class _Frames:
    """Parses the stream of the ``follow`` verb: a JSON header line, then as many bytes as it says. Noise before it is skipped."""

    _MAX_HEADER_BYTES = 16 * 1024
    _MAX_BODY_BYTES = 1024 * 1024

    def __init__(self, on_frame: Any) -> None:
        self._on_frame = on_frame
        self._buffer = b""
        self._header: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> None:
        self._buffer += chunk
        while True:
            if self._header is None:
                line, newline, rest = self._buffer.partition(b"\n")
                if not newline:
                    if len(line) > self._MAX_HEADER_BYTES:
                        self._buffer = b""
                    return
                self._buffer = rest
                self._header = self._parse(line)
                if self._header is None:
                    continue
            length = int(self._header.get("length") or 0)
            if len(self._buffer) < length:
                return
            body, self._buffer = self._buffer[:length], self._buffer[length:]
            header, self._header = self._header, None
            self._on_frame(header, body)

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        try:
            header = json.loads(line)
        except ValueError:
            return None
        if not isinstance(header, dict) or not ({"job", "ping"} & set(header)):
            return None
        length = header.get("length") or 0
        return header if isinstance(length, int) and 0 <= length <= self._MAX_BODY_BYTES else None
