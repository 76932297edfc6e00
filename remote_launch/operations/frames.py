"""The stream of the ``follow`` verb: a JSON line, then as many raw bytes as it says.

All of it comes from a server, so none of it is trusted to have a shape.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 256 * 1024  # four times what our own program sends


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
