"""Bring the logs of jobs to ``.remote/jobs/<job_id>/``: they only grow, so only what is new is sent."""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import TYPE_CHECKING

from remote_launch.core.jobs import JobState
from remote_launch.operations.told import mapping, number

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from remote_launch.core.inventory import Server
    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet

_LOGS = ("job.out", "job.err", "job.*.out", "job.*.err", "stdout.log", "stderr.log")
_DROPPED = "logs.dropped"
_PROGRAM_FILES = (
    "lock", "spec.json", "started.json", "kill.json", "supervisor.log", "logs.index", _DROPPED, "*.room",
)  # fmt: skip
_LOG_NAME = re.compile(
    r"(?:job(?:\.[0-9]+)?\.(?:out|err)"
    r"|ranks(?:\.[0-9]+)?/\w[\w.-]{0,200}/attempt_[0-9]+/[0-9]+/std(?:out|err)\.log)\Z",
    re.ASCII,
)
_MOST_DROPPED_BYTES = 1 << 20
_LONGEST_LOG_BYTES = 1 << 42
_MOST_FILE_BYTES = 64 << 20  # of what is no log
# A confused rsync at the other end can make both wait for each other, and keep telling that it lives.
_PATIENCE_S = 120.0
_SLOWEST_BYTES_PER_S = 50_000
_LONGEST_S = 86_400.0
_SMALL_FILES_BYTES = 10 << 20  # as many as are likely
_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.KILLED)


def sync_logs(
    fleet: Fleet, server: Server, jobs: Sequence[JobRecord], synced: Mapping[str, int]
) -> dict[str, int]:
    """Given jobs of a server as it has just told them, and the sizes of their logs at the last time, bring
    what has grown; of those that have ended also their other files (exit.json, stack dumps). Return the sizes
    now.

    Links stay where they are: a job may lead them anywhere."""
    sizes = {job.job_id: number(job.details.get("log_bytes")) or 0 for job in jobs}
    grown = {job_id for job_id, size in sizes.items() if _had(synced.get(job_id)) != size}
    ended = {job.job_id for job in jobs if job.state in _ENDED}
    # What -1 says can't be told from a size of 0 that was noted while it ran: empty logs come with the end.
    grown |= {job_id for job_id in ended if synced.get(job_id) == -1}
    whole = ended | {job.job_id for job in jobs if job.state is JobState.LOST and job.job_id in grown}
    if grown:
        if server.log_max_bytes is not None:
            _skip_what_is_gone(fleet, server, grown)
        new_bytes = sum(abs(sizes[job_id] - (_had(synced.get(job_id)) or 0)) for job_id in grown)
        _pull(fleet, server, grown, new_bytes, logs=True)
    if whole:
        _pull(fleet, server, whole, _SMALL_FILES_BYTES, logs=False)
    # Of a job that goes on the size is noted as what it is not: its end brings more, though no log grow.
    return {job_id: sizes[job_id] if job_id in ended else ~sizes[job_id] for job_id in grown | ended}


def _had(noted: int | None) -> int | None:
    return ~noted if noted is not None and noted < 0 else noted


def _skip_what_is_gone(fleet: Fleet, server: Server, job_ids: Collection[str]) -> None:
    """Make each log here as long as what the server has given back of its beginning: a hole there, a hole
    here, and appending goes on behind it."""
    from remote_launch.transport.rsync import rsync_pull

    rsync_pull(
        fleet.transport(server.name),
        f"{server.workdir}/{fleet.inventory.jobs_folder_name}",
        fleet.project.jobs_dir,
        files_from=b"".join(f"{job_id}/{_DROPPED}".encode() + b"\0" for job_id in sorted(job_ids)),
        max_size_bytes=_MOST_DROPPED_BYTES,
        missing_ok=True,
        timeout_s=_PATIENCE_S,
    )
    for job_id in job_ids:
        folder = fleet.project.jobs_dir / job_id
        for name, length in _dropped(folder / _DROPPED).items():
            _lengthen(folder, name, length)


def _dropped(path: Path) -> dict[str, int]:
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {
        name: length
        for name, length in mapping(told).items()
        if _LOG_NAME.match(name) and type(length) is int and 0 < length <= _LONGEST_LOG_BYTES
    }


def _lengthen(folder: Path, name: str, length: int) -> None:
    """Make a file in ``folder`` at least so long; nothing when a link leads there or it can't be done."""
    path = folder / name
    if any(part.is_symlink() for part in (path, *path.parents) if folder in (part, *part.parents)):
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_size < length:
                os.truncate(fd, length)
        finally:
            os.close(fd)


def _pull(fleet: Fleet, server: Server, job_ids: Collection[str], new_bytes: int, *, logs: bool) -> None:
    from remote_launch.transport.rsync import rsync_pull

    fleet.project.jobs_dir.mkdir(parents=True, exist_ok=True)
    rsync_pull(
        fleet.transport(server.name),
        f"{server.workdir}/{fleet.inventory.jobs_folder_name}",
        fleet.project.jobs_dir,
        files_from=b"".join(job_id.encode() + b"\0" for job_id in sorted(job_ids)),
        recursive=True,
        includes=_LOGS if logs else (),
        excludes=_PROGRAM_FILES if logs else (*_PROGRAM_FILES, *_LOGS),
        append=logs,  # what is here of a log is neither read nor sent again
        max_size_bytes=None if logs else _MOST_FILE_BYTES,
        missing_ok=True,
        timeout_s=min(_LONGEST_S, _PATIENCE_S + new_bytes / _SLOWEST_BYTES_PER_S),
    )
