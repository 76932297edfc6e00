"""A job's record, as what its server tells of it changes or makes it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from remote_launch.core.jobs import JobRecord, JobState, now
from remote_launch.operations.told import (
    attempts,
    epoch_s,
    mapping,
    mappings,
    next_attempt,
    number,
    signal_name,
    text,
    texts,
)
from remote_launch.transport.command import MASK, mask_env, mask_urls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from remote_launch.core.inventory import Server

_NO_FOLDER = "its folder is gone from the server"
_START_S = 60.0  # a start that has left no folder by then never happened


def is_unjudged(told: Mapping[str, Any]) -> bool:
    """True for a job of another machine whose end is not known."""
    return bool(mapping(told.get("elsewhere"))) and told.get("state") in ("CREATED", "QUEUED", "RUNNING")


def updated(job: JobRecord, told: Mapping[str, Any] | None) -> JobRecord:
    """Given a record and the server's word, return the record as it is now."""
    try:
        state = JobState((told or {})["state"])
    except (KeyError, ValueError, TypeError):
        return dataclasses.replace(job, seen_at=now(), unreachable_since=None)
    told = told or {}
    if is_unjudged(told) and job.state.is_terminal:
        return dataclasses.replace(job, seen_at=now(), unreachable_since=None)  # LOST, by its own machine
    details = {**job.details, "log_bytes": number(told.get("log_bytes")) or 0}
    for name, value in (("failures", mappings(told.get("failures"))), ("cause", mapping(told.get("cause")))):
        if value:
            details[name] = value  # noqa: PERF403
    if past := attempts(told, ended=state.is_terminal):
        details["attempts"] = past
    for name in ("next_attempt", "queue"):
        details.pop(name, None)
    if state is JobState.QUEUED:
        queued = mapping(told.get("queued"))
        details["queue"] = {name: number(queued.get(name)) for name in ("ahead", "need", "of")}
    if coming := next_attempt(told.get("next_attempt")):
        in_s = coming.pop("in_s")
        details["next_attempt"] = {**coming, "at": now() + in_s}
    if mapping(told.get("replaced")):
        details["replaced"] = mapping(told.get("replaced"))
    details.pop("left_over", None)
    if left := number(told.get("left_over")):
        details["left_over"] = left
    return dataclasses.replace(
        job,
        state=state,
        exit_code=number(told.get("exit_code")),
        signal=signal_name(told.get("signal")),
        reason=text(told.get("reason")),
        attempt=number(told.get("attempt")) or 0,
        started_at=epoch_s(told.get("started_at")) or job.started_at,
        ended_at=epoch_s(told.get("ended_at")),
        seen_at=now(),
        unreachable_since=None,
        details=details,
    )


def is_in_another_workdir(job: JobRecord, server: Server) -> bool:
    """True for a job that was started in a folder that the inventory has no more: nothing is known of it."""
    return bool(job.workdir) and job.workdir != server.workdir and not job.state.is_terminal


def not_looked_at(job: JobRecord, server: Server) -> JobRecord:
    """Given such a job, return its record: its state stays, with the reason why."""
    change = f"it was started in {job.workdir}, and workdir is now {server.workdir}"
    return dataclasses.replace(job, reason=f"{change}: set it back to see the job")


def gone(job: JobRecord, left_over: int = 0) -> JobRecord:
    """Given a job of which the server has no folder, return its record as it is now. ``left_over``: how many
    of its processes run there all the same."""
    details = {name: value for name, value in job.details.items() if name != "left_over"}
    seen = dataclasses.replace(job, seen_at=now(), unreachable_since=None, details=details)
    if left_over > 0:
        seen = dataclasses.replace(seen, details={**details, "left_over": left_over})
        if job.state.is_terminal and job.state is not JobState.LOST:
            return seen  # how it ended is known
        reason = f"{_NO_FOLDER}; {left_over} of its processes still run: rl job-kill ends them"
        return dataclasses.replace(seen, state=JobState.LOST, reason=reason)
    if job.state is JobState.LOST and str(job.reason).startswith(f"{_NO_FOLDER}; "):
        return dataclasses.replace(seen, reason=_NO_FOLDER)
    if job.state is JobState.CREATED:  # its start may be just under way
        if now() - job.created_at < _START_S:
            return seen
        reason = "it never started" + (f": {job.reason}" if job.reason else "")
        return dataclasses.replace(seen, state=JobState.FAILED, reason=reason, ended_at=now())
    if job.state.is_terminal:
        return seen  # cleared away after its end
    return dataclasses.replace(
        seen, state=JobState.LOST, reason=_NO_FOLDER, ended_at=now()
    )


def adopted_record(server: Server, told: Mapping[str, Any]) -> JobRecord:
    """Return the record, with no key yet, of a job that only its server knew."""
    spec = mapping(told.get("spec"))
    env = {name: value for name, value in mapping(spec.get("env")).items() if isinstance(value, str)}
    record = JobRecord(
        job_id=told["job_id"],
        server=server.name,
        command=mask_urls(text(spec.get("command")) or "?"),
        name=text(spec.get("name")) or "",
        launch_id=text(spec.get("launch_id")),
        run_id=text(spec.get("run_id")),
        node_rank=number(spec.get("node_rank")),
        nnodes=number(spec.get("nnodes")),
        tags=tuple(texts(spec.get("tags"))),
        env=mask_env(env) | dict.fromkeys(texts(spec.get("secret_names")), MASK),
        workdir=server.workdir,
        choices=mapping(spec.get("choices")),
        created_at=epoch_s(spec.get("created_at")) or epoch_s(told.get("started_at")) or 0.0,
    )
    return updated(record, told)
