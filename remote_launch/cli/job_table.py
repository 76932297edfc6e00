"""The table of rl job-list: a launch is one row, which --nodes opens into its nodes."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from remote_launch.cli import output

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from remote_launch.core.jobs import JobRecord

_OUT_OF_MEMORY = re.compile(r"(rank \d+ )?was killed by the kernel: out of memory")


def print_jobs(jobs: Sequence[JobRecord], servers: Container[str], *, opened: bool) -> None:
    """Print jobs, those of a launch together. ``servers`` are the inventory's."""
    rows = output.Rows(
        "key", "name", "server", "node", "state", "exit", "started", "duration", "tags", "command"
    )
    groups: dict[str, list[JobRecord]] = {}
    for job in jobs:
        groups.setdefault(job.launch_id or job.job_id, []).append(job)
    for group in groups.values():
        group.sort(key=lambda one: (one.node_rank or 0, one.key))
        if len(group) > 1 and not opened:
            rows.add_row(*_launch_cells(group, servers))
            continue
        for number, job in enumerate(group):
            first = number == 0
            rows.add_row(
                str(job.key),
                output.clean(job.name, colour=False) if first else "└",
                job.server,
                node_text(job),
                _state_cell(job, servers),
                exit_text(job),
                output.time_text(job.started_at),
                output.duration_text(job.duration_s),
                output.clean(_tags_text(job), colour=False) if first else "",
                output.clean(job.command, colour=False) if first else "",
            )
    rows.show()


def _launch_cells(group: Sequence[JobRecord], servers: Container[str]) -> list[output.Cell | str]:
    from remote_launch.core.verdict import verdict_of

    first = group[0]
    verdict = verdict_of(group)
    unfinished = [job for job in group if not job.state.is_terminal]
    notes = [f"{len(unfinished)} of {len(group)}"] if 0 < len(unfinished) < len(group) else []
    if unfinished and (text := _attempt_text(unfinished)):
        notes.append(text)
    if text := _line_words(unfinished):
        notes.append(text)
    notes += dict.fromkeys(text for job in unfinished if (text := _trouble(job, servers)))
    began = [job.started_at for job in group if job.started_at]
    lasted = [job.duration_s for job in group if job.duration_s is not None]
    return [
        str(first.key),
        output.clean(first.name, colour=False),
        f"{first.server} +{len(group) - 1}",
        f"{first.nnodes} nodes",
        output.state_cell(verdict.state, f" ({', '.join(notes)})" if notes else ""),
        "" if unfinished else str(verdict.exit_code),
        output.time_text(min(began, default=None)),
        output.duration_text(max(lasted, default=None)),
        output.clean(_tags_text(first), colour=False),
        output.clean(first.command, colour=False),
    ]


def _tags_text(job: JobRecord) -> str:
    """Return a job's tags: on a terminal, where they may be wrapped, with spaces between them."""
    return (", " if sys.stdout.isatty() else ",").join(job.tags)


def node_text(job: JobRecord) -> str:
    """Return "1/4": which node of how many; "spare"; "" for a job alone."""
    if job.node_rank is None:
        return ""
    return "spare" if job.node_rank >= (job.nnodes or 1) else f"{job.node_rank}/{job.nnodes}"


def _state_cell(job: JobRecord, servers: Container[str]) -> output.Cell:
    notes = [text] if not job.state.is_terminal and (text := _attempt_text([job])) else []
    if text := queue_words(job):
        notes.append(text)
    if not job.state.is_terminal and (trouble := _trouble(job, servers)):
        notes.append(trouble)
    return output.state_cell(job.state, f" ({', '.join(notes)})" if notes else "")


def _trouble(job: JobRecord, servers: Container[str]) -> str:
    """Return why an unfinished job's state may not be what it says."""
    if job.server not in servers:
        return "server no longer in the inventory"
    if not job.unreachable_since:
        return ""
    from remote_launch.core.jobs import now

    return f"unreachable for {output.duration_text(max(0.0, now() - job.unreachable_since))}"


def _attempt_text(jobs: Sequence[JobRecord]) -> str:
    """Given unfinished jobs of one launch, return which attempt they are at or wait for; "" for the first."""
    coming = next((text for job in jobs if (text := rest_text(job))), "")
    attempt = max(job.attempt for job in jobs)
    return coming or (f"attempt {attempt}" if attempt > 0 else "")


def queue_words(job: JobRecord) -> str:
    """Return how a queued job stands, "2 jobs ahead"; "" for others."""
    from remote_launch.core.jobs import JobState

    return output.clean(job.reason or "", colour=False) if job.state is JobState.QUEUED else ""


def _line_words(jobs: Sequence[JobRecord]) -> str:
    """Given the unfinished jobs of one launch, return how the one of them that is in a line stands there."""
    queued = [job for job in jobs if queue_words(job)]
    in_line = [job for job in queued if (job.details.get("queue") or {}).get("ahead") is not None]
    return next((f"{job.server}: {queue_words(job)}" for job in in_line), "waits" if queued else "")


def rest_text(job: JobRecord) -> str:
    """Return "restarting in 4.0 s: restart 1 of 3" for a job that rests between two attempts, else ""."""
    from remote_launch.core.jobs import now
    from remote_launch.operations.told import epoch_s, mapping, text

    coming = mapping(job.details.get("next_attempt"))
    at = epoch_s(coming.get("at"))
    if job.state.is_terminal or at is None:
        return ""
    return restart_words(at - now(), text(coming.get("words")) or "")


def restart_words(in_s: float, words: str) -> str:
    """Return "restarting in 4.0 s: restart 1 of 3"; without a time once that is over: nodes are waited
    for."""
    when = f" in {output.duration_text(in_s)}" if in_s > 0 else ""
    return f"restarting{when}" + (f": {output.clean(words, colour=False)}" if words else "")


def exit_text(job: JobRecord) -> str:
    """Return a job's exit code, or the signal that ended it, as "SIGKILL"; "OOM" where that was the kernel,
    out of memory, for certain."""
    if _OUT_OF_MEMORY.match(job.reason or ""):
        return "OOM"
    if job.signal:
        return f"SIG{job.signal}"
    return "" if job.exit_code is None else str(job.exit_code)


def attempt_lines(job: JobRecord) -> list[str]:
    """Return a line for each attempt of a job that was restarted, "0: ran 5:10: rank 3 on gpu-b exited with
    37", numbered as --attempt and RL_ATTEMPT have them."""
    from remote_launch.core.verdict import describe_cause
    from remote_launch.operations.told import epoch_s, mapping, mappings, number

    lines = []
    for one in mappings(job.details.get("attempts")):
        began, ended = epoch_s(one.get("started_at")), epoch_s(one.get("ended_at"))
        took = output.duration_text(None if began is None or ended is None else max(0.0, ended - began))
        cause = mapping(one.get("cause"))
        end = describe_cause(cause) if cause else str(job.reason or job.state.value.lower())
        gone = " (its logs were removed)" if one.get("logs_removed") is True else ""
        lines.append(f"{number(one.get('attempt')) or 0}: ran {took}: {end}{gone}")
    return lines


def network_text(job: JobRecord) -> str:
    """Return where the other nodes of its launch reached a job and why there, "10.0.0.12 on eth1: …"."""
    from remote_launch.operations.told import mapping, text

    return text(mapping(job.choices.get("network")).get("reason")) or ""
