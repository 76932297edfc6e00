"""The parent of one job on one server: starts the child, waits, stops it when asked, and writes down how it
ended.

It sleeps until a signal or a socket wakes it. SIGTERM means: stop the job (how, says kill.json). What it
knows of the other nodes of a launch comes through ``gang``, a Coordinator (node 0, or its successor) or
a Member.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time

from . import owner, parts, procs, room, verdict
from .attempts import Attempts, next_attempt
from .child import Child, arguments, environment
from .jobdir import CorruptError, JobDir, Refusal, number, read_or_empty, text, write_atomic
from .logindex import LogIndex
from .loglimit import LogLimit
from .notify import Notifier
from .oom import OomWatch
from .places import STANDS_BY
from .restarts import Alone, Restarts, note_place, placed, with_interface
from .stall import StallWatch
from .tree import JobTree
from .wakeup import listen_to_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .coordinator import Coordinator
    from .member import Member
    from .slots import Slots
    from .turn import Turn

# The archive that this program runs from. Made absolute while the folder that it was started in still is the
# current one.
PROGRAM = os.path.abspath(os.path.dirname(os.path.dirname(__file__)))


class Supervisor:
    """One job, through all its attempts. ``start`` once, then ``run`` to the end."""

    def __init__(
        self, spec: dict[str, Any], job: JobDir, workdir: str, login: dict[str, str], umask: int,
        slots: Slots | None = None,
    ) -> None:
        self.spec = spec
        self.job = job
        self.workdir = workdir
        self.grace_s = number(spec, "grace_s", 15.0) or 0.0
        self.attempt = int(number(spec, "attempt", 0) or 0)  # -1 while it is queued
        self.files = JobDir(job.path, self.attempt)  # this attempt's logs
        self.restarts = Restarts(spec)
        self.started_at: float | None = time.time()
        self.attempt_started_at = time.time()
        self._born_at = time.monotonic()
        self.selector = selectors.DefaultSelector()
        self.gang: Coordinator | Member | None = None
        self.tree: JobTree
        self.oom = OomWatch()
        self.stalls: StallWatch
        self.turn: Turn | None = None  # of a job that queues
        self._slots = slots
        self._login = login
        self._umask = umask
        self._notifier = Notifier(spec, job, workdir, login)
        # What a job without a gang has for one.
        self._alone = Alone(self, self.restarts, fresh_port=spec.get("fresh_port") is True)
        self._record: dict[str, Any] = {}  # started.json
        self._watched: tuple[dict[str, str], str] = {}, ""  # environment and folder, for a StallWatch
        self._attempts = Attempts(job)
        self._told_ended = self._told_gone = False
        self._term_seen = False
        self._killed: dict[str, Any] | None = None  # a person's kill that reached the living child

    # -- the start

    def start(self) -> dict[str, Any]:
        """Spawn the child and return the report for the starter. Raises Refusal or OSError, with nothing left
        running."""
        procs.become_subreaper()
        listen_to_signals(self.selector, self._on_term)
        room.prepare(self.job)
        self.started_at, self._born_at = time.time(), time.monotonic()  # one moment, by both clocks
        pid = os.getpid()
        ticks = procs.start_ticks(pid)
        self._record = {
            "supervisor_pid": pid, "supervisor_ticks": ticks, "supervisor_age_s": procs.age_s(ticks),
            "child_pid": None, "child_ticks": None, "started_at": self.started_at, "attempt": self.attempt,
            "attempts": [], "reason": None, "server": self.spec.get("server"), **owner.this_machine(),
        }
        is_spare = parts.is_spare(self.spec)
        if not is_spare:
            self._prepare()  # what can't run is refused before a port is taken
        if self._slots is not None:
            from .turn import Turn

            self.turn = Turn(self._slots, self.spec, self.log)
            self.attempt = self.turn.start(self._record, alone=not parts.has_gang(self.spec))
        self.gang = parts.join(self.spec, self)
        if self.attempt < 0:
            self._idle(self.turn.words() if self.turn else "")
        elif is_spare:
            self._idle(STANDS_BY)
        else:
            self._spawn()
        self.started_at = self._record["started_at"]
        if self._record["child_pid"] and self.restarts.limit == 0:
            self.spec.pop("secret_env", None)
            self._login = {}
        names = ("supervisor_pid", "child_pid", "started_at", "attempt", "queued", "reason")
        return {name: self._record.get(name) for name in names}

    def _idle(self, reason: str) -> None:
        """Be there, with nothing running."""
        env, argv, cwd = self._prepare()
        self.tree = JobTree.without_child(self.job.job_id, self.log)
        self._watched = env, cwd
        self.stalls = StallWatch(self, env, cwd)
        self._told_ended = self._told_gone = True
        self._record["reason"] = reason
        write_atomic(self.job.started, self._record)
        self.log(f"{argv[0]} in {cwd}: {reason}")

    def _prepare(self) -> tuple[dict[str, str], list[str], str]:
        """Return the environment, argv and folder of the next child. Raises Refusal."""
        env = environment(self.spec, self.workdir, self.job, self._login)
        env.update(self.turn.variables() if self.turn else {})
        argv = arguments(self.spec, self.files, env, PROGRAM)
        return env, argv, os.path.normpath(os.path.join(self.workdir, self.spec.get("cwd") or "."))

    def _spawn(self) -> None:
        """Start the child of this attempt, recorded before it runs. Raises Refusal or OSError, with no child
        left."""
        env, argv, cwd = self._prepare()
        held = self.turn.slots.held_fds if self.turn else []
        child = Child(argv, env, cwd, self.files, self._umask, held)
        self.attempt_started_at, born_at = time.time(), time.monotonic()  # what follows may wait for the disk
        self._record.update(
            child_pid=child.pid, child_ticks=procs.start_ticks(child.pid), attempt=self.attempt,
            attempt_started_at=self.attempt_started_at,
        )
        try:
            write_atomic(self.job.started, self._record)
        except BaseException:
            child.abandon()
            raise
        child.release()
        self.tree = JobTree(self.job.job_id, child.pid, self.log, born_at)
        self.tree.oom = self.oom
        self._watched = env, cwd
        self.stalls = StallWatch(self, env, cwd)
        self._told_ended = self._told_gone = False
        self.log(f"attempt {self.attempt}: started {argv[0]} as {child.pid} in {cwd}")

    # -- the attempts, as the gang (or ``Alone``) has them follow

    def rest(self, cause: dict[str, Any] | None, pause: dict[str, Any]) -> None:
        """This attempt is over and another will come. ``pause``: see ``attempts.next_attempt``."""
        if not self._attempts.is_over(self.attempt):  # else a coordinator that was lost then has told so
            self._close_attempt(cause)
            self._attempts.rest(self.attempt)
        why = verdict.cause_in_words(cause) if cause else ""
        coming = next_attempt(self.attempt, pause, why)
        self._record.update(attempts=self._attempts.past, next_attempt=coming)
        self.say(f"restarting ({coming['words'] or 'again'}){f' after {why}' if why else ''}")

    def _close_attempt(self, cause: dict[str, Any] | None) -> None:
        self._attempts.close(self.attempt, self.attempt_started_at, self.tree.ended_at, cause)

    def say(self, reason: str | None) -> None:
        """Have the running job's state show what is going on."""
        self._record["reason"] = reason
        self.log(reason or "goes on")
        with contextlib.suppress(OSError):
            write_atomic(self.job.started, self._record)

    def begin(self, place: dict[str, Any]) -> None:
        """Start the next attempt, as ``place`` has it (see ``restarts.placed``). One that can't be started
        has failed."""
        self.leave_queue(place.get("reason"))
        self.spec = with_interface(placed(self.spec, place))
        self.attempt = int(self.spec["attempt"])
        self.files = JobDir(self.job.path, self.attempt)
        replaced = place.get("replaced")
        self._record.update(reason=place.get("reason"), next_attempt=None)
        self._record["replaced"] = replaced if isinstance(replaced, dict) else {}
        try:
            note_place(self.job, self.spec)
            self._spawn()
        except (Refusal, CorruptError, OSError) as error:
            message = error.message if isinstance(error, Refusal) else f"it can't be started again: {error}"
            self.log(message)
            self.tree = JobTree.without_child(self.job.job_id, self.log, message)
            self._told_ended = self._told_gone = False

    def stand_by(self, attempt: int) -> None:
        """An attempt begins elsewhere: this server coordinates it, and runs nothing."""
        self.attempt = attempt
        self.stalls = StallWatch(self, *self._watched)

    def coordinate(self, gang: Coordinator) -> None:
        """The coordinator was lost, and the others have chosen this server."""
        self.gang = gang

    def leave_queue(self, reason: str | None) -> None:
        """All slots are there: it begins now, or stands by."""
        if self.turn is not None and self.attempt < 0:
            self.attempt = 0
            self.started_at = self.turn.begin(self._record)
            self._record["supervisor_age_s"] = procs.age_s(self._record["supervisor_ticks"])
            self._born_at = time.monotonic()
            self.say(reason)

    def _on_term(self, *_: object) -> None:
        self._term_seen = True

    # -- the life

    def run(self) -> None:
        """Supervise until nothing of the job is left and the launch's verdict is known; then write
        exit.json."""
        log_index = LogIndex(self.job, LogLimit(self.job, number(self.spec, "log_max_bytes"), self.log))
        self.tree.reap()  # it may have ended before the signal handler's pipe was looked at
        while True:
            now = time.monotonic()
            for key, events in self.selector.select(self._wait_s(now, log_index.wait_s(now))):
                key.data(events)
            self.tree.reap()
            if not self.tree.child_alive and not self._told_ended:
                self._told_ended = True
                failure = self.tree.stalled or verdict.own_failure(self.tree, self.spec, self.files)
                self._part.child_ended(failure, self.tree.asked and not self.tree.stalled)
            if self._term_seen:
                self._term_seen = False
                self._stop_as_asked()
            now = time.monotonic()
            self.tree.tick(now)
            self.oom.tick(now)
            self.stalls.tick(now)
            log_index.tick(now)
            if self.turn is not None:
                self.turn.wait(now, self._record, self.job.started)
            if self.tree.gone and not self._told_gone:
                self._told_gone = True
                self._part.tree_gone(self.tree.left_over)
            self._part.tick(now)
            judged = self._part.verdict
            if self.tree.gone and judged is not None:
                break
        self._finish(judged)

    @property
    def _part(self) -> Coordinator | Member | Alone:
        return self.gang or self._alone

    def _wait_s(self, now: float, most_s: float) -> float:
        waits = [self.tree.wait_s(now), self._part.wait_s(now)]
        waits += [self.oom.wait_s(now), self.stalls.wait_s(now), self.turn.wait_s(now) if self.turn else None]
        return min([most_s, *(wait for wait in waits if wait is not None)])

    def _stop_as_asked(self) -> None:
        """SIGTERM came: from ``kill`` (kill.json says how), or from the machine's shutdown or its
        administrator. Between two attempts, too, it is an end."""
        gang = self._part
        self.tree.reap()  # what ended before this came was not ended by it
        kill = read_or_empty(self.job.kill) if os.path.lexists(self.job.kill) else None
        first = (procs.signal_number((kill or {}).get("signal") or "TERM")) or signal.SIGTERM
        grace_s = number(kill or {}, "grace_s", self.grace_s)
        grace_s = self.grace_s if grace_s is None else grace_s
        reaches = (self.tree.child_alive and not self.tree.asked) or gang.may_go_on or self.attempt < 0
        if kill is not None and reaches:
            self._killed = {"by": text(kill, "by"), "signal": procs.signal_name(first), "grace_s": grace_s}
        is_ending = self.tree.asked or not self.tree.child_alive
        self.stop(first, grace_s)
        if self._killed:
            gang.kill(self._killed)
        elif kill is None and is_ending:
            gang.leave()

    def stop(self, first: int, grace_s: float) -> None:
        """Stop the local tree (also called by the gang)."""
        self.tree.stop(first, grace_s)

    def server_name(self, node_rank: int) -> str:
        """Given a node's number in the gang, return its server's name."""
        servers = (self.spec.get("gang") or {}).get("servers") or []
        return str(servers[node_rank]) if 0 <= node_rank < len(servers) else f"node {node_rank}"

    def log(self, message: str) -> None:
        """Write a line to supervisor.log; a full disk is no reason to stop."""
        with contextlib.suppress(OSError):
            os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n".encode("utf-8", "replace"))

    # -- the end

    def _finish(self, judged: dict[str, Any]) -> None:
        end = verdict.exit_record(
            self.tree, self.spec, self.files, started_at=self.started_at, killed=self._killed,
            launch=judged if self.gang else None,
        )
        rested = self._attempts.is_over(self.attempt)
        last_s = None if rested else self.tree.duration_s
        until = time.monotonic() if last_s is None else self.tree.born_at + last_s
        if rested:
            end["ended_at"] = time.time()  # between two attempts
        elif self.attempt >= 0:
            self._close_attempt(end["cause"])
        else:
            end["reason"] = f"{end['reason']}; it was queued, and never ran"
        note = None if self.gang or end["state"] == "SUCCEEDED" else judged.get("note")
        if note and note != end["reason"]:
            end["reason"] = f"{end['reason']}; {note}"
        end["attempts"] = self._attempts.past
        if rested or len(self._attempts.past) > 1:
            end["duration_s"] = until - self._born_at
        verdict.write_end(self.job.exit, end, self.log)
        room.clear(self.job)
        if self.turn is not None and not self.tree.left_over:
            self.turn.end()
        self.log(end["state"] + (f": {end['reason']}" if end["reason"] else ""))
        if self.gang:
            self.gang.close()
        if self.gang is None or self.gang.has_last_word:
            self._notifier.tell(end, self.gang.verdict if self.gang else None, self.log)
