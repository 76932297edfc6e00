"""Stop jobs: ask their supervisors, wait for exit.json; where a supervisor is dead or deaf, end the processes
from here."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from . import owner, procs, room
from .jobdir import (
    CorruptError,
    JobDir,
    Refusal,
    job_dir,
    jobs_folder,
    lock_if_free,
    number,
    read_object,
    text,
)
from .states import TERMINAL, state_of, supervisor_lives

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

PATIENCE_S = 15.0  # past the grace, for the supervisor: more than it has for what KILL doesn't end at once
START_PATIENCE_S = 2.0  # for a start that is just under way
SWEEP_S = 10.0
_POLL_S = 0.02


def kill(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"server", "jobs": [{"job_id", "signal", "grace_s", "prevent"}], "by"}, return {"jobs": [{job_id,
    outcome, state, exit_code, signal, left_over, attempts, message}], "time"}, in the same order. All are
    asked first, then waited for together. A job of another machine (of a shared home) is left alone.

    With "prevent" a job that isn't there is recorded as killed: a start that is on its way finds that.
    """
    folder = jobs_folder(request)
    kills = [
        _Kill(job_dir(folder, item.get("job_id")), item, request) for item in _items(request)
    ]
    for one in kills:
        one.guarded(one.ask)
    while any(one.outcome is None for one in kills):
        for one in kills:
            if one.outcome is None:
                one.guarded(one.look)
        time.sleep(_POLL_S)
    return {"jobs": [one.to_wire() for one in kills], "time": time.time()}


def _items(request: dict[str, Any]) -> list[dict[str, Any]]:
    jobs = request.get("jobs")
    if not isinstance(jobs, list) or not all(isinstance(item, dict) for item in jobs):
        raise Refusal("RequestError", "the request names no jobs")
    for item in jobs:
        if procs.signal_number(item.get("signal") or "TERM") is None:
            raise Refusal("RequestError", f"{item['signal']!r} is not a signal", "kill -l lists them")
    return jobs


class _Kill:
    """The killing of one job."""

    def __init__(self, job: JobDir, item: dict[str, Any], request: dict[str, Any]) -> None:
        self.job = job
        self.first = procs.signal_number(item.get("signal") or "TERM") or signal.SIGTERM
        self.grace_s = max(0.0, number(item, "grace_s", 15.0) or 0.0)
        self.prevent = item.get("prevent") is True
        self.by = text(request, "by")
        self.server = text(request, "server")
        self.outcome: str | None = None
        self.state: dict[str, Any] = {}
        self.message: str | None = None
        self.started: dict[str, Any] = {}
        self.deadline = time.monotonic() + self.grace_s + PATIENCE_S

    def guarded(self, step: Any) -> None:
        """Do one step; what goes wrong with this job says nothing about the others."""
        try:
            step()
        except (CorruptError, OSError) as error:
            self.outcome, self.message = "failed", str(error)

    def ask(self) -> None:
        if not os.path.isdir(self.job.path) and self.prevent:
            os.makedirs(self.job.path, 0o700, exist_ok=True)
            self._end_before_its_start()
            return
        if not os.path.isdir(self.job.path):
            self._end_without_its_folder()
            return
        ended = self._ended()
        if self.state["elsewhere"]:
            self._leave_alone(ended)
            return
        if ended or self.state["state"] == "LOST":
            self.started = {} if ended else read_object(self.job.started) or {}
            self._when_nobody_supervises()
            return
        deadline = time.monotonic() + START_PATIENCE_S
        while not self.started:
            self.started = read_object(self.job.started) or {}
            if not self.started and time.monotonic() > deadline:
                self._end_before_its_start()
                return
            time.sleep(_POLL_S if not self.started else 0)
        self._write_kill()
        if supervisor_lives(self.started):
            procs.send(int(self.started["supervisor_pid"]), signal.SIGTERM)

    def _leave_alone(self, ended: bool) -> None:
        """Of a job of another machine only what it wrote down is known here; its pids are others' here."""
        if ended:
            self._done("already_ended", self.state["reason"])
            return
        remedy = f"kill it there; if that machine is gone for good, remove {self.job.path}"
        self._done("failed", f"{owner.whose(self.state['elsewhere'])}: {remedy}")

    def look(self) -> None:
        if self._ended():
            killed = self.state["state"] == "KILLED"
            self._done("killed" if killed else "already_ended", None if killed else "it ended by itself")
        elif not supervisor_lives(self.started):
            if not self._ended():
                self._when_nobody_supervises()
        elif time.monotonic() > self.deadline:
            self._end_from_here("its supervisor did not answer")

    def _ended(self) -> bool:
        self.state = state_of(self.job, server=self.server)
        return self.state["state"] in TERMINAL and self.state["state"] != "LOST"

    def _write_kill(self) -> None:
        told = {
            "signal": procs.signal_name(self.first), "grace_s": self.grace_s, "by": self.by,
            "at": time.time(),
        }
        with contextlib.suppress(OSError):  # a job can be stopped though its disk is full
            room.write(self.job.kill, told)

    def _end_without_its_folder(self) -> None:
        """Somebody has removed the folder. What runs on is known by the job's mark; its supervisor ends with
        it, for another attempt has nowhere to write."""
        found = procs.members(self.job.job_id)
        if not found:
            self.outcome, self.message = "not_found", "there is no such job on this server"
            return
        elsewhere = _folder_of(found)
        if elsewhere is not None:  # its supervisor would take a sweep for a failure, and start it again
            self._done("failed", f"it runs, with its folder in another workdir: {elsewhere}")
            return
        left = self._sweep()
        self.state = {
            "state": "LOST" if left else "KILLED", "left_over": left, "ended_at": time.time(),
            "reason": f"killed by {self.by or 'rl'} (its folder is not there)",
        }
        self._done("killed", "its folder is not there; what ran of it was ended")

    def _end_before_its_start(self) -> None:
        """Under the job's lock: a start that comes later finds exit.json. One that holds the lock is not to
        be called killed while it goes on."""
        lock = lock_if_free(self.job, create=True)
        if lock is None:
            self._done("failed", "its start is under way and does not get on: try again")
            return
        try:
            self.started = read_object(self.job.started) or {}
            self._ended()
            self._when_nobody_supervises()
        finally:
            os.close(lock)

    def _when_nobody_supervises(self) -> None:
        """The job is ended, lost, or its start never got through: end what still runs, and record what was
        ended."""
        ended = self.state["state"] in TERMINAL
        if ended and not self._survivors():
            self._done("already_ended", self.state["reason"])
        elif ended and self.state["state"] != "LOST":
            left = self._sweep()
            self.state["left_over"] = left
            self._done(
                "failed" if left else "already_ended", "processes that it had left over were ended now"
            )
        else:
            self._end_from_here("its supervisor died" if ended else "it had not started")

    def _survivors(self) -> dict[int, int]:
        """The job's live processes, as far as they can be known without its supervisor."""
        found = procs.members(self.job.job_id)
        if self.started or self.state.get("state") == "LOST":
            started = self.started or read_object(self.job.started) or {}
            pid = int(number(started, "child_pid", 0) or 0)
            ticks = int(number(started, "child_ticks", -1) or -1)
            if owner.shares_processes(started) and procs.is_alive(pid, ticks):
                found.update(procs.members(self.job.job_id, pid))
                found[pid] = ticks
        return found

    def _end_from_here(self, why: str) -> None:
        """Without its supervisor: TERM, grace, KILL, and exit.json in its name."""
        if not os.path.lexists(self.job.kill):
            self._write_kill()
        left = self._sweep()
        self.state = {
            "state": "KILLED", "exit_code": None, "signal": None,
            "reason": f"killed by {self.by or 'rl'} ({why})", "left_over": left,
            "ended_at": time.time(), "attempts": self.started.get("attempts") or [],
        }
        try:
            room.write(self.job.exit, {
                **self.state, "started_at": number(self.started, "started_at"),
                "attempt": number(self.started, "attempt", 0), "failures": [], "cause": None,
            })
        except OSError:  # a full disk hinders no kill, but without this file a start may still come through
            if not os.path.lexists(self.job.started):
                raise
        room.clear(self.job)
        self._done("failed" if left else "killed", why)

    def _sweep(self) -> int:
        """End what is left; return how many could not be ended. A supervisor that is deaf goes first: it
        would only see its job die."""
        processes = self._survivors()
        if self.started and supervisor_lives(self.started):
            supervisor = int(self.started["supervisor_pid"])
            processes.update(procs.members(self.job.job_id, supervisor))
            procs.send(supervisor, signal.SIGKILL)
        procs.signal_all(processes, self.first)
        hard = time.monotonic() + (0.0 if self.first == signal.SIGKILL else self.grace_s)
        while True:
            processes.update(self._survivors())
            processes = {pid: ticks for pid, ticks in processes.items() if procs.is_alive(pid, ticks)}
            now = time.monotonic()
            if not processes or now > hard + SWEEP_S:
                return len(processes)
            if now >= hard:
                procs.signal_all(processes, signal.SIGKILL)
            time.sleep(_POLL_S)

    def _done(self, outcome: str, message: str | None) -> None:
        left = self.state.get("left_over") or 0
        self.outcome = "failed" if left else outcome
        self.message = f"{left} processes could not be ended" if left else message

    def to_wire(self) -> dict[str, Any]:
        state = self.state
        return {
            "job_id": self.job.job_id, "outcome": self.outcome, "message": self.message,
            "left_over": state.get("left_over") or 0, "attempts": state.get("attempts") or [],
            **{name: state.get(name) for name in ("state", "exit_code", "signal", "reason", "ended_at")},
        }


def _folder_of(processes: Iterable[int]) -> str | None:
    """Given processes of a job, return its folder as they were told of it; None when there is none any
    more."""
    for pid in processes:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            for entry in file.read().split(b"\0"):
                name, _, path = entry.partition(b"=")
                if name == b"RL_JOB_DIR" and os.path.isdir(path):
                    return os.fsdecode(path)
    return None
