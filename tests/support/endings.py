"""An end of the tests by a signal that undoes what they have made outside of their own processes."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """For the length of a ``with``: TERM ends the tests as Ctrl-C does, by way of every fixture's own end.
    One that comes while that goes on, after either, does not break it off."""
    is_ending = False

    def end(number: int, _: object) -> None:
        nonlocal is_ending
        if number == signal.SIGTERM and is_ending:
            return
        is_ending = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
