"""The Python API: thin facades over the operations. ``JOBS`` and ``SERVERS`` find the project (from the
current folder, or $RL_PROJECT) at first use, not at import.

    job = JOBS.create("gpu-a", "python train.py", {"LR": "0.1"}, ["tag1"]).start()
    job.wait(timeout=600)
    print(job.state, job.exit_code, job.tail())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.errors import JobStateError, ServersFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.core.job_specs import JobSpec
    from remote_launch.core.jobs import JobRecord, JobState
    from remote_launch.operations.fleet import Fleet

_TAIL_LINES = 20


class Job:
    """A job: made by ``JOBS.create`` (then ``start`` it), or found by ``JOBS.filter`` and ``JOBS[key]``."""

    def __init__(self, fleet: Fleet, record: JobRecord, spec: JobSpec | None = None) -> None:
        self._fleet = fleet
        self._record = record
        self._spec = spec

    def __repr__(self) -> str:
        return f"<Job {self.key} {self.server} {self._record.state}>"

    @property
    def key(self) -> int:
        """The short name that the command line takes; 0 before the start."""
        return self._record.key

    @property
    def job_id(self) -> str:
        return self._record.job_id

    @property
    def server(self) -> str:
        return self._record.server

    @property
    def command(self) -> str:
        return self._record.command

    @property
    def tags(self) -> list[str]:
        return list(self._record.tags)

    @property
    def node_rank(self) -> int | None:
        return self._record.node_rank

    @property
    def state(self) -> JobState:
        """The state now: asks the server while the job hasn't ended. A server that can't be reached leaves
        the last state."""
        return self._refreshed().state

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs, or when a signal ended it."""
        return self._refreshed().exit_code

    @property
    def reason(self) -> str | None:
        """Why it ended, in plain words, where there is something to say."""
        return self._refreshed().reason

    def start(self) -> Job:
        """Start it on its server; return self. Raises what the server answered; a job starts once."""
        from remote_launch.operations.start import start_job

        if self._spec is None:
            raise JobStateError(f"job {self.key} was started before", hint="JOBS.create makes a new one")
        spec, self._spec = self._spec, None
        self._record = start_job(self._fleet, spec)
        return self

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until it has ended; return its exit code. Raises JobStateError after ``timeout`` seconds; the
        job goes on."""
        from remote_launch.operations.wait import wait_jobs

        self._require_started()
        records, _ = wait_jobs(self._fleet, [self._record], timeout_s=timeout)
        self._record = records[0]
        return self._record.exit_code

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines of its output (of all its ranks here)."""
        self._require_started()
        return _tail(self._fleet, [self._record], lines)

    def kill(self, signal: str = "TERM", grace_s: float = 15.0) -> JobState:
        """Stop it with all its processes (and the other nodes of its launch); return its state. Raises where
        it can't be said to have ended."""
        from remote_launch.operations.kill import kill_jobs, signal_name

        self._require_started()
        result = kill_jobs(self._fleet, [self._record], signal=signal_name(signal), grace_s=grace_s)[0]
        self._record = result.job
        if result.failure is not None:
            raise result.failure
        return self._record.state

    def remove(self) -> None:
        """Remove it once it has ended (with the other nodes of its launch): on its server, here, from the
        list. Raises JobStateError where it stays, and says why."""
        self._require_started()
        _remove(self._fleet, [self._record])

    def _require_started(self) -> None:
        if self._spec is not None:
            raise JobStateError("the job hasn't been started", hint="job.start()")

    def _refreshed(self) -> JobRecord:
        from remote_launch.operations.refresh import refresh_jobs

        if self._spec is None and not self._record.state.is_terminal:
            self._record = refresh_jobs(self._fleet, [self._record])[0]
        return self._record


class Launch:
    """One script on several servers: its ``jobs`` by node rank."""

    def __init__(self, fleet: Fleet, launch_id: str, records: Sequence[JobRecord]) -> None:
        self._fleet = fleet
        self.launch_id = launch_id
        self.jobs = [Job(fleet, record) for record in records]

    def __repr__(self) -> str:
        return f"<Launch of {len(self.jobs)} jobs {[job.key for job in self.jobs]}>"

    def wait(self, timeout: float | None = None) -> int:
        """Wait until every node has ended; return 0, or the exit code of what failed first (128+n for a
        signal)."""
        from remote_launch.operations.wait import wait_jobs

        records, verdict = wait_jobs(self._fleet, self._records(), timeout_s=timeout)
        self.jobs = [Job(self._fleet, record) for record in records]
        return verdict.exit_code

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """Return the last lines of rank 0."""
        return _tail(self._fleet, self._records()[:1], lines, ranks=(0,))

    def kill(self) -> None:
        """Stop every node with all its processes. Raises ServersFailedError where one can't be said to have
        ended."""
        from remote_launch.operations.kill import kill_jobs

        running = [record for record in self._records() if not record.state.is_terminal]
        failures = {one.job.server: one.failure for one in kill_jobs(self._fleet, running)}
        if any(failures.values()):
            raise ServersFailedError(failures, "not stopped for certain")

    def _records(self) -> list[JobRecord]:
        return self._fleet.registry.launch(self.launch_id)


class _Project:
    """The fleet of the project that is current, made at first use."""

    def __init__(self) -> None:
        self._fleet: Fleet | None = None

    def fleet(self) -> Fleet:
        from remote_launch.operations.fleet import Fleet

        if self._fleet is None:
            self._fleet = Fleet.load()
        return self._fleet


class Jobs:
    """The jobs of the project: iterate, index by key or id, filter, create."""

    def __init__(self, project: _Project) -> None:
        self._project = project

    def create(
        self,
        server: str,
        command: str | Sequence[str],
        env_vars: Mapping[str, str] | None = None,
        tags: Sequence[str] = (),
        *,
        max_restarts: int | None = None, restart_window_s: float | None = None,
        stall_timeout_s: float | None = None, notify: str | None = None,
        queue: bool = False, slots: int | None = None, gpus: int | None = None,
    ) -> Job:
        """Return a job, not yet started. ``command`` is a text for the shell, or a list of words; the rest as
        for ``rl job-run``. With ``queue``, ``slots`` or ``gpus`` it waits on its server until these are free.
        Raises UnknownServerError."""
        from remote_launch.operations.start import job_spec, record_of

        fleet = self._project.fleet()
        spec = job_spec(
            fleet, server, command, env=env_vars, tags=_tags(tags),
            max_restarts=max_restarts, restart_window_s=restart_window_s,
            stall_timeout_s=stall_timeout_s, notify=notify,
            queue=queue, slots=slots, gpus=gpus,
        )
        return Job(fleet, record_of(spec), spec)

    def filter(
        self,
        tags: Sequence[str] = (),
        *,
        server: str | None = None,
        running: bool = False,
        state: str | None = None,
    ) -> list[Job]:
        """Return the jobs that carry all ``tags``; on ``server``; not ended; in ``state`` ("FAILED"), as far
        as is known."""
        from remote_launch.core.registry import select_by_tags

        registry = self._project.fleet().registry
        tags = _tags(tags)
        records = select_by_tags(registry.unfinished(), tags) if running else registry.tagged(tags)
        return [
            Job(self._project.fleet(), record)
            for record in records
            if server in (None, record.server) and state in (None, record.state.value)
        ]

    def remove(self, jobs: Iterable[Job]) -> None:
        """Remove ended jobs, as ``Job.remove`` does, all servers at once. Raises JobStateError where some
        stay."""
        _remove(self._project.fleet(), [job._record for job in jobs])

    def __getitem__(self, key: str | int) -> Job:
        fleet = self._project.fleet()
        return Job(fleet, fleet.registry.get(str(key)))

    def __iter__(self) -> Iterator[Job]:
        return iter(self.filter())

    def __len__(self) -> int:
        return len(self._project.fleet().registry.ids())


class Servers:
    """The servers of the inventory: iterate over their names in order, index for an entry."""

    def __init__(self, project: _Project) -> None:
        self._project = project

    def __iter__(self) -> Iterator[str]:
        return iter(self._project.fleet().inventory.servers)

    def __getitem__(self, name: str) -> Server:
        return self._project.fleet().server(str(name))

    def __len__(self) -> int:
        return len(self._project.fleet().inventory.servers)

    def __contains__(self, name: object) -> bool:
        return name in self._project.fleet().inventory.servers


def launch(
    script: str,
    args: Sequence[str] = (),
    *,
    nproc_per_node: str | int | None = None,
    servers: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    module: bool = False,
    master: str | None = None, master_port: int | None = None,
    grace_s: float = 15.0,
    nnodes: int | None = None, spares: int | None = None,
    max_restarts: int | None = None, restart_window_s: float | None = None,
    stall_timeout_s: float | None = None, notify: str | None = None,
    gpus: Sequence[str] = (), gpus_per_node: int | None = None, busy_gpus: bool = False,
    queue: bool = False, slots: int | None = None, check: bool = True,
) -> Launch:
    """Run ``script`` under torchrun on all servers (or those named); return at once with the launch.

    The arguments are those of ``rl torch-launch``. Raises what keeps a node from taking part.
    """
    from remote_launch.core.torchrun import Script
    from remote_launch.operations.launch import LaunchRequest, plan_launch, start_launch

    fleet = _PROJECT.fleet()
    request = LaunchRequest(
        script=Script(name=script, args=tuple(args), module=module),
        servers=servers,
        nproc_per_node=nproc_per_node,
        env=env or {},
        tags=_tags(tags),
        master=master, master_port=master_port,
        grace_s=grace_s,
        nnodes=nnodes, spares=spares,
        max_restarts=max_restarts, restart_window_s=restart_window_s,
        stall_timeout_s=stall_timeout_s, notify=notify,
        gpus=gpus, gpus_per_node=gpus_per_node, busy_gpus=busy_gpus,
        queue=queue or slots is not None, slots=slots, check=check,
    )
    plan = plan_launch(fleet, request)
    return Launch(fleet, plan.launch_id, start_launch(fleet, plan))


def _remove(fleet: Fleet, records: Sequence[JobRecord]) -> None:
    from remote_launch.operations.refresh import refresh_jobs
    from remote_launch.operations.remove import measure, remove

    members = fleet.registry.launches({record.launch_id for record in records if record.launch_id})
    jobs = {record.job_id: record for record in [*records, *members]}
    found = measure(fleet, refresh_jobs(fleet, jobs.values()))
    results = remove(fleet, [one.job for one in found if one.can_go])
    stay = [one for one in [*found, *results] if not one.can_go]
    if stay:
        why = "; ".join(f"job {one.job.key} on {one.job.server}: {one.reason or one.outcome}" for one in stay)
        raise JobStateError(f"not removed: {why}", hint="a job that runs: job.kill(); rl job-list shows them")


def _tail(
    fleet: Fleet, records: Sequence[JobRecord], lines: int, *, ranks: tuple[int, ...] | None = None
) -> str:
    from remote_launch.operations.follow import Follower, LogLine, Notice, Selection

    shown = []
    with Follower(fleet, records, Selection(ranks=ranks, lines=lines), until_end=False) as events:
        for event in events:
            if isinstance(event, LogLine):
                shown.append(event.text)
            elif isinstance(event, Notice) and event.error is not None:
                raise event.error
    return "\n".join(shown[-lines:])


_PROJECT = _Project()
JOBS = Jobs(_PROJECT)
SERVERS = Servers(_PROJECT)


def _tags(tags: Sequence[str]) -> Sequence[str]:
    """Given tags, return them; a text is one tag, not a list of letters."""
    return [tags] if isinstance(tags, str) else tags
