"""Which nodes of a launch have which ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.errors import UsageError
from remote_launch.operations.told import mapping, mappings, number, text
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet


def jobs_with_ranks(fleet: Fleet, jobs: Sequence[JobRecord], ranks: Collection[int]) -> list[JobRecord]:
    """Given the jobs of a launch, return those that have any of these global ranks, and those of which that
    can't be said now. Raises UsageError for a rank that none has."""
    places = _places(fleet, jobs)
    unknown = [job for job in jobs if job.job_id not in places]
    missing = sorted(rank for rank in ranks if not any(rank in place for place in places.values()))
    if missing and not unknown:
        highest = max((place.stop for place in places.values()), default=0) - 1
        raise UsageError(
            f"there is no rank {missing[0]} in this launch",
            hint=f"it has ranks 0 to {highest}" if highest > 0 else "it has rank 0 alone",
        )
    return [
        job for job in jobs if job in unknown or any(rank in places[job.job_id] for rank in ranks)
    ]


def _places(fleet: Fleet, jobs: Sequence[JobRecord]) -> dict[str, range]:
    by_server = {job.server: [one for one in jobs if one.server == job.server] for job in jobs}

    def ask(server: Server) -> dict[str, range]:
        ids = [job.job_id for job in by_server[server.name]]
        request = {"job_ids": ids, "discover": False, "facts": False, "specs": True}
        found = {}
        for item in mappings(call(fleet, server, "probe", request).get("jobs")):
            spec, job_id = mapping(item.get("spec")), text(item.get("job_id"))
            first, count = number(spec.get("first_rank")), number(spec.get("nproc"))
            if job_id in ids and first is not None and count is not None and first >= 0 and 0 < count < 1e6:
                found[str(job_id)] = range(first, first + count)
        return found

    outcomes = fleet.map(list(by_server), ask)
    return {job_id: place for places in outcomes.values.values() for job_id, place in places.items()}
