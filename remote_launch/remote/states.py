"""The states of jobs, read from their folders and from /proc: all of a server's jobs in one answer."""

from __future__ import annotations

import os
import time

from . import owner, procs
from .attempts import to_come
from .jobdir import (
    JOB_ID,
    SPEC_LIMIT_BYTES,
    TRASH,
    CorruptError,
    JobDir,
    job_dir,
    jobs_folder,
    lock_if_free,
    number,
    read_object,
    text,
)
from .logfiles import log_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

START_PATIENCE_S = 60.0  # a start takes less than a second
TERMINAL = ("SUCCEEDED", "FAILED", "KILLED", "LOST")
SPEC_FIELDS = (
    "server", "workdir", "command", "name", "cwd", "env", "secret_names", "tags", "launch_id",
    "run_id", "node_rank", "nnodes", "first_rank", "nproc",
    "attempt", "created_at", "choices",
)


def all_jobs(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what ``probe`` says of every job that has a folder here."""
    jobs: list[dict[str, Any]] = probe({**request, "job_ids": None, "specs": False})["jobs"]
    return jobs


def may_run(job: dict[str, Any]) -> bool:
    """True for a job that may still have processes. One of another machine that shares this home can't be
    judged from here, and counts as running until it has ended."""
    return job["state"] not in TERMINAL or bool(job.get("left_over"))


def probe(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"server", "job_ids", "discover", "facts", "specs"}, return {"jobs", "missing", "missing_alive",
    "others", "bad", "facts", "time"}.

    "server" is what the inventory calls this machine. "job_ids": null means all. "missing" are ids asked for
    that have no folder here, "missing_alive" how many processes still run of some of them. "bad" are folders
    and files that can't be ours.
    """
    folder = jobs_folder(request)
    asked = request.get("job_ids")
    here, bad = _listing(folder) if asked is None or request.get("discover") else ([], [])
    wanted: list[str] = here if asked is None else [job_dir(folder, job_id).job_id for job_id in asked]
    jobs = []
    missing = []
    for job_id in wanted:
        job = JobDir(os.path.join(folder, job_id))
        if not os.path.isdir(job.path):
            missing.append(job_id)
            continue
        try:
            jobs.append(describe(job, text(request, "server"), specs=bool(request.get("specs"))))
        except (CorruptError, OSError) as error:
            bad.append({"name": job_id, "reason": str(error)})
    _count_survivors(jobs)
    answer: dict[str, Any] = {
        "jobs": jobs, "missing": missing, "missing_alive": alive_of(missing),
        "others": sorted(set(here) - set(wanted)) if request.get("discover") else [], "bad": bad,
        "time": time.time(),
    }
    if request.get("facts"):
        from .facts import facts

        answer["facts"] = facts(request)
    return answer


def _listing(folder: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the job ids in a jobs folder, and what else lies there."""
    here, bad = [], []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    for entry in entries:
        name = entry.name.encode("utf-8", "replace").decode()[:200]
        if TRASH.match(entry.name):
            continue  # a removed job, not all gone yet
        if not JOB_ID.match(entry.name):
            bad.append({"name": name, "reason": "not a job id"})
        elif not entry.is_dir(follow_symlinks=False):
            bad.append({"name": name, "reason": "not a folder"})
        else:
            here.append(entry.name)
    return here, bad


def describe(job: JobDir, server: str | None = None, *, specs: bool = False) -> dict[str, Any]:
    """Return one job as ``probe`` reports it. Raises CorruptError."""
    started = read_object(job.started) or {}
    data: dict[str, Any] = {
        "job_id": job.job_id, "attempts": _objects(started.get("attempts")),
        **state_of(job, started, server),
        "started_at": number(started, "started_at"), "attempt": number(started, "attempt", 0),
        "log_bytes": log_bytes(job), "supervisor_pid": number(started, "supervisor_pid"),
        "child_pid": number(started, "child_pid"),
    }
    if data["state"] == "QUEUED":
        data["queued"] = started["queued"]
    if data["state"] == "RUNNING" and data["elsewhere"] is None:
        age_s = procs.age_s(number(started, "supervisor_ticks"))
        before_s = number(started, "supervisor_age_s")
        if before_s is None:  # started by an rl that did not write it down
            before_s = number(started, "waited_s", 0.0) or 0.0
        data["running_s"] = None if age_s is None else max(0.0, age_s - before_s)
        data["next_attempt"] = to_come(started)
    if specs:
        try:
            spec = read_object(job.spec, SPEC_LIMIT_BYTES)
        except CorruptError:
            spec = None
        data["spec"] = None if spec is None else {name: spec.get(name) for name in SPEC_FIELDS}
    return data


def state_of(
    job: JobDir, started: dict[str, Any] | None = None, server: str | None = None
) -> dict[str, Any]:
    """Return {state, exit_code, signal, reason, ended_at, failures, cause, left_over, replaced, elsewhere} by
    the rule:

    exit.json -> what it says; else started.json: its supervisor lives -> RUNNING or QUEUED, else LOST;
    neither -> CREATED, or FAILED when the start was broken off. A job of another machine ("elsewhere": whose,
    else null) is never judged: until it has an exit.json it is as its last file has it.
    """
    ended = read_object(job.exit)
    if started is None:
        started = _started(job, needed=ended is None)
    other = owner.elsewhere(job, started, server)
    alive = False
    if ended is None and other is None:
        alive = bool(started) and supervisor_lives(started)
        # The supervisor may have written its last word and gone between our two looks.
        ended = None if alive else read_object(job.exit)
    if ended is not None:
        if ended.get("state") not in TERMINAL:
            raise CorruptError("exit.json: no such state")
        failures = ended.get("failures")
        cause = ended.get("cause")
        return {
            "state": ended["state"], "exit_code": number(ended, "exit_code"), "signal": text(ended, "signal"),
            "reason": text(ended, "reason"), "ended_at": number(ended, "ended_at"),
            "duration_s": number(ended, "duration_s"),
            "left_over": number(ended, "left_over", 0), "attempts": _objects(ended.get("attempts")),
            "replaced": _object(ended.get("replaced")),
            "failures": failures if isinstance(failures, list) else [],
            "cause": cause if isinstance(cause, dict) else None, "elsewhere": other,
        }
    state, reason = "CREATED", None
    if other is not None:
        state, reason = _alive(started) if started else "CREATED", f"can't be judged: {owner.whose(other)}"
    elif started:
        state, reason = (_alive(started), text(started, "reason")) if alive else ("LOST", None)
        if not alive and started.get("boot_id") != procs.boot_id():
            booted = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(procs.boot_time()))
            reason = f"the server was restarted at {booted}"
        elif not alive and _is_of_another_life(started):
            reason = "its container was started again"
        elif not alive:
            reason = "its supervisor died"
        if not alive and started.get("queued"):
            reason = f"{reason}; it was queued, and never ran"
    elif was_broken_off(job):
        state, reason = "FAILED", "its start was broken off: it never ran"
    return {
        "state": state, "exit_code": None, "signal": None, "reason": reason, "ended_at": None, "left_over": 0,
        "failures": [], "cause": None, "elsewhere": other, "replaced": _object(started.get("replaced")),
    }


def _alive(started: dict[str, Any]) -> str:
    return "QUEUED" if isinstance(started.get("queued"), dict) else "RUNNING"


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _is_of_another_life(started: dict[str, Any]) -> bool:
    """True for a job that began before this container did. A new one may get the pid namespace's old
    number."""
    ticks = number(started, "supervisor_ticks", 0) or 0
    return not owner.shares_processes(started) or (procs.start_ticks(1) or 0) > ticks


def _started(job: JobDir, *, needed: bool) -> dict[str, Any]:
    """Return started.json; {} for none, and for one that can't be read but isn't needed."""
    try:
        return read_object(job.started) or {}
    except CorruptError:
        if needed:
            raise
        return {}


def was_broken_off(job: JobDir) -> bool:
    """True for a folder without started.json that nobody works on: what began the start died, or the machine
    did."""
    try:
        age_s = time.time() - os.stat(job.path).st_mtime
    except OSError:
        return False
    if age_s < START_PATIENCE_S:
        return False
    lock = lock_if_free(job)
    if lock is None:
        return not os.path.lexists(job.lock)
    os.close(lock)
    return not os.path.lexists(job.started)


def supervisor_lives(started: dict[str, Any]) -> bool:
    """Given started.json, say whether that very supervisor runs: same boot, same pid, same start ticks."""
    pid, ticks = number(started, "supervisor_pid", 0), number(started, "supervisor_ticks", -1)
    return owner.shares_processes(started) and procs.is_alive(int(pid or 0), int(ticks or -1))


def _count_survivors(jobs: list[dict[str, Any]]) -> None:
    """Say of lost jobs how many of their processes live on (one pass over /proc, only when a job is lost)."""
    lost = [job for job in jobs if job["state"] == "LOST"]
    if not lost:
        return
    counts = procs.marked()
    for job in lost:
        job["left_over"] = counts.get(job["job_id"], 0)
        if job["left_over"]:
            survivors = f"{job['left_over']} of its processes still run: rl job-kill ends them"
            job["reason"] = f"{job['reason']}; {survivors}"


def alive_of(job_ids: list[str]) -> dict[str, int]:
    """Return how many processes carry the mark of these jobs, of those that have any."""
    counts = procs.marked() if job_ids else {}
    return {job_id: counts[job_id] for job_id in job_ids if job_id in counts}


def log_bytes(job: JobDir) -> int:
    """Return the size of all logs of a job."""
    total = sum(_size(os.path.join(job.path, file.name)) for file in log_files(job))
    return total + _size(os.path.join(job.path, "notify.log")) + _stacks_bytes(job)


def _stacks_bytes(job: JobDir) -> int:
    try:
        return sum(_size(entry.path) for entry in os.scandir(os.path.join(job.path, "stacks")))
    except OSError:
        return 0


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


