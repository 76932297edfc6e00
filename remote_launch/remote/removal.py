"""Remove the folders of ended jobs. A folder is first renamed, so that the job is gone at one instant: what
is broken off half way is a ``.trash-…`` that the next removal sweeps, never half a job."""

from __future__ import annotations

import contextlib
import os
import time

from . import deletion, procs, states
from .deletion import Amount
from .jobdir import TRASH, CorruptError, JobDir, Refusal, job_dir, jobs_folder, lock_if_free, workdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# For the supervisors of all jobs together that have just written how these ended: a busy machine may let them
# stand for seconds before they are gone.
PATIENCE_S = 10.0


def removal(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"op": "look" | "remove", "job_ids", "server"}, return {"jobs": [{"job_id", "outcome", "files",
    "size_bytes", "linked_bytes", "reason"}]}.

    Outcomes are "there" or "removed", "absent" (no such folder), "running" (it has not ended for certain:
    left alone), "kept" (the reason says why). Raises Refusal."""
    op, asked = request.get("op"), request.get("job_ids")
    if op not in ("look", "remove") or not isinstance(asked, list):
        raise Refusal("RequestError", "removal takes op: look or remove, and job_ids")
    path = jobs_folder(request)
    ids = [job_dir(path, job_id).job_id for job_id in asked]
    root = workdir(request)
    folder = deletion.open_folder(root, os.path.relpath(path, root))
    if folder is None:
        if os.path.lexists(path):
            raise Refusal("WorkspaceError", f"{path} is no folder of its own", "a link there is not followed")
        alive = states.alive_of(ids)
        return {"jobs": [{"job_id": job_id, **_absent(job_id, alive)} for job_id in ids]}
    try:
        probed = states.probe({**request, "job_ids": ids, "discover": False, "facts": False, "specs": False})
        found = {job["job_id"]: job for job in probed["jobs"]}
        alive = probed["missing_alive"]
        bad = {item["name"]: item["reason"] for item in probed["bad"]}
        deadline = time.monotonic() + PATIENCE_S
        jobs = []
        for job_id in ids:
            told = _unfit(path, job_id, found.get(job_id), bad.get(job_id), alive)
            if told is None:
                job = JobDir(f"{path}/{job_id}")
                told = _look(folder, job_id) if op == "look" else _remove(folder, job, deadline)
            jobs.append({"job_id": job_id, **told})
        if op == "remove":
            sweep(folder)
        return {"jobs": jobs}
    finally:
        os.close(folder)


def _told(outcome: str, reason: str | None = None, amount: Amount | None = None) -> dict[str, Any]:
    return {"outcome": outcome, "reason": reason, **(amount or Amount()).to_wire()}


def _unfit(
    path: str, job_id: str, job: dict[str, Any] | None, bad: str | None, alive: dict[str, int]
) -> dict[str, Any] | None:
    """Say why a job can't be removed; None when it can."""
    if not os.path.lexists(f"{path}/{job_id}"):
        return _absent(job_id, alive)
    below = deletion.open_folder(path, job_id)
    if below is None:
        return _told("kept", "it is a link, or no folder that can be opened")
    os.close(below)
    if job is None:
        # No state can be read. Whoever runs it still holds its lock.
        runs = _is_locked(JobDir(f"{path}/{job_id}")) or procs.members(job_id)
        return _told("kept", bad) if runs else None
    if job["state"] not in states.TERMINAL:
        return _told("running", job["reason"])
    if job.get("left_over"):
        return _told("running", _still_running(job["left_over"]))
    return None


def _absent(job_id: str, alive: dict[str, int]) -> dict[str, Any]:
    """Somebody has removed the folder; the job may run all the same."""
    return _told("running", _still_running(alive[job_id])) if job_id in alive else _told("absent")


def _still_running(count: int) -> str:
    return f"{count} of its processes still run: rl job-kill ends them"


def _is_locked(job: JobDir) -> bool:
    try:
        lock = lock_if_free(job)
    except OSError:
        return True
    if lock is not None:
        os.close(lock)
    return lock is None and os.path.lexists(job.lock)


def _look(folder: int, job_id: str) -> dict[str, Any]:
    amount = Amount()
    deletion.measure(folder, job_id, amount)
    return _told("there", None, amount)


def _remove(folder: int, job: JobDir, deadline: float) -> dict[str, Any]:
    """Take one job away. Its lock is held until it has its new name: nobody starts it meanwhile."""
    trash = f".trash-{job.job_id}-{os.urandom(4).hex()}"
    try:
        with unsupervised(job, deadline) as is_free:
            if not is_free:
                return _told("running", "its supervisor has not ended yet")
            os.rename(job.job_id, trash, src_dir_fd=folder, dst_dir_fd=folder)
    except FileNotFoundError:
        return _told("absent")
    except (OSError, CorruptError) as error:
        return _told("kept", f"it can't be removed: {getattr(error, 'strerror', None) or error}")
    amount = Amount()
    return _told("removed", _empty(folder, trash, amount), amount)


@contextlib.contextmanager
def unsupervised(job: JobDir, deadline: float) -> Iterator[bool]:
    """Wait until the supervisor of an ended job is gone, too, and hold the job's lock, where it has one, for
    the length of a ``with``; False when the supervisor is still there at the ``deadline``. Raises OSError."""
    lock = lock_if_free(job)
    while lock is None and os.path.lexists(job.lock):
        if time.monotonic() > deadline:
            yield False
            return
        time.sleep(0.02)
        lock = lock_if_free(job)
    try:
        yield True
    finally:
        if lock is not None:
            os.close(lock)


def _empty(folder: int, trash: str, amount: Amount) -> str | None:
    """Remove a renamed folder; say what is left of it, None for nothing."""
    reason = "something is mounted in it"
    for _ in range(2):  # another removal may be sweeping it too
        try:
            deletion.remove(folder, trash, amount)
        except OSError as error:
            reason = f"{error.strerror or error}"
    try:
        os.stat(trash, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return f"files of it are left in {trash}: {reason}"


def sweep(folder: int) -> None:
    """Remove from a jobs folder what earlier removals left half way."""
    for name in os.listdir(folder):
        if TRASH.match(name):
            with contextlib.suppress(OSError):
                deletion.remove(folder, name, Amount())
