"""Times as people write them: a span ("30d"), or since when ("10m" ago, or a date)."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    SecondsType = click.ParamType[float]
else:
    SecondsType = click.ParamType  # no class to subscript before click 8.4

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)\Z")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _span_s(word: str) -> float | None:
    """Given "12h", return its seconds; None for what is no span. A bare number is none: its unit would be a
    guess."""
    match = _SPAN.match(word)
    return float(match[1]) * _UNITS_S[match[2]] if match else None


class Span(SecondsType):
    """A span of time, in seconds: from "30d", "12h", "2w"."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, int | float):
            return float(value)
        seconds = _span_s(str(value).strip().lower())
        if seconds is None:
            self.fail(f"{value!r}: expected a number and one of s, m, h, d, w, as in 30d", param, ctx)
        return seconds


class Since(SecondsType):
    """How long ago, in seconds: from "30s", "10m", "2h", "1d", "2w", or a time in ISO 8601 (local where it
    names no zone)."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the age."""
        if isinstance(value, int | float):
            return float(value)
        word = str(value).strip()
        span_s = _span_s(word)
        if span_s is not None:
            return span_s
        try:
            at = dt.datetime.fromisoformat(re.sub(r"[zZ]\Z", "+00:00", word))
            age_s = dt.datetime.now(dt.timezone.utc).timestamp() - at.timestamp()
        except (ValueError, OverflowError, OSError):
            self.fail(f"{word!r}: expected 30s, 10m, 2h, 1d or a time as 2026-11-21T10:00", param, ctx)
        if age_s < 0:
            self.fail(f"{word!r} has yet to come", param, ctx)
        return age_s
