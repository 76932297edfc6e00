"""A program on a terminal of its own, as a person runs it."""

from __future__ import annotations

import array
import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from typing_extensions import Self

_BUFFER_BYTES = 4000  # a few more fit
# A child of the test makes the new terminal its own before it becomes the program: forking the test itself,
# with its threads, is not safe.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """Runs ``argv``; use as a context manager. ``screen`` is all that came, without carriage returns."""

    def __init__(
        self, argv: Sequence[str], *, cwd: Path, env: dict[str, str], size: tuple[int, int] | None = None
    ) -> None:
        self.screen = ""
        self._seen = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read's end may cut a character
        self._master, slave = pty.openpty()
        if size is not None:
            self.resize(*size)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *argv], stdin=slave, stdout=slave, stderr=slave, cwd=cwd,
            env=env,
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def expect(
        self, pattern: str, timeout_s: float = 60, *, meanwhile: Callable[[], object] | None = None
    ) -> str:
        """Wait for a regular expression after what was expected last; return what matched. ``meanwhile`` is
        called now and then."""
        deadline = time.monotonic() + timeout_s
        while not (match := re.compile(pattern).search(self.screen, self._seen)):
            assert time.monotonic() < deadline, f"waited in vain for {pattern!r}; the screen:\n{self.screen}"
            assert self._read(0.2), f"ended without {pattern!r}; the screen:\n{self.screen}"
            if meanwhile is not None:
                meanwhile()
        self._seen = match.end()
        return match[0]

    def type(self, line: str) -> None:
        self.press(f"{line}\n")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def tell_size(self) -> None:
        """Tell the program in the foreground once more that the size has changed."""
        with contextlib.suppress(ProcessLookupError):  # a shell puts one program after the other there
            os.killpg(os.tcgetpgrp(self._master), signal.SIGWINCH)

    def fill(self, timeout_s: float = 60) -> None:
        """Read nothing until the program has written more than a terminal's buffer holds."""
        deadline = time.monotonic() + timeout_s
        held = array.array("i", [0])
        while held[0] < _BUFFER_BYTES:
            assert time.monotonic() < deadline, f"only {held[0]} bytes were written"
            time.sleep(0.02)
            fcntl.ioctl(self._master, termios.FIONREAD, held)

    def end(self, timeout_s: float = 60) -> int:
        """Wait for the program's end; return its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(0.2):
            assert time.monotonic() < deadline, f"did not end; the screen:\n{self.screen}"
        return self.process.wait(timeout_s)

    def _read(self, wait_s: float) -> bool:
        """Take in what is there; False once the program has closed the terminal."""
        if select.select([self._master], [], [], wait_s)[0]:
            try:
                chunk = os.read(self._master, 65536)
            except OSError:  # how Linux says that nobody has the other end open
                return False
            self.screen += self._decoder.decode(chunk).replace("\r", "")
            return bool(chunk)
        return True
