"""A job's record as the registry's text, and back: what comes back has the shape of a record, whoever wrote
into the file."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from remote_launch.core.jobs import JobRecord, JobState

_ID = re.compile(r"[0-9a-f]{32}\Z")
_LATEST_S = 1e11  # the year 5138; no NaN is less
_NONE = type(None)
_TEXT, _TEXT_OR_NONE = (str,), (str, _NONE)
_NUMBER, _NUMBER_OR_NONE = (int,), (int, _NONE)
_TIME, _TIME_OR_NONE = (float, int), (float, int, _NONE)
_SHAPES: dict[str, tuple[type, ...]] = {
    "job_id": _TEXT,
    "server": _TEXT,
    "command": _TEXT,
    "name": _TEXT,
    "launch_id": _TEXT_OR_NONE,
    "run_id": _TEXT_OR_NONE,
    "node_rank": _NUMBER_OR_NONE,
    "nnodes": _NUMBER_OR_NONE,
    "tags": (list,),
    "env": (dict,),
    "workdir": _TEXT,
    "state": _TEXT,
    "exit_code": _NUMBER_OR_NONE,
    "signal": _TEXT_OR_NONE,
    "reason": _TEXT_OR_NONE,
    "attempt": _NUMBER,
    "created_at": _TIME,
    "started_at": _TIME_OR_NONE,
    "ended_at": _TIME_OR_NONE,
    "seen_at": _TIME_OR_NONE,
    "unreachable_since": _TIME_OR_NONE,
    "details": (dict,),
    "choices": (dict,),
}
# Fields that came later are passed on where they are of a kind that does no harm.
_LATER = {field.name for field in dataclasses.fields(JobRecord)} - _SHAPES.keys() - {"key"}


def dump_record(record: JobRecord) -> str:
    """Return a record as the text of its row."""
    data = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    data["state"] = record.state.value
    return json.dumps(data, separators=(",", ":"), default=dict)


def load_record(key: object, text: object) -> JobRecord:
    """Given a row's key and text, return its record. Raises ValueError, TypeError, KeyError or RecursionError
    for a row that is none."""
    if not isinstance(key, int) or not isinstance(text, str):
        raise TypeError("not a record")
    data = json.loads(text)
    if not isinstance(data, dict):
        raise TypeError("not a record")
    # A field of a newer version is left out rather than refused.
    known: dict[str, Any] = {name: data[name] for name in _LATER if name in data}
    for name, types in _SHAPES.items():
        if name in data:
            known[name] = value = data[name]
            kind = type(value)
            if kind not in types or (types[0] is float and value is not None and not 0 <= value < _LATEST_S):
                raise TypeError(f"{name}: {str(value)[:40]!r} can't be right")
    if not _ID.match(known["job_id"]):
        raise TypeError(f"{known['job_id'][:40]!r} is not a job id")
    tags = known.get("tags", ())
    if not all(isinstance(tag, str) for tag in tags):
        raise TypeError("tags that are no texts")
    known["tags"] = tuple(tags)
    known["state"] = JobState(known["state"])
    return JobRecord(key=key, **known)
