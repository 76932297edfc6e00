"""Signals that wake a selector."""

from __future__ import annotations

import os
import selectors
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable


def listen_to_signals(selector: selectors.BaseSelector, on_term: Callable[..., None]) -> None:
    """Have the end of a child and a request to stop wake the selector, through a pipe: no polling, no race
    between the check and the sleep."""
    read, write = os.pipe()
    for fd in (read, write):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, on_term)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    selector.register(read, selectors.EVENT_READ, lambda _: os.read(read, 4096))
