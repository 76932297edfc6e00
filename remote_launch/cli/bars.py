"""Progress bars and prompts below the log, on a terminal: redrawn in place, never a line each."""

from __future__ import annotations

import dataclasses
import shutil
import time
import unicodedata
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_ROWS = 8
_DRAW_EVERY_S = 0.1
_DRAW_AGAIN_S = 0.02  # when a line has just taken their place


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A prefix in a colour, and cleaned text without colours."""

    prefix: str
    text: str
    colour: str = ""


class Bars:
    """Keeps the rows of each source and returns what to write to the terminal; the caller writes it."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int | str, ...], list[Row]] = {}
        self._drawn = 0  # rows on the screen, the cursor being at the end of the last
        self._drawn_at = 0.0
        self.is_stale = False  # the screen does not show what is

    def set(self, source: tuple[int | str, ...], rows: Sequence[Row]) -> None:
        """Replace the rows of a source; they stand in the order of the sources."""
        if rows:
            self._rows[source] = list(rows)
            self.is_stale = True
        elif self._rows.pop(source, None):
            self.is_stale = True

    def erase(self) -> str:
        """What takes the rows off the screen, the cursor then being where the next line goes."""
        if not self._drawn:
            return ""
        up = f"\x1b[{self._drawn - 1}A" if self._drawn > 1 else ""
        self._drawn = 0
        self.is_stale = bool(self._rows)
        return f"\r{up}\x1b[J"

    def draw(self, *, now: bool = False) -> str:
        """What brings the screen up to date; nothing when that was done just now, unless ``now``."""
        pause_s = _DRAW_EVERY_S if self._drawn else _DRAW_AGAIN_S
        if not self.is_stale or (not now and time.monotonic() - self._drawn_at < pause_s):
            return ""
        erased = self.erase()
        columns, height = shutil.get_terminal_size()
        rows = [row for source in sorted(self._rows) for row in self._rows[source]]
        most = max(1, min(_MOST_ROWS, height // 2))
        if len(rows) > most:
            more = len(rows) - most + 1
            rows = [*rows[: most - 1], Row("", f"… and {more} more")]
        self._drawn, self._drawn_at, self.is_stale = len(rows), time.monotonic(), False
        return erased + "\n".join(_drawn(row, columns - 1) for row in rows)


def _drawn(row: Row, columns: int) -> str:
    prefix = cut_to_columns(row.prefix, columns)
    text = cut_to_columns(row.text, columns - columns_of(prefix))
    return (click.style(prefix, fg=row.colour) if row.colour else prefix) + text


def columns_of(text: str) -> int:
    """Return how many columns a text takes on a terminal."""
    return sum(_columns(char) for char in text)


def cut_to_columns(text: str, columns: int) -> str:
    """Given cleaned text, return as much of it as goes into so many columns."""
    text = text.expandtabs(4)
    if len(text) <= columns and text.isascii():
        return text
    used = 0
    for place, char in enumerate(text):
        used += _columns(char)
        if used > columns:
            return text[:place]
    return text


def _columns(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
