"""What a server tells of a job, as values that can be trusted to have a shape. What has none is None."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIGNAL = re.compile(r"[A-Z0-9+]{1,12}\Z")
_LATEST_S = 1e11  # the year 5138
_TEXT_LIMIT = 20_000
_MOST_ATTEMPTS = 1 << 31


def number(value: object) -> int | None:
    """Return a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if abs(value) < 2**63 else None


def port(value: object) -> int | None:
    """Return a TCP port."""
    found = number(value)
    return found if found and 0 < found < 65536 else None


def epoch_s(value: object) -> float | None:
    """Return a time in epoch seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < _LATEST_S else None


def signal_name(value: object) -> str | None:
    """Return a signal's name, as "KILL"."""
    return value if isinstance(value, str) and _SIGNAL.match(value) else None


def text(value: object) -> str | None:
    """Return a text. It may hold anything: clean it before it goes to a terminal."""
    return value[:_TEXT_LIMIT] if isinstance(value, str) else None


def mapping(value: object) -> dict[str, Any]:
    """Return an object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[dict[str, Any]]:
    """Return a list's objects."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def attempts(data: Mapping[str, Any], *, ended: bool) -> list[dict[str, Any]]:
    """Given what is told of a job, return its attempts, [] when it was never started again. That of one which
    has ``ended`` holds the last one too."""
    found = [item for item in mappings(data.get("attempts")) if number(item.get("attempt")) is not None]
    return found if len(found) > 1 or not ended else []


def next_attempt(value: object) -> dict[str, Any]:
    """Given what is told of an attempt that a job waits for, return {attempt, words, why, in_s}, or {}."""
    told = mapping(value)
    attempt, in_s = number(told.get("attempt")), told.get("in_s")
    if attempt is None or isinstance(in_s, bool) or not isinstance(in_s, int | float):
        return {}
    if not 0 <= in_s < _LATEST_S or not 0 < attempt < _MOST_ATTEMPTS:
        return {}
    words, why = ((text(told.get(name)) or "")[:200] for name in ("words", "why"))
    return {"attempt": attempt, "words": words, "why": why, "in_s": float(in_s)}


def texts(value: object) -> list[str]:
    """Return a list's texts."""
    return [item[:_TEXT_LIMIT] for item in value if isinstance(item, str)] if isinstance(value, list) else []
