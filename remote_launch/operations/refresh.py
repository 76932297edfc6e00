"""Bring the registry up to date: one round trip a server answers for all its jobs; changed logs follow by
rsync.

Servers that share a folder all see each other's jobs there. Each job is one server's: the one that its spec
names, unless the inventory has no such server (any more), or that one says the job is another machine's and
the other machine claims it."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from remote_launch.core.jobs import JobRecord, JobState, now
from remote_launch.core.programs import archive_name
from remote_launch.dataclass import dataclass
from remote_launch.errors import TransportError, UnknownJobError
from remote_launch.operations.clocks import on_this_clock
from remote_launch.operations.log_sync import sync_logs
from remote_launch.operations.records import (
    adopted_record,
    gone,
    is_in_another_workdir,
    is_unjudged,
    not_looked_at,
    updated,
)
from remote_launch.operations.told import mapping, mappings, number, text, texts
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

# What a server says is a folder's name here: nothing else may become one.
_JOB_ID = re.compile(r"[0-9a-f]{32}\Z")
_PATIENCE_S = 30.0  # a server answers for all its jobs within a second or two, a frozen one never
# LOST is asked again: it is what could be said at the time (a disk that was not mounted yet).
UNSETTLED = (JobState.CREATED, JobState.QUEUED, JobState.RUNNING, JobState.LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What one server told."""

    changed: int
    adopted: int  # jobs that this registry didn't know and that are this server's beyond doubt
    bad: tuple[str, ...] = ()  # in plain words: folders there that can't be read, jobs that can't be judged


def refresh(
    fleet: Fleet, servers: Sequence[Server] | None = None, *, logs: bool = False
) -> Outcomes[Refreshed]:
    """Ask the servers for their jobs' states and write them to the registry. Raises nothing; an unreachable
    one is an outcome.

    Jobs of a server that can't be reached keep their state and are marked unreachable since the first failed
    try. With ``logs``, log files that have grown are brought to ``.remote/jobs/<job_id>/``. Jobs on a server
    that this registry doesn't know (started from elsewhere, or by an rl that was killed) are adopted."""
    registry = fleet.registry
    chosen = list(servers) if servers is not None else fleet.select()
    unfinished: dict[str, list[JobRecord]] = defaultdict(list)
    synced = registry.synced_bytes()
    # A row that can't be read is not known: with the logs it is written anew.
    recorded = registry.all() if logs else registry.in_states(UNSETTLED)
    for job in recorded:
        if job.state in UNSETTLED or (logs and _log_bytes(job) != synced.get(job.job_id, -1)):
            unfinished[job.server].append(job)
    known = frozenset(job.job_id for job in recorded) if logs else frozenset(registry.ids())
    told: dict[str, _Told] = {}

    def ask(server: Server) -> Refreshed:
        told[server.name] = answer = _ask(fleet, server, unfinished[server.name], known)
        if logs:
            answer.synced = sync_logs(fleet, server, [*answer.changed, *answer.adopted.sure], synced)
        return answer.summary

    archive_name()  # once, here: the threads would all read and hash the programs at the same time
    outcomes = fleet.map(chosen, ask)
    _record(fleet, [told[server.name] for server in chosen if server.name in told], heard=told.keys())
    for name in outcomes.errors.keys() - told.keys():
        _mark_unreachable(fleet, unfinished[name])
    return outcomes


def refresh_jobs(
    fleet: Fleet, jobs: Iterable[JobRecord], *, timeout_s: float = _PATIENCE_S
) -> list[JobRecord]:
    """Ask again about these jobs alone; return their records as they are now. Servers that can't be reached,
    or give no answer within ``timeout_s``, leave theirs unchanged; the former are marked unreachable."""
    jobs = list(jobs)
    names = {job.server for job in jobs} & set(fleet.inventory.servers)
    by_server = {name: [job for job in jobs if job.server == name] for name in names}
    outcomes = fleet.map(
        sorted(names), lambda server: _ask(fleet, server, by_server[server.name], None, timeout_s)
    )
    _record(fleet, list(outcomes.values.values()))
    for name, error in outcomes.errors.items():
        if isinstance(error, TransportError):
            _mark_unreachable(fleet, by_server[name])
    told = {job.job_id: job for answer in outcomes.values.values() for job in answer.changed}
    return [_as_recorded(fleet, told.get(job.job_id, job)) for job in jobs]


def _as_recorded(fleet: Fleet, job: JobRecord) -> JobRecord:
    """Return the registry's word on a job; what its server told, where the registry has been removed since
    the job was looked up. Who waits for a job is told its end all the same."""
    try:
        return fleet.registry.get(job.job_id)
    except UnknownJobError:
        return job


def _mark_unreachable(fleet: Fleet, jobs: Sequence[JobRecord]) -> None:
    """Note since when these jobs' server can't be reached. They go on there, as far as anybody knows."""
    missing = [job for job in jobs if not job.state.is_terminal and job.unreachable_since is None]
    fleet.registry.update([dataclasses.replace(job, unreachable_since=now()) for job in missing])


@dataclass(slots=True, kw_only=True)
class _Told:
    """What one server told, not yet in the registry: all servers' answers are written together."""

    changed: list[JobRecord]
    adopted: _Adopted
    summary: Refreshed
    synced: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Adopted:
    """Jobs that a server has and this registry has not, as records of that server."""

    sure: list[JobRecord] = dataclasses.field(default_factory=list)
    # Started on that machine, under the name of another server of the inventory (the key).
    named_otherwise: list[tuple[str, JobRecord]] = dataclasses.field(default_factory=list)
    # Started under that server's name, on another machine (the name was given anew, say).
    moved: list[JobRecord] = dataclasses.field(default_factory=list)
    bad: list[str] = dataclasses.field(default_factory=list)  # folders that can't be read, in plain words


def _settle(answers: Sequence[_Told], heard: Collection[str]) -> list[JobRecord]:
    """Given what the servers in ``heard`` claim, return each job once, with its server."""
    settled: dict[str, JobRecord] = {}
    for answer in answers:
        for job in answer.adopted.sure:
            settled.setdefault(job.job_id, job)
    for answer in answers:
        for name, job in answer.adopted.named_otherwise:
            if name in heard:  # else that server may claim it once it can be asked
                settled.setdefault(job.job_id, job)
    for answer in answers:
        for job in answer.adopted.moved:
            settled.setdefault(job.job_id, job)
    # In the order of their starts, the nodes of a launch next to each other.
    begun: dict[str, float] = {}
    for job in settled.values():
        launch = job.launch_id or job.job_id
        begun[launch] = min(begun.get(launch, job.created_at), job.created_at)

    def order(job: JobRecord) -> tuple[float, str, int]:
        launch = job.launch_id or job.job_id
        return begun[launch], launch, job.node_rank or 0

    return sorted(settled.values(), key=order)


def _record(fleet: Fleet, answers: Sequence[_Told], heard: Collection[str] = ()) -> None:
    adopted = _settle(answers, heard)
    if adopted:
        fleet.registry.adopt(adopted)
    changed = [job for answer in answers for job in answer.changed]
    if changed:
        fleet.registry.update(changed)
    sizes = {job_id: size for answer in answers for job_id, size in answer.synced.items()}
    if sizes:
        fleet.registry.set_synced_bytes(sizes)


def _ask(
    fleet: Fleet,
    server: Server,
    jobs: Sequence[JobRecord],
    known: frozenset[str] | None,
    timeout_s: float = _PATIENCE_S,
) -> _Told:
    request = {
        "job_ids": [job.job_id for job in jobs],
        "discover": known is not None,
        "facts": False,
        "specs": False,
    }
    answer = on_this_clock(lambda: call(fleet, server, "probe", request, timeout_s=timeout_s))
    by_id = {job.job_id: job for job in jobs}
    told = {item["job_id"]: item for item in _jobs(answer, by_id)}
    missing = set(texts(answer.get("missing")))
    alive = mapping(answer.get("missing_alive"))
    changed = [
        not_looked_at(job, server)
        if job_id in missing and is_in_another_workdir(job, server)
        else gone(job, number(alive.get(job_id)) or 0)
        if job_id in missing
        else updated(job, told.get(job_id))
        for job_id, job in by_id.items()
    ]
    adopted = _Adopted()
    if known is not None:
        unknown = [word for word in texts(answer.get("others")) if word not in known and _JOB_ID.match(word)]
        adopted = _adopt(fleet, server, unknown) if unknown else adopted
    moved = sum(1 for job in changed if job.state != by_id[job.job_id].state)
    bad = [*_bad(answer), *adopted.bad]
    unjudged = {job_id: item for job_id, item in told.items() if is_unjudged(item)}
    bad += [f"job {by_id[job_id].key} {text(item.get('reason'))}" for job_id, item in unjudged.items()]
    elsewhere = [job for job in changed if job.job_id in missing and is_in_another_workdir(job, server)]
    bad += [f"job {job.key}: {job.reason}" for job in elsewhere]
    summary = Refreshed(changed=moved, adopted=len(adopted.sure), bad=tuple(bad))
    return _Told(changed=changed, adopted=adopted, summary=summary)


def _bad(answer: Mapping[str, Any]) -> list[str]:
    """Given an answer of the probe, return which folders there can't be read, and why."""
    return [f"job folder {item.get('name')}: {item.get('reason')}" for item in mappings(answer.get("bad"))]


def _jobs(answer: Mapping[str, Any], asked: Collection[str]) -> list[dict[str, Any]]:
    """Given an answer of the probe, return what it tells of the jobs that were asked for."""
    return [item for item in mappings(answer.get("jobs")) if text(item.get("job_id")) in asked]


def _adopt(fleet: Fleet, server: Server, job_ids: Sequence[str]) -> _Adopted:
    """Return records, with no keys yet, of jobs that only the server knew. Those of other machines that are
    not in the inventory are nobody's here."""
    request = {"job_ids": list(job_ids), "discover": False, "facts": False, "specs": True}
    answer = on_this_clock(lambda: call(fleet, server, "probe", request))
    adopted = _Adopted(bad=_bad(answer))
    for item in _jobs(answer, set(job_ids)):
        record = adopted_record(server, item)
        name = text(mapping(item.get("spec")).get("server"))
        is_here = not mapping(item.get("elsewhere"))
        if is_here and (name == server.name or name not in fleet.inventory.servers):
            adopted.sure.append(record)
        elif is_here and name is not None:
            adopted.named_otherwise.append((name, record))
        elif name == server.name:
            adopted.moved.append(record)
    return adopted


def _log_bytes(job: JobRecord) -> int:
    return number(job.details.get("log_bytes")) or 0
