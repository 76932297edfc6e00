"""The parent of a supervisor: it sleeps until the supervisor has ended. One that did not end in order (kill
-9, the kernel short of memory, a bug) leaves its job's processes behind: they are ended from here, and
exit.json says so.

Supervisor and guardian are subreapers, so what the supervisor leaves is handed to the guardian. The job's own
child has been sent TERM by then (see ``procs.die_with_parent``) and is not sent another: torchrun's workers
take two badly.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from . import procs, room
from .gang import GANG_GRACE_S
from .jobdir import CorruptError, JobDir, number, read_object, text
from .tree import JobTree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def guard(spec: dict[str, Any], job: JobDir, report: int) -> None:
    """Fork. Return in the child, which is to be the supervisor. The parent is its guardian and never returns;
    ``report`` is the supervisor's alone."""
    procs.become_subreaper()
    supervisor = os.fork()
    if supervisor == 0:
        return
    try:
        os.close(report)
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)  # the supervisor acts on them, and the guardian ends with it
        _watch(supervisor, spec, job)
    except BaseException:  # noqa: BLE001 - nobody above; supervisor.log keeps it
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _watch(supervisor: int, spec: dict[str, Any], job: JobDir) -> None:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == supervisor:
            break
    if os.path.lexists(job.exit):
        return
    try:
        started = read_object(job.started)
    except CorruptError as error:
        _log(f"guardian: {error}")
        started = {}
    if started is None and status == 0:
        return  # a start that was refused
    code, name = procs.exit_of(status)
    how = f"was killed by signal {name}" if name else f"ended with exit code {code}, a bug"
    _log(f"guardian: the supervisor {how}")
    tree = _tree(started or {}, job)
    grace_s = number(spec, "grace_s", 15.0) or 0.0
    tree.orphaned(min(grace_s, GANG_GRACE_S) if spec.get("gang") else grace_s)
    while not tree.gone:
        tree.reap()
        tree.tick(time.monotonic())
        time.sleep(0.02)
    if started is not None:  # else the folder goes, or is gone: the starter was told of no supervisor
        _record(tree, started, job, f"its supervisor {how}")


def _tree(started: dict[str, Any], job: JobDir) -> JobTree:
    """Return the processes that the supervisor left; the child among them unless it had been collected
    already."""
    pid = int(number(started, "child_pid", 0) or 0)
    ticks = int(number(started, "child_ticks", -1) or -1)
    tree = JobTree(job.job_id, pid, _log)
    tree.reap()  # a child that ended meanwhile
    if tree.child_alive and not procs.is_alive(pid, ticks):
        tree.child_alive = False
    return tree


def _record(tree: JobTree, started: dict[str, Any], job: JobDir, why: str) -> None:
    try:
        kill = read_object(job.kill)
    except CorruptError:
        kill = {}
    state, reason = "LOST", f"{why}, so the job was stopped"
    if started.get("queued"):
        reason = f"{why} while it was queued: it never ran"
    if kill is not None:
        by = text(kill, "by")
        state, reason = "KILLED", (f"killed by {by}" if by else "killed") + f"; {why}"
    if tree.left_over:
        reason += f"; {tree.left_over} processes could not be ended"
    end = {
        "state": state, "exit_code": None, "signal": None, "reason": reason, "ended_at": time.time(),
        "started_at": number(started, "started_at"), "attempt": number(started, "attempt", 0),
        "attempts": started.get("attempts") or [], "left_over": tree.left_over, "failures": [],
        "cause": None,
    }
    if os.path.lexists(job.exit):  # rl job-kill was at it too
        return
    try:
        room.write(job.exit, end)
    except OSError as error:
        _log(f"guardian: exit.json can't be written: {error}")
    room.clear(job)
    _log(f"guardian: {state}: {reason}")


def _log(message: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n".encode("utf-8", "replace"))
