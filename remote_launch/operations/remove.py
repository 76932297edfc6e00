"""Remove ended jobs: their folders on the servers, their logs here, and their rows in the registry, in this
order. A job that isn't gone from its server for certain stays in all three places."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from remote_launch.core.jobs import now
from remote_launch.core.verdict import verdict_of
from remote_launch.operations.told import mappings, number, text
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from remote_launch.core.inventory import Server
    from remote_launch.core.jobs import JobRecord, JobState
    from remote_launch.errors import RemoteLaunchError
    from remote_launch.operations.fleet import Fleet

_TIMEOUT_S = 600.0  # logs can be long
_JOB_ID = re.compile(r"[0-9a-f]{32}\Z")
# What a server answers, and how it is called here.
_TOLD = ("there", "removed", "absent", "running", "kept")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What there is of one job, or what came of its removal.

    ``outcome``: there, removed, running (left alone), unreachable (its server: all of it stays), kept (the
    reason says why)."""

    job: JobRecord
    outcome: str
    remote_bytes: int = 0
    local_bytes: int = 0
    reason: str | None = None
    error: RemoteLaunchError | None = None  # of an unreachable server

    @property
    def can_go(self) -> bool:
        return self.outcome in ("there", "removed")

    def to_dict(self) -> dict[str, Any]:
        return {
            "job_id": self.job.job_id,
            "key": self.job.key,
            "server": self.job.server,
            "launch_id": self.job.launch_id,
            "state": self.job.state.value,
            "outcome": self.outcome,
            "remote_bytes": self.remote_bytes,
            "local_bytes": self.local_bytes,
            "reason": self.reason,
        }


def old_jobs(
    fleet: Fleet,
    servers: Collection[str],
    *,
    older_s: float | None = None,
    keep: int = 0,
    states: Collection[JobState] = (),
) -> list[JobRecord]:
    """Return the jobs, on ``servers``, that ended (so) longer ago; a launch is one, as old as its newest end.
    The newest ``keep`` stay, whatever their age."""
    groups: dict[str, list[JobRecord]] = defaultdict(list)
    for job in fleet.registry.all():
        groups[job.launch_id or job.job_id].append(job)

    def ended_at(group: Sequence[JobRecord]) -> float:
        return max(job.ended_at or job.seen_at or job.created_at for job in group)

    fitting = [
        group
        for group in groups.values()
        if all(job.state.is_terminal for job in group)
        and any(job.server in servers for job in group)
        and (not states or verdict_of(group).state in states)
    ]
    fitting.sort(key=ended_at, reverse=True)
    limit = now() - (older_s or 0.0)
    return sorted(
        (job for group in fitting[keep:] if ended_at(group) <= limit for job in group),
        key=lambda job: job.key,
    )


def measure(fleet: Fleet, jobs: Iterable[JobRecord], *, forget: bool = False) -> list[Removal]:
    """Say how much there is of each job, and which of them can be removed."""
    return _over_servers(fleet, jobs, "look", forget=forget)


def remove(fleet: Fleet, jobs: Iterable[JobRecord], *, forget: bool = False) -> list[Removal]:
    """Remove these jobs, wherever they can be; return what came of each. With ``forget`` the local part of
    those goes, too, whose server is no longer in the inventory."""
    fleet.registry.require_writable()  # before anything is gone
    results = _over_servers(fleet, jobs, "remove", forget=forget)
    for number_, result in enumerate(results):
        if not result.can_go:
            continue
        try:
            _remove_tree(_folder(fleet, result.job))
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}; it is gone from its server"
            results[number_] = dataclasses.replace(result, outcome="kept", reason=reason)
    gone = [result.job for result in results if result.outcome == "removed"]
    if gone:
        fleet.registry.remove([job.job_id for job in gone])
    return results


def _over_servers(fleet: Fleet, jobs: Iterable[JobRecord], op: str, *, forget: bool) -> list[Removal]:
    jobs = list(jobs)
    by_server: dict[str, list[JobRecord]] = defaultdict(list)
    for job in jobs:
        by_server[job.server].append(job)
    known = [name for name in by_server if name in fleet.inventory.servers]
    outcomes = fleet.map(known, lambda server: _ask(fleet, server, by_server[server.name], op))
    answers = {removal.job.job_id: removal for value in outcomes.values.values() for removal in value}
    results = []
    for job in jobs:
        error = outcomes.errors.get(job.server)
        if error is not None:
            result = Removal(job=job, outcome="unreachable", reason=error.message, error=error)
        elif job.job_id in answers:
            result = answers[job.job_id]
        elif forget:
            result = Removal(job=job, outcome="removed" if op == "remove" else "there")
        else:
            reason = "its server is no longer in the inventory: --forget removes what is here"
            result = Removal(job=job, outcome="kept", reason=reason)
        results.append(dataclasses.replace(result, local_bytes=_size(_folder(fleet, job))))
    return _whole_launches(results) if op == "look" else results


def _ask(fleet: Fleet, server: Server, jobs: Sequence[JobRecord], op: str) -> list[Removal]:
    request = {"op": op, "job_ids": [job.job_id for job in jobs]}
    answer = call(fleet, server, "removal", request, timeout_s=_TIMEOUT_S)
    told = {text(item.get("job_id")): item for item in mappings(answer.get("jobs"))}
    return [_removal(job, told.get(job.job_id, {}), op) for job in jobs]


def _removal(job: JobRecord, told: dict[str, Any], op: str) -> Removal:
    outcome = text(told.get("outcome"))
    reason = text(told.get("reason"))
    if outcome not in _TOLD:
        outcome, reason = "kept", "the server's answer makes no sense"
    if outcome == "absent" and not job.state.is_terminal:
        outcome, reason = "running", "its start may be under way"
    elif outcome == "absent":
        outcome = "there" if op == "look" else "removed"
    return Removal(
        job=job, outcome=outcome, remote_bytes=max(0, number(told.get("size_bytes")) or 0), reason=reason
    )


def _whole_launches(results: Sequence[Removal]) -> list[Removal]:
    """A launch goes whole: one node that runs keeps the others."""
    running = {
        result.job.launch_id: result.job for result in results if result.outcome == "running"
    }
    return [
        dataclasses.replace(
            result, outcome="running", reason=f"job {running[result.job.launch_id].key} of its launch runs"
        )
        if result.can_go and result.job.launch_id and result.job.launch_id in running
        else result
        for result in results
    ]


def _folder(fleet: Fleet, job: JobRecord) -> Path:
    """Return where the job's logs were brought to. Raises ValueError for an id that isn't one."""
    if not _JOB_ID.match(job.job_id):
        raise ValueError(f"{job.job_id!r} is not a job id")
    return fleet.project.jobs_dir / job.job_id


def _size(folder: Path) -> int:
    total = 0
    if folder.is_symlink():
        return 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(f"{path}/{name}").st_size
            except OSError:
                continue
    return total


def _remove_tree(folder: Path) -> None:
    """Remove a folder; a link in its place is removed itself. Raises OSError."""
    while os.path.lexists(folder):
        try:
            if folder.is_symlink() or not folder.is_dir():
                folder.unlink()
            else:
                shutil.rmtree(folder)
        except FileNotFoundError:
            continue  # another rl is at it too
