"""Bytes of several logs to lines, and to what stands below them: progress bars and prompts.

A bar redraws its line with carriage returns; several bars move the cursor up again. Neither may become a
line a redraw, and the last drawing must not be lost.
"""

from __future__ import annotations

import codecs
import re
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

DRAW_EVERY_S = 0.4
PIECE_BYTES = 64 * 1024  # a line that is longer comes in pieces
_CALM_S = 2.0  # no cursor has moved up for so long: lines are lines again
_MOST_ROWS = 64
_CUT_CHARACTER = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z")
_UP = re.compile(rb"\x1b\[[0-9]{0,3}[AF]")
_MOVES = re.compile(r"(\n|\r|\x1b\[[0-9]{0,3}[AF])")
_CUT_MOVE = re.compile(r"\x1b(?:\[[0-9]{0,3})?\Z")

SourceT = TypeVar("SourceT", bound="Hashable")


class Lines(Generic[SourceT]):
    """``show(source, text, goes_on)`` is called with each line (``goes_on``: the next call has more of it);
    ``draw(source, text)`` with how an unfinished one looks, at most every DRAW_EVERY_S, "" when it is gone.

    Characters that a chunk's end has cut are whole again before they are decoded; the rest is replaced.
    """

    def __init__(
        self, show: Callable[[SourceT, str, bool], None], draw: Callable[[SourceT, str], None]
    ) -> None:
        self._show = show
        self._draw = draw
        self._sources: dict[SourceT, _Plain | _Screen] = {}

    def add(self, source: SourceT, chunk: bytes) -> None:
        """Take in the next bytes of a source."""
        state = self._state(source)
        if isinstance(state, _Plain) and (b"\x1b" in chunk or b"\x1b" in state.held[-6:]):
            whole = state.held + chunk
            if _UP.search(whole):
                self._sources[source] = state = _Screen(state.drawn)
                chunk = whole
        shown = state.add(chunk)
        for text, goes_on in shown:
            self._show(source, text, goes_on)
        if shown and state.drawn:  # the line stands where the drawing was
            self._draw_now(source, state, state.drawing())

    def draw_due(self) -> None:
        """Draw the unfinished lines that have waited long enough."""
        now = time.monotonic()
        for source in list(self._sources):
            state = self._state(source)
            drawing = state.drawing()
            if drawing != state.drawn and now - max(state.since, state.drawn_at) >= DRAW_EVERY_S:
                self._draw_now(source, state, drawing)

    def flush(self, belongs: Callable[[SourceT], bool]) -> None:
        """Show what is held of the sources that ``belongs`` says: no more is coming."""
        for source in [source for source in self._sources if belongs(source)]:
            state = self._sources.pop(source)
            for text in state.rest():
                self._show(source, text, False)
            if state.drawn:
                self._draw(source, "")

    def _state(self, source: SourceT) -> _Plain | _Screen:
        state = self._sources.setdefault(source, _Plain())
        if isinstance(state, _Screen) and state.is_calm:
            *lines, last = state.rest() or [""]
            for text in lines:
                self._show(source, text, False)
            self._sources[source] = state = _Plain(last.encode(), drawn=state.drawn)
        return state

    def _draw_now(self, source: SourceT, state: _Plain | _Screen, drawing: str) -> None:
        state.drawn, state.drawn_at = drawing, time.monotonic()
        self._draw(source, drawing)


class _Plain:
    """A log of lines, the last perhaps unfinished."""

    def __init__(self, held: bytes = b"", drawn: str = "") -> None:
        self.held = held
        self.drawn = drawn
        self.since = time.monotonic()  # when the unfinished line began
        self.drawn_at = 0.0

    def add(self, chunk: bytes) -> list[tuple[str, bool]]:
        *lines, rest = (self.held + chunk).split(b"\n")
        shown = [(_text(line), False) for line in lines]
        if lines or not self.held:
            self.since = time.monotonic()
        if b"\r" in rest:
            rest = _last_drawing(rest)
        if len(rest) > PIECE_BYTES:
            cut = _CUT_CHARACTER.search(rest)
            shown.append((_text(rest[: cut.start()] if cut else rest), True))
            rest = cut[0] if cut else b""
        self.held = rest
        return shown

    def drawing(self) -> str:
        return _text(_CUT_CHARACTER.sub(b"", self.held)) if self.held else ""

    def rest(self) -> list[str]:
        return [_text(self.held)] if self.held else []


class _Screen:
    """A log whose writer moves the cursor up: the last rows, as a terminal has them. A row is a line once it
    is out of the cursor's reach."""

    def __init__(self, drawn: str = "") -> None:
        self.drawn = drawn
        self.since = self._moved_at = time.monotonic()
        self.drawn_at = 0.0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._cut = ""
        self._rows: list[str | None] = [""]  # None: never written to
        self._row = 0
        self._reach = 0
        self._at_start = False  # of a row: what comes now replaces it

    @property
    def is_calm(self) -> bool:
        return time.monotonic() - self._moved_at > _CALM_S

    def add(self, chunk: bytes) -> list[tuple[str, bool]]:
        text = self._cut + self._decoder.decode(chunk)
        cut = _CUT_MOVE.search(text)
        self._cut = cut[0] if cut else ""
        shown: list[tuple[str, bool]] = []
        for part in _MOVES.split(text[: cut.start()] if cut else text):
            if part == "\n":
                self._down(shown)
            elif part == "\r":
                self._at_start = True
            elif _MOVES.match(part):
                self._up(int(part[2:-1] or 1))
            elif part:
                before = "" if self._at_start else self._rows[self._row] or ""
                self._rows[self._row] = (before + part)[:PIECE_BYTES]
                self._at_start = False
        return shown

    def _down(self, shown: list[tuple[str, bool]]) -> None:
        self._at_start = True
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append("")
        while len(self._rows) > self._reach + 1 and self._row > 0:
            row = self._rows.pop(0)
            self._row -= 1
            if row is not None:
                shown.append((row, False))

    def _up(self, count: int) -> None:
        self._moved_at = time.monotonic()
        count = min(count, _MOST_ROWS)
        self._reach = max(self._reach, count)
        missing = count - self._row
        if missing > 0:  # rows that are lines already
            self._rows[:0] = [None] * missing
            self._row += missing
        self._row -= count

    def drawing(self) -> str:
        return "\n".join(row for row in self._rows if row and not row.isspace())

    def rest(self) -> list[str]:
        rows = [row for row in self._rows if row is not None]
        while rows and not rows[-1].strip():
            rows.pop()
        return rows


def _last_drawing(rest: bytes) -> bytes:
    """Given an unfinished line with carriage returns, return what of it can still be seen."""
    seen = rest.rstrip(b"\r")
    return rest[seen.rfind(b"\r") + 1 :]


def _text(line: bytes) -> str:
    """Given a line's bytes, return what a person would see: progress bars redraw it with carriage returns."""
    return line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
