"""A job's record as the registry's text, and back: what comes back has the shape of a record, whoever wrote
into the file."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

from remote_launch.core.jobs import JobRecord, JobState

if TYPE_CHECKING:
    from collections.abc import Callable

_ID = re.compile(r"[0-9a-f]{32}\Z")
_LATEST_S = 1e11  # the year 5138; no NaN is less
_NUMBER_LIMIT = 2**63


def _text(value: object) -> bool:
    return isinstance(value, str)


def _number(value: object) -> bool:
    return isinstance(value, int) and -_NUMBER_LIMIT <= value < _NUMBER_LIMIT


def _time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < _LATEST_S


def _object(value: object) -> bool:
    return isinstance(value, dict)


def _or_none(shape: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or shape(value)


_SHAPES: dict[str, Callable[[object], bool]] = {
    "job_id": lambda value: isinstance(value, str) and bool(_ID.match(value)),
    "key": _number,
    "server": _text,
    "command": _text,
    "name": _text,
    "launch_id": _or_none(_text),
    "run_id": _or_none(_text),
    "node_rank": _or_none(_number),
    "nnodes": _or_none(_number),
    "tags": lambda value: isinstance(value, list) and all(isinstance(tag, str) for tag in value),
    "env": _object,
    "workdir": _text,
    "state": _text,
    "exit_code": _or_none(_number),
    "signal": _or_none(_text),
    "reason": _or_none(_text),
    "attempt": _number,
    "created_at": _time,
    "started_at": _or_none(_time),
    "ended_at": _or_none(_time),
    "seen_at": _or_none(_time),
    "unreachable_since": _or_none(_time),
    "details": _object,
}


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
    data["key"] = key
    # A column of a newer version is left out rather than refused.
    known: dict[str, Any] = {}
    for name, is_shaped in _SHAPES.items():
        if name in data:
            known[name] = value = data[name]
            if not is_shaped(value):
                raise TypeError(f"{name}: {str(value)[:40]!r} can't be right")
    known["state"] = JobState(known["state"])
    known["tags"] = tuple(known.get("tags", ()))
    return JobRecord(**known)
