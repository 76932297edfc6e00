"""Times as people write them: "10m" ago, or a date."""

from __future__ import annotations

import datetime as dt
import re

import click

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)\Z")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class AgeType(click.ParamType[float]):
    """How long ago, in seconds: from "30s", "10m", "2h", "1d", "2w", or a time in ISO 8601 (local where it
    names no zone)."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the age."""
        if isinstance(value, int | float):
            return float(value)
        word = str(value).strip()
        match = _AGE.match(word)
        if match:
            return float(match[1]) * _UNITS_S[match[2]]
        try:
            at = dt.datetime.fromisoformat(re.sub(r"[zZ]\Z", "+00:00", word))
            age_s = dt.datetime.now(dt.timezone.utc).timestamp() - at.timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(f"{word!r}: expected 30s, 10m, 2h, 1d or a time as 2026-11-21T10:00", param, ctx)
        if age_s < 0:
            self.fail(f"{word!r} has yet to come", param, ctx)
        return age_s
