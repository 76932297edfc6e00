"""Jobs, from Python: made, found, waited for, stopped, removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.errors import JobStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from remote_launch.api.project import CurrentProject
    from remote_launch.core.job_specs import JobSpec
    from remote_launch.core.jobs import JobRecord, JobState
    from remote_launch.operations.fleet import Fleet

TAIL_LINES = 20


class Job:
    """A job: made by ``JOBS.create`` (then ``start`` it), or found by ``JOBS.filter`` and ``JOBS[key]``.

    ``state``, ``exit_code`` and ``reason`` ask the job's server, one round trip each, until the job has
    ended; the other properties ask nobody."""

    def __init__(self, fleet: Fleet, record: JobRecord, spec: JobSpec | None = None) -> None:
        self._fleet = fleet
        self._record = record
        self._spec = spec

    def __repr__(self) -> str:
        return f"<Job {self.key} {self.server} {self._record.state}>"

    @property
    def key(self) -> int:
        """The short name that the command line takes (1, 2, 3 …); 0 before the start."""
        return self._record.key

    @property
    def job_id(self) -> str:
        """The name that is never given twice: 32 hex digits."""
        return self._record.job_id

    @property
    def server(self) -> str:
        """The name of its server in the inventory."""
        return self._record.server

    @property
    def command(self) -> str:
        """What it runs, as a person would type it; passwords in URLs are hidden."""
        return self._record.command

    @property
    def tags(self) -> list[str]:
        """Its tags; a job that was given none has labml_remote's, "custom" and "no-tags"."""
        return list(self._record.tags)

    @property
    def node_rank(self) -> int | None:
        """The number of its node in its launch, from 0; None for a job alone."""
        return self._record.node_rank

    @property
    def state(self) -> JobState:
        """The state now: CREATED, QUEUED, RUNNING, SUCCEEDED, FAILED, KILLED or LOST (``state.is_terminal``
        is True for the last four). A server that can't be reached leaves the last state."""
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
        """Start it on its server; return self. It goes on when this process, or this computer, is gone.

        Raises what the server answered, ConnectError where it can't be reached, and JobStateError for a job
        that was started before: a job starts once."""
        from remote_launch.operations.start import start_job

        if self._spec is None:
            raise JobStateError(f"job {self.key} was started before", hint="JOBS.create makes a new one")
        spec, self._spec = self._spec, None
        self._record = start_job(self._fleet, spec)
        return self

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until it has ended; return its exit code, None when a signal ended it.

        Raises JobStateError after ``timeout`` seconds (None: no end), or where what it came to can't be
        known; the job goes on."""
        from remote_launch.operations.wait import wait_jobs

        self._require_started()
        records, _ = wait_jobs(self._fleet, [self._record], timeout_s=timeout)
        self._record = records[0]
        return self._record.exit_code

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last lines of its output (of all its ranks here). Raises what keeps its server from
        telling."""
        self._require_started()
        return tail_of(self._fleet, [self._record], lines)

    def kill(self, signal: str = "TERM", grace_s: float = 15.0) -> JobState:
        """Stop it with all its processes, and the other nodes of its launch; return its state.

        It gets ``signal`` ("TERM", "INT"), and KILL ``grace_s`` seconds later. Raises JobStateError, or the
        server's own error, where it can't be said to have ended; UsageError for an unknown signal."""
        from remote_launch.operations.kill import kill_jobs, signal_name

        self._require_started()
        result = kill_jobs(self._fleet, [self._record], signal=signal_name(signal), grace_s=grace_s)[0]
        self._record = result.job
        if result.failure is not None:
            raise result.failure
        return self._record.state

    def remove(self) -> None:
        """Remove it once it has ended, with the other nodes of its launch: its folder on the server, its logs
        here, its row in the list. Raises JobStateError where it stays, and says why."""
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


class Jobs:
    """The jobs of the project: ``JOBS.create`` makes one, ``JOBS.filter`` and ``JOBS[key]`` find them, and
    iterating over ``JOBS`` gives them all, by key."""

    def __init__(self, project: CurrentProject) -> None:
        self._project = project

    def __repr__(self) -> str:
        return "<the jobs of the current project>"

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
        """Return a job, not yet started: ``JOBS.create("gpu-a", ["python", "prep.py"]).start()``.

        - ``command``: a text for the shell, or a list of words; it runs in the project's folder on the
          server, with the project's environment.
        - ``env_vars``: variables for it, beside those of the inventory. What is a secret by its name
          (``*_TOKEN``, ``*_KEY`` …) is masked wherever the job is shown.
        - ``tags``: words to find it by.
        - ``max_restarts``, ``restart_window_s``: after a failure it is started again, so many times (within
          so many seconds); ``stall_timeout_s``: it is stopped after so many seconds without output;
          ``notify``: a shell command that the server runs after its end. None is as the inventory has it; 0,
          or "", none.
        - ``queue``, ``slots``, ``gpus``: it waits on its server until a slot, so many slots, or so many cards
          are free.

        Raises UnknownServerError, and UsageError for what makes no sense."""
        from remote_launch.operations.start import job_spec, record_of

        fleet = self._project.fleet()
        spec = job_spec(
            fleet, server, command, env=env_vars, tags=as_tags(tags),
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
        """Return the jobs that carry all ``tags``, are on ``server``, have not ended (``running``) and are in
        ``state`` ("FAILED"), as far as is known here: no server is asked. Nothing given: all jobs."""
        from remote_launch.core.registry import select_by_tags

        registry = self._project.fleet().registry
        tags = as_tags(tags)
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
        """Return a job by its key, its id or the beginning of that. Raises UnknownJobError."""
        fleet = self._project.fleet()
        return Job(fleet, fleet.registry.get(str(key)))

    def __iter__(self) -> Iterator[Job]:
        return iter(self.filter())

    def __len__(self) -> int:
        return len(self._project.fleet().registry.ids())


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


def tail_of(
    fleet: Fleet, records: Sequence[JobRecord], lines: int, *, ranks: tuple[int, ...] | None = None
) -> str:
    """Return the last ``lines`` of the output of jobs: of all their ranks, or of those of ``ranks``."""
    from remote_launch.operations.follow import Follower, LogLine, Notice, Selection

    shown = []
    with Follower(fleet, records, Selection(ranks=ranks, lines=lines), until_end=False) as events:
        for event in events:
            if isinstance(event, LogLine):
                shown.append(event.text)
            elif isinstance(event, Notice) and event.error is not None:
                raise event.error
    return "\n".join(shown[-lines:])


def as_tags(tags: Sequence[str]) -> Sequence[str]:
    """Given tags, return them; a text is one tag, not a list of letters."""
    return [tags] if isinstance(tags, str) else tags
