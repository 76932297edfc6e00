"""Start jobs on their servers. The job_id makes a start idempotent: asked twice, it runs once."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.places import environment_path, environment_python
from remote_launch.core.job_specs import JobSpec
from remote_launch.core.jobs import JobRecord, JobState, new_id, now
from remote_launch.errors import (
    CommandError,
    ConnectError,
    ConnectionLostError,
    RegistryError,
    RemoteLaunchError,
    StartUnderWayError,
    UsageError,
)
from remote_launch.operations.clocks import just_started
from remote_launch.operations.queue import queue_spec
from remote_launch.operations.records import updated
from remote_launch.operations.told import mapping
from remote_launch.operations.verbs import call
from remote_launch.transport.command import MASK, is_secret, mask_env, mask_urls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.kill import KillResult

DEFAULT_TAGS = ("custom", "no-tags")  # labml_remote's


def job_spec(
    fleet: Fleet,
    server_name: str,
    command: str | Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    name: str = "",
    grace_s: float = 15.0,
    max_restarts: int | None = None,
    restart_window_s: float | None = None,
    stall_timeout_s: float | None = None,
    notify: str | None = None,
    queue: bool = False,
    slots: int | None = None,
    gpus: int | None = None,
) -> JobSpec:
    """Given a command (a string for the shell, or an argv), return the spec of a single job. What is None
    is as the inventory's ``launch`` has it. ``queue``: it waits until as many slots, or cards, are free.
    Raises UnknownServerError."""
    import shlex

    server = fleet.server(server_name)
    is_text = isinstance(command, str)
    if not command or (is_text and not str(command).strip()):
        raise UsageError(
            "the command is empty", hint="for example: rl job-run --server NAME -- python prep.py"
        )
    settings = fleet.inventory.launch.settle(
        max_restarts=max_restarts, restart_window_s=restart_window_s, stall_timeout_s=stall_timeout_s
    )
    return JobSpec(
        job_id=new_id(),
        server=server.name,
        workdir=server.workdir,
        argv=None if is_text else tuple(command),
        shell=str(command) if is_text else None,
        command=str(command) if is_text else shlex.join(command),
        name=name or (str(command).split()[0] if is_text else command[0]),
        **place_on(server, {**server.env, **(env or {})}),
        tags=tuple(dict.fromkeys(tags or DEFAULT_TAGS)),
        grace_s=grace_s,
        **settings,
        notify=notification(fleet, notify),
        queue=queue_spec(server, slots=slots, gpus=gpus) if queue or slots or gpus else None,
        created_at=now(),
    )


def place_on(server: Server, env: Mapping[str, object]) -> dict[str, Any]:
    """Given a job's variables, return the fields of its spec that are its server's: the environment that it
    runs in, and what is secret of it by itself."""
    variables = {name: str(value) for name, value in env.items()}
    return {
        "env": {name: value for name, value in variables.items() if not is_secret(name, value)},
        "secret_env": {name: value for name, value in variables.items() if is_secret(name, value)},
        "python": environment_python(server),
        "path_prepend": environment_path(server),
        "pythonpath_append": (".", "src"),
        "log_max_bytes": server.log_max_bytes,
    }


def notification(fleet: Fleet, command: str | None) -> str | None:
    """Given --notify's command (None: the inventory's on_finish; "": none), return what the server runs after
    the end."""
    return (fleet.inventory.on_finish if command is None else command) or None


def record_of(spec: JobSpec) -> JobRecord:
    """Return the registry's record of a spec, with no secret in it."""
    return JobRecord(
        job_id=spec.job_id,
        server=spec.server,
        command=mask_urls(spec.command),
        name=spec.name,
        launch_id=spec.launch_id,
        run_id=spec.run_id,
        node_rank=spec.node_rank,
        nnodes=spec.nnodes,
        tags=tuple(spec.tags),
        env=mask_env(spec.env) | dict.fromkeys(spec.secret_env, MASK),
        workdir=spec.workdir,
        attempt=spec.attempt,
        created_at=spec.created_at,
        choices=spec.choices,
    )


def start_jobs(fleet: Fleet, specs: Sequence[JobSpec], records: Sequence[JobRecord]) -> Outcomes[JobRecord]:
    """Start one job a server, in parallel, and write what came of each. Every outcome is kept.

    A start that is refused, or never reached its server, is recorded as FAILED. Any other that brought no
    answer (connection lost, time out) stays CREATED: it may run; the next refresh asks the server."""
    by_server = {spec.server: (spec, record) for spec, record in zip(specs, records, strict=True)}

    def start(name: str) -> JobRecord:
        spec, record = by_server[name]
        server = fleet.server(name)
        try:
            answer = _start_once(fleet, server, spec)
        except RemoteLaunchError as error:
            failed = dataclasses.replace(record, reason=str(error).removeprefix(f"{name}: "))
            if not _may_run(error):
                failed = dataclasses.replace(failed, state=JobState.FAILED, ended_at=now())
            with contextlib.suppress(RegistryError):  # the server's word matters more
                fleet.registry.update([failed])
            raise
        running = _started(record, answer)
        with contextlib.suppress(RegistryError):  # it runs: the next refresh writes that down
            fleet.registry.update([running])
        fleet.log(name, f"start {record.command}", job_id=spec.job_id)
        return running

    return fleet.map(by_server, lambda server: start(server.name))


def _started(record: JobRecord, answer: Mapping[str, Any]) -> JobRecord:
    if mapping(answer.get("queued")):
        return updated(record, {**answer, "state": "QUEUED", "job_id": record.job_id})
    started_at = just_started(answer.get("started_at"))
    return dataclasses.replace(record, state=JobState.RUNNING, started_at=started_at, seen_at=now())


def _may_run(error: RemoteLaunchError) -> bool:
    """True when a start came to this and the server may run the job all the same: it got the request and gave
    no answer to it, or an earlier try of it is still at work there."""
    return isinstance(error, ConnectionLostError | CommandError | StartUnderWayError)


def _start_once(fleet: Fleet, server: Any, spec: JobSpec) -> dict[str, Any]:
    """Start; when the connection is lost on the way, ask once more: the job_id makes that safe."""
    request = {"spec": spec.to_wire()}
    try:
        return call(fleet, server, "start", request, timeout_s=60)
    except ConnectionLostError as lost:
        try:
            return call(fleet, server, "start", request, timeout_s=60)
        except ConnectError as error:  # says nothing of the first try
            raise lost from error


def start_job(fleet: Fleet, spec: JobSpec) -> JobRecord:
    """Record and start a single job; return its record. Raises what the server answered."""
    records = fleet.registry.add([record_of(spec)])
    outcomes = start_jobs(fleet, [spec], records)
    outcomes.raise_on_error()
    return outcomes.values[spec.server]


def stop_started(fleet: Fleet, records: Sequence[JobRecord], *, reason: str) -> list[KillResult]:
    """Stop those of ``records`` that did start, and keep the others from it: one node of their launch could
    not. Return what came of each."""
    from remote_launch.operations.kill import kill_jobs

    current = [fleet.registry.get(record.job_id) for record in records]
    running = [job for job in current if not job.state.is_terminal]
    return kill_jobs(fleet, running, grace_s=2.0, reason=reason, prevent=True)
