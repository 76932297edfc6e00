"""Wait until jobs have ended, and say what they came to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from remote_launch.core.verdict import Verdict, verdict_of
from remote_launch.errors import JobStateError, RemoteLaunchError
from remote_launch.operations.follow import Follower, Notice, Selection
from remote_launch.operations.refresh import refresh_jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet

_SILENT = Selection(ranks=(), launcher=False, lines=0)


def wait_jobs(
    fleet: Fleet,
    jobs: Sequence[JobRecord],
    *,
    timeout_s: float | None = None,
    began_at: float | None = None,
) -> tuple[list[JobRecord], Verdict]:
    """Wait until every job has ended; return their records and the verdict. Raises JobStateError when
    ``timeout_s`` runs out; it counts from ``began_at`` (monotonic; default: now).

    The servers tell when a job ends (one held connection each); a lost connection is taken up again.
    """
    began_at = time.monotonic() if began_at is None else began_at
    deadline = None if timeout_s is None else began_at + timeout_s
    failure: RemoteLaunchError | None = None
    current = refresh_jobs(fleet, jobs) if deadline is None else list(jobs)
    open_jobs = [job for job in current if not job.state.is_terminal]
    if open_jobs:
        if deadline is None:
            with Follower(fleet, open_jobs, _SILENT) as events:
                for event in events:
                    if isinstance(event, Notice) and event.error is not None:
                        failure = event.error
        else:
            _poll_until(fleet, open_jobs, deadline, timeout_s or 0.0)
    current = refresh_jobs(fleet, current)
    if not verdict_of(current).state.is_terminal:
        # Nobody may take "can't be known" for success: rl job-wait && deploy
        raise failure or JobStateError(
            f"what {_keys(current)} came to can't be known now",
            hint="rl job-list --rsync asks the servers again",
        )
    return current, verdict_of(current)


def _keys(jobs: Sequence[JobRecord]) -> str:
    keys = [str(job.key) for job in jobs if not job.state.is_terminal]
    return f"job{'s' if len(keys) > 1 else ''} {', '.join(keys)}"


def _poll_until(fleet: Fleet, jobs: Sequence[JobRecord], deadline: float, timeout_s: float) -> None:
    """With a deadline: ask, with growing pauses, so that a silent server can't hold us past it."""
    pause_s = 0.2
    while True:
        patience_s = min(60.0, max(1.0, deadline - time.monotonic()))
        jobs = refresh_jobs(fleet, jobs, timeout_s=patience_s)
        if all(job.state.is_terminal for job in jobs):
            return
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise JobStateError(
                f"{_keys(jobs)} not ended after {timeout_s:g} s",
                hint="not stopped; rl job-wait waits longer",
                exit_code=124,
            )
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, 2.0)
