"""One command on a paramiko channel: its input fed, both outputs drained as they come, its end told.

``recv_exit_status`` before the output is drained blocks for ever (paramiko#448), and fabric's own runner
takes 80 s for 20 MB: so the channel's two buffers wake one loop here, in the caller's thread, and callbacks
run there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import paramiko

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK_BYTES = 65536
INLINE_STDIN_BYTES = 32768  # the server's first window is far larger: this much never blocks
BROKEN = (paramiko.SSHException, EOFError, OSError)  # what paramiko raises when the connection is gone


class ChannelLostError(Exception):
    """The channel ended without an exit code: the connection is gone, or the server gave up."""


class DeadlinePassedError(Exception):
    """The time given is over."""


class Watch:
    """When a command has to end: at a deadline, or when ``cancel`` is called from another thread.

    Stands where paramiko's buffers take a ``threading.Event``: either of them sets it, and ``clear`` does
    nothing, because one empty buffer says nothing about the other.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._event = threading.Event()
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._event.set()

    def set(self) -> None:
        self._event.set()

    def clear(self) -> None:
        """Called by paramiko when one buffer is empty."""

    def check(self) -> float | None:
        """Return the seconds left, None for no end. Raises DeadlinePassedError, KeyboardInterrupt."""
        if self._cancelled:
            raise KeyboardInterrupt
        if self._deadline is None:
            return None
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlinePassedError
        return left_s

    def wait(self) -> None:
        """Wait for data, the end, or a reason to stop (which the next ``check`` raises)."""
        try:
            left_s = self.check()
        except DeadlinePassedError:
            return
        self._event.wait(left_s)
        self._event.clear()


@contextlib.contextmanager
def lost_when_broken() -> Iterator[None]:
    """Turn paramiko's several ways of saying that the connection is gone into ChannelLostError."""
    try:
        yield
    except BROKEN as error:
        raise ChannelLostError(str(error)) from error


def drain(
    channel: paramiko.Channel,
    watch: Watch,
    on_stdout: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None],
) -> int:
    """Hand over both outputs until the command has ended; return its exit code.

    What a callback raises goes on unchanged. Raises ChannelLostError, and what ``Watch.check`` raises.
    """
    buffers: Any = channel
    buffers.in_buffer.set_event(watch)
    buffers.in_stderr_buffer.set_event(watch)
    while True:
        watch.check()
        # Asked before the buffers: once it is so, nothing is added to them.
        ended = channel.eof_received or channel.closed
        busy = False
        if channel.recv_ready():
            on_stdout(_received(channel.recv))
            busy = True
        if channel.recv_stderr_ready():
            on_stderr(_received(channel.recv_stderr))
            busy = True
        if not busy:
            if ended:
                return _ended(channel, watch)
            watch.wait()


def _received(recv: Callable[[int], bytes]) -> bytes:
    with lost_when_broken():
        return recv(CHUNK_BYTES)


def _ended(channel: paramiko.Channel, watch: Watch) -> int:
    """Return its exit code. A command may close its outputs long before that comes."""
    while not channel.status_event.wait(0.1):
        watch.check()
    if channel.exit_status < 0:  # none came: the shell was ended by a signal, or the connection broke
        raise ChannelLostError("no exit code came")
    return channel.exit_status


@contextlib.contextmanager
def fed(channel: paramiko.Channel, content: bytes) -> Iterator[None]:
    """For the length of a ``with``, write the content to the command's stdin; then close the channel."""
    feeder = threading.Thread(target=_feed, args=(channel, content), name="rl-stdin", daemon=True)
    inline = len(content) <= INLINE_STDIN_BYTES
    if inline:
        _feed(channel, content)
    else:
        feeder.start()
    try:
        yield
    finally:
        with contextlib.suppress(*BROKEN):
            channel.close()  # also ends a feeder that waits for a command which reads nothing
        if not inline:
            feeder.join()


def _feed(channel: paramiko.Channel, content: bytes) -> None:
    view = memoryview(content)
    with contextlib.suppress(*BROKEN):  # a command need not read its input; what happened to it, drain tells
        for start in range(0, len(view), CHUNK_BYTES):
            channel.sendall(bytes(view[start : start + CHUNK_BYTES]))
        channel.shutdown_write()
