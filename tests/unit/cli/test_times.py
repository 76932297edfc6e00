"""Spans and times on the command line."""

from __future__ import annotations

import datetime as dt

import click
import pytest

from remote_launch.cli.times import Since, Span

SPANS = [("30s", 30), ("10m", 600), ("1.5h", 5400), ("1d", 86400), ("2w", 14 * 86400)]


class TestSince:
    @pytest.mark.parametrize(("word", "age_s"), SPANS)
    def test_ages(self, word: str, age_s: float) -> None:
        assert Since().convert(word, None, None) == age_s

    def test_times(self) -> None:
        at = dt.datetime.now().astimezone() - dt.timedelta(hours=1)
        for word in (at.isoformat(), at.replace(tzinfo=None).isoformat(), at.isoformat(sep=" ")):
            assert Since().convert(word, None, None) == pytest.approx(3600, abs=60)
        utc = at.astimezone(dt.timezone.utc).replace(tzinfo=None).isoformat() + "Z"
        assert Since().convert(utc, None, None) == pytest.approx(3600, abs=60)

    @pytest.mark.parametrize(
        "word", ["", "10", "m", "-5m", "yesterday", "2999-01-01", "10:00", "1e3s", "0001-01-01", "nan"]
    )
    def test_what_is_none(self, word: str) -> None:
        with pytest.raises(click.BadParameter):
            Since().convert(word, None, None)


class TestSpan:
    @pytest.mark.parametrize(("word", "seconds"), [*SPANS, ("30D", 30 * 86400), (" 12h ", 12 * 3600)])
    def test_spans(self, word: str, seconds: float) -> None:
        assert Span().convert(word, None, None) == seconds

    @pytest.mark.parametrize("word", ["", "30", "d", "-1d", "2026-11-21", "1 month", "infd"])
    def test_what_is_none(self, word: str) -> None:
        with pytest.raises(click.BadParameter, match="as in 30d"):
            Span().convert(word, None, None)
