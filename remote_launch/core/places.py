"""Who has whose place in a launch: spares take those of nodes that were lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.jobs import JobRecord


def replacements(jobs: Sequence[JobRecord]) -> dict[str, str]:
    """Given the jobs of a launch, return the servers that are out, each with the spare that took its place.

    Each node tells of those that it knows of; one that was cut off early knows fewer. What servers tell may
    have any shape."""
    told = [job.details.get("replaced") for job in jobs]
    return {
        str(gone): str(spare) for one in told if isinstance(one, dict) for gone, spare in one.items()
    }


def now_in_place_of(job: JobRecord, jobs: Sequence[JobRecord]) -> JobRecord:
    """Given a job of a launch, return the one that has its place: itself, or a spare."""
    replaced = replacements(jobs)
    by_server = {one.server: one for one in jobs}
    seen: set[str] = set()
    while job.server in replaced and job.server not in seen:
        seen.add(job.server)
        job = by_server.get(replaced[job.server], job)
    return job


def first_node(jobs: Sequence[JobRecord]) -> JobRecord:
    """Return the job of a launch that is node 0 now (or a job alone)."""
    return now_in_place_of(min(jobs, key=lambda job: job.node_rank or 0), jobs)


def is_spare(job: JobRecord) -> bool:
    """True for a job that was started to stand by."""
    return (job.node_rank or 0) >= (job.nnodes or 1)
