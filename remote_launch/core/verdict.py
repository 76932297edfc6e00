"""What a launch came to: one exit code and one sentence, from the records of its jobs."""

from __future__ import annotations

import dataclasses
import re
import signal
from typing import TYPE_CHECKING, Any

from remote_launch.core.jobs import JobRecord, JobState
from remote_launch.core.places import replacements

if TYPE_CHECKING:
    from collections.abc import Sequence

_NUMBER = re.compile(r"[0-9]{1,3}\Z", re.ASCII)  # a signal that has no name, as those for real-time programs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``exit_code`` is what ``rl`` exits with: the cause's own, 128+n for a signal, 0 for success alone."""

    state: JobState
    exit_code: int
    text: str
    cause: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "state": self.state.value,
            "exit_code": self.exit_code if self.state.is_terminal else None,
            "text": self.text,
            "cause": self.cause,
        }


def verdict_of(jobs: Sequence[JobRecord]) -> Verdict:
    """Given the jobs of a launch (or a single job), return what they came to.

    While one is unfinished the state is its state. Else the first failure decides: the cause that the
    supervisors agreed on, or the earliest end that wasn't a stop."""
    jobs = _taking_part(jobs)
    unfinished = [job for job in jobs if not job.state.is_terminal]
    if unfinished:
        text, cause = f"{len(unfinished)} of {len(jobs)} jobs unfinished", _told_cause(jobs)
        if cause is not None:  # the others have ended: this one is on its way, or its server is out of reach
            text += f"; {describe_cause(cause)}"
        return Verdict(state=unfinished[0].state, exit_code=1, text=text, cause=cause)
    if any(job.state is JobState.KILLED for job in jobs):
        return Verdict(state=JobState.KILLED, exit_code=128 + signal.SIGTERM, text="killed")
    failed = [job for job in jobs if job.state is not JobState.SUCCEEDED]
    if not failed:
        return Verdict(state=JobState.SUCCEEDED, exit_code=0, text="succeeded")
    cause = _told_cause(failed)
    if cause is not None:
        return Verdict(
            state=JobState.FAILED, exit_code=_exit_code(cause), text=describe_cause(cause), cause=cause
        )
    first = min(failed, key=lambda job: (job.signal == "TERM", job.ended_at or 0.0))
    text = first.reason or (f"exited with {first.exit_code}" if first.exit_code is not None else "failed")
    if first.state is JobState.LOST:
        return Verdict(state=JobState.LOST, exit_code=1, text=f"lost on {first.server}: {text}")
    return Verdict(
        state=JobState.FAILED,
        exit_code=_exit_code({"exit_code": first.exit_code, "signal": first.signal}),
        text=f"{first.server}: {text}",
    )


def _told_cause(jobs: Sequence[JobRecord]) -> dict[str, Any] | None:
    """Return the launch's cause, from the first failed job that has it. Causes are what servers told: one
    without a shape counts for nothing."""
    causes = [job.details.get("cause") for job in jobs if job.state in (JobState.FAILED, JobState.LOST)]
    return next((dict(one) for one in causes if isinstance(one, dict) and one), None)


def _taking_part(jobs: Sequence[JobRecord]) -> list[JobRecord]:
    """Leave out what says nothing of a launch: nodes that a spare took the place of, and spares that took
    none."""
    replaced = replacements(jobs)
    came = {job.server for job in jobs} & set(replaced.values())  # found on its server, such a one is a node
    parts = [job for job in jobs if (job.node_rank or 0) < (job.nnodes or 1) or job.server in came]
    return [job for job in parts if replaced.get(job.server) not in came] or list(jobs)


# What a rank prints when its gloo threads outlive the interpreter: seen in 1 of 11 trainings that had ended
# well.
_GLOO_SHUTDOWN = "terminate called without an active exception"


def describe_cause(cause: dict[str, Any]) -> str:
    """Given a cause, return it in a sentence: "rank 3 on gpu-b exited with 37"."""
    if cause.get("rank") is None and cause.get("message"):
        return f"{cause.get('server')}: {cause['message']}"
    who = (
        f"{cause.get('server')}"
        if cause.get("rank") is None
        else f"rank {cause['rank']} on {cause.get('server')}"
    )
    if isinstance(cause.get("killed_by"), str):
        return f"{who} was killed by {cause['killed_by'][:200]}"
    if cause.get("signal"):
        text = f"{who} was ended by signal {cause['signal']}"
        if cause["signal"] == "ABRT" and _GLOO_SHUTDOWN in str(cause.get("tail")):
            text += " (now and then gloo does that to a Python that shuts down: the script may have finished)"
        return text
    if cause.get("exit_code") is not None:
        return f"{who} exited with {cause['exit_code']}"
    return f"{who}: {cause.get('message') or 'lost'}"


def _exit_code(cause: dict[str, Any]) -> int:
    code = cause.get("exit_code")
    if isinstance(code, int) and code:
        return code & 0xFF or 1
    name = str(cause.get("signal") or "")
    number = getattr(signal, f"SIG{name}", None) or (int(name) if _NUMBER.match(name) else 0)
    return 128 + int(number) if 0 < number < signal.NSIG else 1
