"""Jobs as data: their states, and the record that the registry keeps. (What a supervisor is started with is
in ``job_specs``.)"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import uuid
from typing import TYPE_CHECKING, Any

from remote_launch.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobState(str, enum.Enum):
    """Where a job is in its life. A server that can't be reached keeps its jobs' last state; it is never
    called stopped."""

    CREATED = "CREATED"  # recorded here; the server has not said that it runs
    QUEUED = "QUEUED"  # waits on its server for free slots
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"  # exit code 0
    FAILED = "FAILED"  # any other exit code, a signal nobody asked for, or a start that failed
    KILLED = "KILLED"  # ended because a person asked
    LOST = "LOST"  # the server rebooted, or the supervisor died: the exit code can't be known

    def __str__(self) -> str:
        return self.value

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.KILLED, JobState.LOST})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """What the local registry knows of a job. Times are epoch seconds, UTC; None is "not known (yet)"."""

    job_id: str  # 32 hex digits
    key: int = 0  # short name for people; 0 until the registry gives one
    server: str
    command: str  # as a person would type it; what stands in it is shown, but for passwords in URLs
    name: str = ""
    launch_id: str | None = None
    run_id: str | None = None
    node_rank: int | None = None
    nnodes: int | None = None
    tags: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)  # masked
    workdir: str = ""  # the project's folder on the server
    state: JobState = JobState.CREATED
    exit_code: int | None = None
    signal: str | None = None
    reason: str | None = None
    attempt: int = 0
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    seen_at: float | None = None  # when the server last told this state
    unreachable_since: float | None = None
    details: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # failures, cause: as exit.json has them
    choices: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what rl chose for it, and why

    @property
    def is_master(self) -> bool:
        return "master" in self.tags

    @property
    def duration_s(self) -> float | None:
        """Seconds it ran, or has run as far as is known; None before its start, or with its end unknown."""
        if self.started_at is None or (self.state.is_terminal and self.ended_at is None):
            return None
        end = self.ended_at or self.unreachable_since or now()
        return max(0.0, end - self.started_at)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints of a job; times in ISO 8601, UTC."""
        return {
            "job_id": self.job_id,
            "key": self.key,
            "name": self.name,
            "launch_id": self.launch_id,
            "run_id": self.run_id,
            "server": self.server,
            "node_rank": self.node_rank,
            "nnodes": self.nnodes,
            "state": self.state.value,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "reason": self.reason,
            "tags": list(self.tags),
            "command": self.command,
            "env": dict(self.env),
            "workdir": self.workdir,
            "attempt": self.attempt,
            "created_at": iso(self.created_at),
            "started_at": iso(self.started_at),
            "ended_at": iso(self.ended_at),
            "duration_s": None if self.duration_s is None else round(self.duration_s, 3),
            "seen_at": iso(self.seen_at),
            "unreachable_since": iso(self.unreachable_since),
            "details": dict(self.details),
            "choices": dict(self.choices),
        }


def new_id() -> str:
    """Return a new job_id or launch_id: 32 hex digits."""
    return uuid.uuid4().hex


def now() -> float:
    """Return the time, in epoch seconds."""
    return dt.datetime.now(dt.timezone.utc).timestamp()


def iso(epoch_s: float | None) -> str | None:
    """Given epoch seconds, return ISO 8601 in UTC; None for None or 0."""
    if not epoch_s:
        return None
    return (
        dt.datetime.fromtimestamp(epoch_s, dt.timezone.utc)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
