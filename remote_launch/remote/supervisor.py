"""The parent of one job on one server: starts the child, waits, stops it when asked, and writes down how it
ended.

It sleeps until a signal or a socket wakes it. SIGTERM means: stop the job (how, says kill.json). What it
knows of the other nodes of a launch comes through ``gang``, a Coordinator (node 0) or a Member.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time

from . import owner, procs, verdict
from .child import Child, arguments, environment
from .coordinator import Coordinator
from .gang import GangSettings
from .jobdir import CorruptError, JobDir, number, read_object, text, write_atomic
from .logindex import LogIndex
from .member import Member
from .notify import Notifier
from .oom import OomWatch
from .stall import StallWatch
from .tree import JobTree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FULL_DISK_PATIENCE_S = 600.0
# The archive that this program runs from. Made absolute while the folder that it was started in still is the
# current one.
PROGRAM = os.path.abspath(os.path.dirname(os.path.dirname(__file__)))


class Supervisor:
    """One attempt of one job. ``start`` once, then ``run`` to the end."""

    def __init__(
        self, spec: dict[str, Any], job: JobDir, workdir: str, login: dict[str, str], umask: int
    ) -> None:
        self.spec = spec
        self.job = job
        self.workdir = workdir
        self.grace_s = number(spec, "grace_s", 15.0) or 0.0
        self.attempt = int(number(spec, "attempt", 0) or 0)
        self.started_at = time.time()
        self.selector = selectors.DefaultSelector()
        self.gang: Coordinator | Member | None = None
        self.tree: JobTree
        self.oom = OomWatch()
        self.stalls: StallWatch
        self._login = login
        self._umask = umask
        self._notifier = Notifier(spec, job, workdir, login)
        self._term_seen = False
        self._killed: dict[str, Any] | None = None  # a person's kill that reached the living child

    # -- the start

    def start(self) -> dict[str, Any]:
        """Spawn the child and return the report for the starter. Raises Refusal or OSError, with nothing left
        running."""
        procs.become_subreaper()
        self._listen_to_signals()
        env = environment(self.spec, self.workdir, self.job, self._login)
        argv = arguments(self.spec, self.job, env, PROGRAM)
        self.gang = self._join_gang()
        cwd = os.path.normpath(os.path.join(self.workdir, self.spec.get("cwd") or "."))
        child = Child(argv, env, cwd, self.job, self._umask)
        pid = os.getpid()
        self.started_at = time.time()
        record = {
            "supervisor_pid": pid, "supervisor_ticks": procs.start_ticks(pid),
            "child_pid": child.pid, "child_ticks": procs.start_ticks(child.pid),
            "started_at": self.started_at,
            "attempt": self.attempt, "server": self.spec.get("server"), **owner.this_machine(),
        }
        try:
            write_atomic(self.job.started, record)
        except BaseException:
            child.abandon()
            raise
        child.release()
        self.tree = JobTree(self.job.job_id, child.pid, self.log)
        self.tree.oom = self.oom
        self.stalls = StallWatch(self, env, cwd)
        self.spec.pop("secret_env", None)
        self._login = {}
        self.log(f"started {argv[0]} as {child.pid} in {cwd}")
        return {name: record[name] for name in ("supervisor_pid", "child_pid", "started_at", "attempt")}

    def _join_gang(self) -> Coordinator | Member | None:
        """This node's part in its launch, listening already when it is node 0; None for a job alone. Raises
        Refusal."""
        data = self.spec.get("gang")
        if not isinstance(data, dict) or data.get("nnodes") == 1:
            return None
        settings = GangSettings(self.spec)
        return Coordinator(settings, self) if settings.node == 0 else Member(settings, self)

    def _listen_to_signals(self) -> None:
        """Signals wake the selector through a pipe: no polling, no race between the check and the sleep."""
        read, write = os.pipe()
        for fd in (read, write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_term)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.selector.register(read, selectors.EVENT_READ, lambda _: os.read(read, 4096))

    def _on_term(self, *_: object) -> None:
        self._term_seen = True

    # -- the life

    def run(self) -> None:
        """Supervise until nothing of the job is left and the launch's verdict is known; then write
        exit.json."""
        told_ended = told_gone = False
        log_index = LogIndex(self.job)
        self.tree.reap()  # it may have ended before the signal handler's pipe was looked at
        while True:
            now = time.monotonic()
            for key, events in self.selector.select(self._wait_s(now, log_index.wait_s(now))):
                key.data(events)
            self.tree.reap()
            if not self.tree.child_alive and not told_ended:
                told_ended = True
                self._tell_child_ended()
            if self._term_seen:
                self._term_seen = False
                self._stop_as_asked()
            now = time.monotonic()
            self.tree.tick(now)
            self.oom.tick(now)
            self.stalls.tick(now)
            log_index.tick(now)
            if self.gang:
                if self.tree.gone and not told_gone:
                    told_gone = True
                    self.gang.tree_gone(self.tree.left_over)
                self.gang.tick(now)
            if self.tree.gone and (self.gang is None or self.gang.verdict is not None):
                break
        self._finish()

    def _wait_s(self, now: float, most_s: float) -> float:
        waits = [self.tree.wait_s(now), self.gang.wait_s(now) if self.gang else None]
        waits += [self.oom.wait_s(now), self.stalls.wait_s(now)]
        return min([most_s, *(wait for wait in waits if wait is not None)])

    def _tell_child_ended(self) -> None:
        if self.gang:
            self.gang.child_ended(verdict.own_failure(self.tree, self.spec, self.job), self.tree.asked)

    def _stop_as_asked(self) -> None:
        """SIGTERM came: from ``kill`` (kill.json says how), or from the machine's shutdown or its
        administrator."""
        try:
            kill = read_object(self.job.kill)
        except CorruptError as error:
            self.log(f"kill.json: {error}")
            kill = {}
        first = (procs.signal_number((kill or {}).get("signal") or "TERM")) or signal.SIGTERM
        grace_s = number(kill or {}, "grace_s", self.grace_s)
        grace_s = self.grace_s if grace_s is None else grace_s
        if kill is not None and self.tree.child_alive and not self.tree.asked:
            self._killed = {"by": text(kill, "by"), "signal": procs.signal_name(first), "grace_s": grace_s}
        self.stop(first, grace_s)
        if self._killed and self.gang:
            self.gang.kill(self._killed)

    def stop(self, first: int, grace_s: float) -> None:
        """Stop the local tree (also called by the gang)."""
        self.tree.stop(first, grace_s)

    def server_name(self, node_rank: int) -> str:
        """Given a node's rank, return its server's name."""
        servers = (self.spec.get("gang") or {}).get("servers") or []
        return str(servers[node_rank]) if 0 <= node_rank < len(servers) else f"node {node_rank}"

    def log(self, message: str) -> None:
        """Write a line to supervisor.log; a full disk is no reason to stop."""
        with contextlib.suppress(OSError):
            os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n".encode("utf-8", "replace"))

    # -- the end

    def _finish(self) -> None:
        end = verdict.exit_record(
            self.tree, self.spec, self.job, started_at=self.started_at, killed=self._killed,
            launch=self.gang.verdict if self.gang else None,
        )
        deadline = time.monotonic() + FULL_DISK_PATIENCE_S
        while True:
            try:
                write_atomic(self.job.exit, end)
                break
            except OSError as error:
                self.log(f"exit.json can't be written: {error}")
                if time.monotonic() > deadline:
                    break
                time.sleep(1.0)
        self.log(end["state"] + (f": {end['reason']}" if end["reason"] else ""))
        if self.gang:
            self.gang.close()
        self._notifier.tell(end, self.gang.verdict if self.gang else None, self.log)
