"""The stream of the ``follow`` verb: a JSON line, then as many raw bytes as it says. And: bytes to lines.

All of it comes from a server, so none of it is trusted to have a shape.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

PARTIAL_LINE_S = 1.0  # an unfinished line (a prompt, a progress bar) is shown after this long
PARTIAL_LINE_BYTES = 64 * 1024
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024 * 1024
_CUT_CHARACTER = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z")

SourceT = TypeVar("SourceT", bound="Hashable")


class Frames:
    """Cuts a stream into frames, however its chunks were cut, and hands each over; skips noise."""

    def __init__(self, on_frame: Callable[[Mapping[str, Any], bytes], None]) -> None:
        self._on_frame = on_frame
        self._buffer = b""
        self._header: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes of the stream, as many as there are."""
        self._buffer += chunk
        while True:
            if self._header is None:
                line, newline, rest = self._buffer.partition(b"\n")
                if not newline:
                    if len(line) > MAX_HEADER_BYTES:
                        self._buffer = b""
                    return
                self._buffer = rest
                self._header = _header(line)
                if self._header is None:
                    continue
            length = self._header.get("length") or 0
            if len(self._buffer) < length:
                return
            body, self._buffer = self._buffer[:length], self._buffer[length:]
            header, self._header = self._header, None
            self._on_frame(header, body)


def _header(line: bytes) -> dict[str, Any] | None:
    """Given a line, return it when it is a frame's header, else None."""
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or not ({"job", "ping", "error"} & set(header)):
        return None
    length = header.get("length") or 0
    return header if type(length) is int and 0 <= length <= MAX_BODY_BYTES else None


class Lines(Generic[SourceT]):
    """Puts the chunks of several sources together to lines. ``show(source, text)`` is called with each.

    Characters that a chunk's end has cut are whole again before they are decoded; the rest is replaced.
    """

    def __init__(self, show: Callable[[SourceT, str], None]) -> None:
        self._show = show
        self._partial: dict[SourceT, tuple[bytes, float]] = {}

    def add(self, source: SourceT, chunk: bytes) -> None:
        """Take in the next bytes of a source."""
        held, since = self._partial.pop(source, (b"", time.monotonic()))
        *lines, rest = (held + chunk).split(b"\n")
        for line in lines:
            self._show(source, _text(line))
        if lines:
            since = time.monotonic()
        if rest:
            self._partial[source] = (rest, since)
        if len(rest) > PARTIAL_LINE_BYTES:
            self._show_partial(source)

    def show_old_partials(self) -> None:
        """Show unfinished lines that have waited long enough."""
        limit = time.monotonic() - PARTIAL_LINE_S
        for source in [source for source, (_, since) in self._partial.items() if since < limit]:
            self._show_partial(source)

    def flush(self, belongs: Callable[[SourceT], bool]) -> None:
        """Show what is held of the sources that ``belongs`` says: no more is coming."""
        for source in [source for source in self._partial if belongs(source)]:
            rest, _ = self._partial.pop(source)
            self._show(source, _text(rest))

    def _show_partial(self, source: SourceT) -> None:
        """Show what is held of a source, but not the bytes of a character that is still to be completed."""
        rest, _ = self._partial.pop(source)
        cut = _CUT_CHARACTER.search(rest)
        whole = rest[: cut.start()] if cut else rest
        if whole:
            self._show(source, _text(whole))
        if cut:
            self._partial[source] = (cut[0], time.monotonic())


def _text(line: bytes) -> str:
    """Given a line's bytes, return what a person would see: progress bars redraw it with carriage returns."""
    return line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
