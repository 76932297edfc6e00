"""Bring the registry up to date: one round trip a server answers for all its jobs; changed logs follow by rsync."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from remote_launch.core.jobs import JobRecord, JobState, now
from remote_launch.operations.verbs import call
from remote_launch.transport.rsync import rsync_pull

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

_JOB_ID = re.compile(r"[0-9a-f]{32}\Z")  # what a server says is a folder's name here: nothing else may become one
_PROGRAM_FILES = ("lock", "spec.json", "started.json", "kill.json", "supervisor.log")  # of no use here


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What one server told."""

    changed: int
    adopted: int
    bad: tuple[str, ...] = ()  # folders there that can't be read, in plain words


def refresh(fleet: Fleet, servers: Sequence[Server] | None = None, *, logs: bool = False) -> Outcomes[Refreshed]:
    """Ask the servers for their jobs' states and write them to the registry. Raises nothing; an unreachable one is an outcome.

    Jobs of a server that can't be reached keep their state and are marked unreachable since the first failed try. With
    ``logs``, log files that have grown are brought to ``.remote/jobs/<job_id>/``. Jobs on a server that this registry doesn't
    know (started from elsewhere, or by an rl that was killed) are adopted.
    """
    registry = fleet.registry
    chosen = list(servers) if servers is not None else fleet.select()
    unfinished: dict[str, list[JobRecord]] = defaultdict(list)
    synced = registry.synced_bytes()
    for job in registry.all() if logs else registry.unfinished():
        # LOST is asked again: it is what could be said at the time.
        if not job.state.is_terminal or (logs and int(job.details.get("log_bytes", 0)) != synced.get(job.job_id, -1)):
            unfinished[job.server].append(job)
    known = frozenset(synced)
    outcomes = fleet.map(chosen, lambda server: _refresh_server(fleet, server, unfinished[server.name], known, logs=logs))
    for name in outcomes.errors:
        missing = [job for job in unfinished[name] if not job.state.is_terminal and job.unreachable_since is None]
        registry.update([dataclasses.replace(job, unreachable_since=now()) for job in missing])
    return outcomes


def refresh_jobs(fleet: Fleet, jobs: Iterable[JobRecord]) -> list[JobRecord]:
    """Ask again about these jobs alone; return their records as they are now. Unreachable servers leave theirs unchanged."""
    jobs = list(jobs)
    names = {job.server for job in jobs} & set(fleet.inventory.servers)
    by_server = {name: [job for job in jobs if job.server == name] for name in names}
    fleet.map(sorted(names), lambda server: _refresh_server(fleet, server, by_server[server.name], None, logs=False))
    return [fleet.registry.get(job.job_id) for job in jobs]


def _refresh_server(
    fleet: Fleet, server: Server, jobs: Sequence[JobRecord], known: frozenset[str] | None, *, logs: bool
) -> Refreshed:
    request = {"job_ids": [job.job_id for job in jobs], "discover": known is not None, "facts": False, "specs": False}
    answer = call(fleet, server, "probe", request)
    by_id = {job.job_id: job for job in jobs}
    told = {item["job_id"]: item for item in answer["jobs"] if item.get("job_id") in by_id}
    changed = [_updated(job, told.get(job_id)) for job_id, job in by_id.items()]
    adopted: list[JobRecord] = []
    unknown = [str(word) for word in answer.get("others", []) if known is not None and word not in known and _JOB_ID.match(str(word))]
    if unknown:
        more = call(fleet, server, "probe", {"job_ids": unknown, "discover": False, "facts": False, "specs": True})
        adopted = fleet.registry.add([_adopted(server, item) for item in more["jobs"] if item.get("job_id") in set(unknown)])
        answer["jobs"] += more["jobs"]
    fleet.registry.update(changed)
    if logs:
        _pull_logs(fleet, server, [*changed, *adopted])
    moved = sum(1 for job in changed if job.state != by_id[job.job_id].state)
    bad = tuple(f"{item.get('name')}: {item.get('reason')}" for item in answer.get("bad", []))
    return Refreshed(changed=moved, adopted=len(adopted), bad=bad)


def _updated(job: JobRecord, told: Mapping[str, Any] | None) -> JobRecord:
    """Given a record and the server's word, return the record as it is now."""
    if told is None:
        # The server has no folder of this job: it was never started there (or was cleared away after its end).
        if job.state is JobState.CREATED and now() - job.created_at > 60:
            return dataclasses.replace(job, state=JobState.FAILED, reason="it never started", ended_at=now(), unreachable_since=None)
        return dataclasses.replace(job, seen_at=now(), unreachable_since=None)
    try:
        state = JobState(told["state"])
    except (KeyError, ValueError):
        return job
    details = {**job.details, "log_bytes": int(told.get("log_bytes") or 0)}
    for name in ("failures", "cause", "left_over"):
        if told.get(name):
            details[name] = told[name]
    return dataclasses.replace(
        job, state=state, exit_code=_number(told.get("exit_code")), signal=told.get("signal"), reason=told.get("reason"),
        attempt=int(told.get("attempt") or 0), started_at=told.get("started_at") or job.started_at, ended_at=told.get("ended_at"),
        seen_at=now(), unreachable_since=None, details=details,
    )


def _adopted(server: Server, told: Mapping[str, Any]) -> JobRecord:
    """Given a job that only the server knew, return a record for the registry."""
    spec = told.get("spec") or {}
    record = JobRecord(
        job_id=str(told["job_id"]), server=server.name, command=str(spec.get("command") or "?"), name=str(spec.get("name") or ""),
        launch_id=spec.get("launch_id"), run_id=spec.get("run_id"), node_rank=_number(spec.get("node_rank")),
        nnodes=_number(spec.get("nnodes")), tags=tuple(str(tag) for tag in spec.get("tags") or ()), workdir=server.workdir,
        created_at=float(spec.get("created_at") or told.get("started_at") or 0.0),
    )
    return _updated(record, told)


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _pull_logs(fleet: Fleet, server: Server, jobs: Sequence[JobRecord]) -> None:
    """Bring the log files of those jobs that have grown since the last time, in one rsync."""
    synced = fleet.registry.synced_bytes()
    sizes = {job.job_id: int(job.details.get("log_bytes", 0)) for job in jobs}
    grown = [job_id for job_id, size in sizes.items() if size != synced.get(job_id, -1)]
    if not grown:
        return
    fleet.project.jobs_dir.mkdir(parents=True, exist_ok=True)
    rsync_pull(
        fleet.transport(server.name), f"{server.workdir}/{fleet.inventory.jobs_folder_name}", fleet.project.jobs_dir,
        files_from=b"".join(job_id.encode() + b"\0" for job_id in grown), recursive=True, excludes=_PROGRAM_FILES, missing_ok=True,
    )
    fleet.registry.set_synced_bytes({job_id: sizes[job_id] for job_id in grown})
