"""Log lines of jobs as they are written, from many servers at once; a reconnect loses and repeats none."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from remote_launch.errors import (
    AuthenticationError,
    HostKeyError,
    MissingProgramError,
    RemoteLaunchError,
    TransportError,
)
from remote_launch.operations.frames import Frames
from remote_launch.operations.lines import Lines
from remote_launch.operations.log_events import Event, JobEnd, LogLine, Notice, Rest, Selection, Unfinished
from remote_launch.operations.told import next_attempt, text, texts
from remote_launch.operations.verbs import refusal, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from types import TracebackType
    from typing import TypeGuard

    from remote_launch.core.inventory import Server
    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet

__all__ = ["Event", "Follower", "JobEnd", "LogLine", "Notice", "Rest", "Selection", "Unfinished"]

_REST_S = 0.2
_CANCEL_EVERY_S = 0.1
_RECONNECT_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_FINAL = (AuthenticationError, HostKeyError, MissingProgramError)  # trying again can't help
# More than any honest server has; what a server says takes memory here.
_MOST_FILES = 4096
_LONGEST_NAME = 1000
_MOST_RANKS = 1_000_000
_MOST_BYTES = 1 << 60


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """Where lines come from. ``stream`` and ``rank`` are what the file's first frame said."""

    job_id: str
    file: str
    rank: int | None = dataclasses.field(compare=False)
    stream: str = dataclasses.field(compare=False)
    attempt: int = dataclasses.field(compare=False)


class Follower:
    """Iterates over the events of ``jobs``; ends when every job has ended (with ``until_end``) or all was
    shown once.

    A lost connection is taken up again at the byte where it was lost, for as long as it takes. An iterator
    and not a generator: Ctrl-C in the middle of ``next`` leaves it whole, so that a user who chooses to go on
    misses nothing. ``on_rest`` is called while nothing comes. Use it in a ``with``."""

    def __init__(
        self,
        fleet: Fleet,
        jobs: Sequence[JobRecord],
        selection: Selection,
        *,
        until_end: bool = True,
        on_rest: Callable[[], None] | None = None,
    ) -> None:
        self._fleet = fleet
        self._on_rest = on_rest
        # A terminal that is paused keeps no more than that in memory; the rest waits on the servers.
        self._events: queue.Queue[Event | BaseException | None] = queue.Queue(maxsize=2_000)
        self._stop = threading.Event()
        by_server: dict[str, list[JobRecord]] = defaultdict(list)
        for job in jobs:
            by_server[job.server].append(job)
        self._readers = [
            _Reader(fleet, fleet.server(name), mine, selection, until_end, self._events, self._stop)
            for name, mine in by_server.items()
        ]
        self._running = len(self._readers)
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Follower:
        return self

    def __next__(self) -> Event:
        while self._running:
            try:
                event = self._events.get(timeout=_REST_S)
            except queue.Empty:
                if self._on_rest is not None:
                    self._on_rest()
                continue
            if event is None:
                self._running -= 1
            elif isinstance(event, BaseException):
                raise event  # a bug in a reader's thread keeps its traceback
            else:
                if isinstance(event, JobEnd):
                    self._give_up(event.replaced)
                return event
        raise StopIteration

    def _give_up(self, servers: Collection[str]) -> None:
        """Wait no more for the jobs of servers that the launch went on without."""
        for reader in self._readers:
            if reader.server.name in servers:
                reader.waiting.clear()

    def close(self) -> None:
        """End the streams. Safe to call twice."""
        self._stop.set()
        cancel_at = 0.0
        while self._running:  # let the readers put their last words and end
            if (
                time.monotonic() >= cancel_at
            ):  # again and again: a reader may just be about to begin a new stream
                self._fleet.cancel()
                cancel_at = time.monotonic() + _CANCEL_EVERY_S
            with contextlib.suppress(queue.Empty):
                if self._events.get(timeout=_CANCEL_EVERY_S) is None:
                    self._running -= 1
        for reader in self._readers:
            reader.join()


class _Reader(threading.Thread):
    """Follows the jobs of one server; puts events, then None."""

    def __init__(
        self,
        fleet: Fleet,
        server: Server,
        jobs: Sequence[JobRecord],
        selection: Selection,
        until_end: bool,
        events: queue.Queue[Event | BaseException | None],
        stop: threading.Event,
    ) -> None:
        super().__init__(name=f"rl-follow-{server.name}", daemon=True)
        self.fleet, self.server, self.selection, self.until_end = fleet, server, selection, until_end
        self.jobs = {job.job_id: job for job in jobs}
        self.waiting = set(self.jobs)
        self.events, self.stopping = events, stop
        self.offsets: dict[str, dict[str, int]] = defaultdict(dict)  # shown so far: job -> file -> bytes
        self.first_attempts: dict[str, int] = {}  # of what was shown: who resumes goes on with it
        self.lines: Lines[_Source] = Lines(self._show, self._draw)
        self.heard = False
        self.began_at = time.monotonic()

    def run(self) -> None:
        try:
            self._until_done()
        except KeyboardInterrupt:  # how ``cancel`` ends a run in this thread
            pass
        except RemoteLaunchError as error:
            self.events.put(Notice(server=self.server.name, text=str(error), error=error))
        except BaseException as error:  # noqa: BLE001 - a bug: raised where the events are read
            self.events.put(error)
        finally:
            self.lines.flush(lambda _: True)
            self.events.put(None)

    def _until_done(self) -> None:
        failures = 0
        while self.waiting and not self.stopping.is_set():
            self.heard = False
            frames = Frames(self._on_frame)
            try:
                done = stream(self.fleet, self.server, "follow", self._request(), frames.feed)
                # A signal (the server shuts down) is as good as a lost connection; another end is a fault.
                if done.signal is None:
                    done.check("rl's program 'follow' failed")
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
                "job_id": job_id,
                "ranks": ranks,
                "launcher": self.selection.launcher,
                "offsets": self.offsets[job_id],
                "lines": self.selection.lines,
                "since_age_s": self._since_age_s(),
                "attempt": self.selection.attempt,
                "first_attempt": self.first_attempts.get(job_id),
            }
            for job_id in sorted(self.waiting)
        ]
        return {"jobs": jobs, "follow": self.until_end}

    def _since_age_s(self) -> float | None:
        """How old the oldest line is by now that is asked for."""
        age_s = self.selection.since_age_s
        return None if age_s is None else age_s + time.monotonic() - self.began_at

    def _on_frame(self, header: Mapping[str, Any], body: bytes) -> None:
        if "error" in header:
            raise refusal(self.server.name, header["error"])
        self.heard = True
        job = self.jobs.get(str(header.get("job")))
        if job is not None and job.job_id in self.waiting:
            if header.get("end"):
                self._on_end(job, header)
            elif coming := next_attempt(header.get("next_attempt")):
                self.events.put(Rest(job=job, **coming))
            elif note := text(header.get("note")):
                self.events.put(Notice(server=self.server.name, text=f"job {job.key}: {note}"))
            else:
                self._on_chunk(job, header, body)
        self.lines.draw_due()

    def _on_end(self, job: JobRecord, header: Mapping[str, Any]) -> None:
        self.lines.flush(lambda source: source.job_id == job.job_id)
        self.waiting.discard(job.job_id)
        code, signal, reason = header.get("exit_code"), header.get("signal"), header.get("reason")
        self.events.put(
            JobEnd(
                job=job,
                state=str(header.get("state")),
                exit_code=code if isinstance(code, int) else None,
                signal=None if signal is None else str(signal),
                reason=None if reason is None else str(reason),
                replaced=tuple(texts(header.get("replaced"))),
            )
        )

    def _on_chunk(self, job: JobRecord, header: Mapping[str, Any], body: bytes) -> None:
        file, offset = header.get("file"), header.get("offset")
        if not isinstance(file, str) or not _is_whole(offset, _MOST_BYTES):
            return
        offsets = self.offsets[job.job_id]
        if file not in offsets and (len(offsets) >= _MOST_FILES or len(file) > _LONGEST_NAME):
            return
        shown = None if header.get("emptied") is True else offsets.get(file)
        if shown is not None and offset < shown:  # sent twice: a server must not make us repeat a line
            body = body[shown - offset :]
            offset = shown
        offsets[file] = offset + len(body)
        source = _source(job.job_id, file, header)
        if shown is not None and offset > shown:  # what was between is gone: two lines must not become one
            self.lines.flush(lambda one: one == source)
            size = f"{max(0.1, (offset - shown) / 1e6):.1f} MB"
            note = f"job {job.key}: {size} of {file} were given back before they came here (log_max_bytes)"
            self.events.put(Notice(server=self.server.name, text=note))
        self.first_attempts.setdefault(job.job_id, source.attempt)
        if body:
            self.lines.add(source, body)

    def _show(self, source: _Source, line: str, goes_on: bool) -> None:
        self.events.put(
            LogLine(
                job=self.jobs[source.job_id],
                rank=source.rank,
                stream=source.stream,
                text=line,
                attempt=source.attempt,
                goes_on=goes_on,
            )
        )

    def _draw(self, source: _Source, drawing: str) -> None:
        job = self.jobs[source.job_id]
        self.events.put(Unfinished(job=job, rank=source.rank, stream=source.stream, text=drawing))


def _source(job_id: str, file: str, header: Mapping[str, Any]) -> _Source:
    rank, attempt = header.get("rank"), header.get("attempt")
    return _Source(
        job_id,
        file,
        rank if _is_whole(rank, _MOST_RANKS) else None,
        "stderr" if header.get("stream") == "stderr" else "stdout",
        attempt if _is_whole(attempt, _MOST_RANKS) else 0,
    )


def _is_whole(value: object, limit: int) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < limit
