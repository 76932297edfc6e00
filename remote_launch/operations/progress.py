"""What a long operation tells while it is at it, step by step and server by server."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Something that happened on a server: a step began (``text`` empty), printed a line, or ended."""

    server: str
    step: str
    text: str = ""
    ended: bool = False
    error: bool = False


class Tell:
    """Says what happens on one server."""

    def __init__(self, server: str, on_progress: Callable[[Progress], None]) -> None:
        self._server = server
        self._on_progress = on_progress

    def begin(self, step: str) -> None:
        self._on_progress(Progress(server=self._server, step=step))

    def line(self, step: str, line: str) -> None:
        self._on_progress(Progress(server=self._server, step=step, text=line))

    def end(self, step: str, line: str, *, error: bool = False) -> None:
        self._on_progress(Progress(server=self._server, step=step, text=line, ended=True, error=error))
