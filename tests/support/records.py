"""Records of jobs, as tests put them into a registry."""

from __future__ import annotations

from typing import Any

from remote_launch.core.jobs import JobRecord, new_id, now


def new_record(**fields: Any) -> JobRecord:
    """Return a record of a job that is about to start, with a new id and the time."""
    return JobRecord(**{"job_id": new_id(), "created_at": now(), **fields})
