"""End jobs: TERM, grace, KILL, and the word of each server that nothing of them is left."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from remote_launch.core.jobs import JobRecord, JobState, now
from remote_launch.errors import JobStateError, RemoteLaunchError, UsageError
from remote_launch.operations import told
from remote_launch.operations.clocks import on_this_clock
from remote_launch.operations.records import gone, is_in_another_workdir, not_looked_at
from remote_launch.operations.verbs import call, who

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet

_OUTCOMES = ["killed", "already_ended", "not_found", "failed"]  # what a server may answer
_SIGNALS = ("TERM", "INT", "KILL", "HUP", "QUIT", "USR1", "USR2")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KillResult:
    """What came of one job. ``outcome``: killed, already_ended, not_found, failed or unreachable."""

    job: JobRecord
    outcome: str
    message: str = ""
    left_over: int = 0
    error: RemoteLaunchError | None = None

    @property
    def ok(self) -> bool:
        return self.outcome in ("killed", "already_ended")

    @property
    def failure(self) -> RemoteLaunchError | None:
        """Why the job can't be taken for ended; None where it can."""
        if self.ok or self.error is not None:
            return self.error
        return JobStateError(
            f"{self.job.server}: job {self.job.key}: {self.message or self.outcome}",
            hint="rl job-list --rsync asks the server what runs",
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "job": self.job.to_dict(),
            "outcome": self.outcome,
            "message": self.message,
            "left_over": self.left_over,
        }


def signal_name(word: str) -> str:
    """Given TERM, SIGTERM or 15, return "TERM". Raises UsageError."""
    import signal

    name = word.upper().removeprefix("SIG")
    if name.isdigit():
        try:
            name = signal.Signals(int(name)).name.removeprefix("SIG")
        except ValueError:
            name = word
    if name not in _SIGNALS:
        raise UsageError(f"--signal {word}: not one of {', '.join(_SIGNALS)}")
    return name


def kill_jobs(
    fleet: Fleet,
    jobs: Sequence[JobRecord],
    *,
    signal: str = "TERM",
    grace_s: float = 15.0,
    reason: str | None = None,
    prevent: bool = False,
) -> list[KillResult]:
    """Stop jobs on all their servers at once; return what came of each, in the order given.

    The server sends ``signal`` to the job, waits ``grace_s`` seconds, then sends KILL to its whole process
    tree and looks that nothing is left. With ``prevent`` a job that a server has not heard of is kept from
    starting there. The registry is brought up to date."""
    by_server: dict[str, list[JobRecord]] = defaultdict(list)
    for job in jobs:
        by_server[job.server].append(job)

    def kill(server: Server) -> dict[str, Any]:
        wanted = [
            {"job_id": job.job_id, "signal": signal, "grace_s": grace_s, "prevent": prevent}
            for job in by_server[server.name]
        ]
        # Twice the grace: once the supervisor's, and where that is deaf, once more from outside.
        request = {"jobs": wanted, "by": who()}
        return on_this_clock(lambda: call(fleet, server, "kill", request, timeout_s=2 * grace_s + 60))

    known = set(fleet.inventory.servers)
    outcomes = fleet.map([name for name in by_server if name in known], kill)
    results, changed = [], []
    for job in jobs:
        if job.server not in known:
            results.append(
                KillResult(job=job, outcome="failed", message=f"{job.server} is no longer in the inventory")
            )
            continue
        outcome = outcomes[job.server]
        if outcome.error is not None:
            results.append(
                KillResult(job=job, outcome="unreachable", message=str(outcome.error), error=outcome.error)
            )
            continue
        answers = {
            str(answer.get("job_id")): answer for answer in told.mappings((outcome.value or {}).get("jobs"))
        }
        unanswered = {"outcome": "failed", "message": "the server's answer does not name it"}
        server = fleet.inventory.servers[job.server]
        result = _result(job, server, answers.get(job.job_id, unanswered), reason)
        results.append(result)
        changed.append(result.job)
        fleet.log(job.server, f"kill {job.job_id}", signal=signal, outcome=result.outcome)
    fleet.registry.update(changed)
    return results


def _result(job: JobRecord, server: Server, answer: dict[str, Any], reason: str | None) -> KillResult:
    outcome = answer["outcome"] if answer.get("outcome") in _OUTCOMES else "failed"
    if outcome == "not_found" and is_in_another_workdir(job, server):
        job = not_looked_at(job, server)
        return KillResult(job=job, outcome=outcome, message=job.reason or "")
    if outcome == "not_found":
        return KillResult(job=gone(job), outcome=outcome, message="the server has no such job")
    try:
        state = JobState(answer.get("state"))
    except (ValueError, TypeError):
        state = job.state
    message, left_over = told.text(answer.get("message")) or "", told.number(answer.get("left_over")) or 0
    if job.state.is_terminal and job.state is not JobState.LOST:  # how it ended is known: this was the rest
        job = dataclasses.replace(job, seen_at=now(), unreachable_since=None)
        return KillResult(job=job, outcome=outcome, message=message, left_over=left_over)
    past = told.attempts(answer, ended=state.is_terminal)
    details = {**job.details, **({"attempts": past} if past else {})}
    details.pop("next_attempt", None)  # whatever came of the kill, it is not to be waited for
    changed = dataclasses.replace(
        job,
        state=state,
        attempt=max([job.attempt, *(told.number(one["attempt"]) or 0 for one in past)]),
        exit_code=told.number(answer.get("exit_code")),
        signal=told.signal_name(answer.get("signal")),
        seen_at=now(),
        unreachable_since=None,
        reason=reason or told.text(answer.get("reason")) or job.reason,
        ended_at=told.epoch_s(answer.get("ended_at"))
        or job.ended_at
        or (now() if state.is_terminal else None),
        details=details,
    )
    return KillResult(job=changed, outcome=outcome, message=message, left_over=left_over)
