"""Local processes: both ways streamed at once, output bounded, everything ended on the way out. Shared by
ssh, rsync and local."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, NoReturn, cast

from remote_launch.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

CAPTURE_LIMIT_BYTES = 64 * 1024 * 1024
TAIL_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_POLL_S = 0.05


class ProcessTimeout(Exception):  # noqa: N818 - never leaves the package: transports turn it into CommandTimeoutError
    """The process ran past its time. ``stdout`` and ``stderr`` are what it had said."""

    def __init__(self, stdout: bytes, stderr: bytes) -> None:
        super().__init__("timeout")
        self.stdout = stdout
        self.stderr = stderr


class OutputOverflow(Exception):  # noqa: N818 - as above
    """More output than CAPTURE_LIMIT_BYTES, and no callback that takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A local process that ended. ``returncode`` is as in subprocess: negative for a signal."""

    returncode: int
    stdout: bytes
    stderr: bytes
    duration_s: float


class Cancel:
    """Ends runs from another thread: ``set`` makes every ``run_process`` that holds it, and only those,
    raise KeyboardInterrupt."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakers: set[int] = set()

    def set(self) -> None:
        """Wake every run that is under way. Later runs are not touched."""
        with self._lock:
            for waker in self._wakers:
                with contextlib.suppress(OSError):
                    os.write(waker, b"x")

    @contextlib.contextmanager
    def watched(self) -> Iterator[int]:
        """Give a file descriptor that becomes readable when the run is to end."""
        read, write = os.pipe()
        with self._lock:
            self._wakers.add(write)
        try:
            yield read
        finally:
            with self._lock:
                self._wakers.discard(write)
            os.close(read)
            os.close(write)


class Capture:
    """Keeps a stream's bytes: all of them up to the limit, or, where a callback takes them, the tail."""

    def __init__(self, callback: Callable[[bytes], None] | None) -> None:
        self._callback = callback
        self._kept = bytearray()

    def add(self, chunk: bytes) -> None:
        self._kept += chunk
        if self._callback is not None:
            if len(self._kept) > 4 * TAIL_BYTES:
                del self._kept[:-TAIL_BYTES]
            self._callback(chunk)
        elif len(self._kept) > CAPTURE_LIMIT_BYTES:
            raise OutputOverflow

    def value(self) -> bytes:
        return bytes(self._kept if self._callback is None else self._kept[-TAIL_BYTES:])


def run_process(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout_s: float | None = None,
    on_stdout: Callable[[bytes], None] | None = None,
    on_stderr: Callable[[bytes], None] | None = None,
    on_abort: Callable[[], None] | None = None,
    cancel: Cancel | None = None,
    grace_s: float = 0.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    own_session: bool = True,
) -> Ended:
    """Run a program to its end, in a session of its own: Ctrl-C reaches this process only, which then
    decides. Without ``own_session`` it may use the terminal, and only the program itself can be killed.

    Callbacks are called from this thread. Whatever ends the run early (timeout, Ctrl-C, ``cancel``, a
    callback's exception), ``on_abort`` is called first, then the process group is killed (with ``grace_s``,
    asked to end before), then the exception goes on. Raises FileNotFoundError when there is no such
    program, ProcessTimeout, OutputOverflow.
    """
    started = time.monotonic()
    out, err = Capture(on_stdout), Capture(on_stderr)
    deadline = None if timeout_s is None else started + timeout_s
    # Watched before the start: whoever has seen the program at work can cancel it.
    with (cancel or Cancel()).watched() as cancelled:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            start_new_session=own_session,
            bufsize=0,
        )
        try:
            _Pump(process, out, err, deadline, cancelled).run(stdin)
        except _Deadline:
            _abort(process, on_abort, grace_s, own_session)
            raise ProcessTimeout(out.value(), err.value()) from None
        except BaseException:
            _abort(process, on_abort, grace_s, own_session)
            raise
        finally:
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    cast(IO[bytes], pipe).close()
    seconds = time.monotonic() - started
    return Ended(returncode=process.returncode, stdout=out.value(), stderr=err.value(), duration_s=seconds)


def _abort(
    process: subprocess.Popen[bytes], on_abort: Callable[[], None] | None, grace_s: float, own_session: bool
) -> None:
    try:
        if on_abort is not None:
            on_abort()
        if grace_s and process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
                # Not to the group: an rsync told twice, by us and by its parent, leaves half a file behind.
                process.send_signal(signal.SIGTERM)
                process.wait(grace_s)
    finally:
        if own_session:
            kill_group(process)
        else:
            process.kill()
            process.wait()


def kill_group(process: subprocess.Popen[bytes], sig: int = signal.SIGKILL) -> None:
    """End a process started in its own session, with all that is left of its group, and reap it."""
    if process.poll() is None:  # once reaped, the group's number may be another's
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sig)
    process.wait()


class _Deadline(Exception):  # noqa: N818 - a turn in the loop, not an error
    pass


class _Pump:
    """Moves bytes until both outputs are closed, stdin is written (or nobody is left to read it), and the
    process ended."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        out: Capture,
        err: Capture,
        deadline: float | None,
        cancelled: int,
    ) -> None:
        self._process = process
        self._captures = {process.stdout: out, process.stderr: err}
        self._deadline = deadline
        self._cancelled = cancelled

    def run(self, content: bytes) -> None:
        stdin = cast(IO[bytes], self._process.stdin)
        left = memoryview(content)
        outputs = len(self._captures)
        with selectors.DefaultSelector() as selector:
            selector.register(self._cancelled, selectors.EVENT_READ)
            for pipe, capture in self._captures.items():
                os.set_blocking(cast(IO[bytes], pipe).fileno(), False)
                selector.register(cast(IO[bytes], pipe), selectors.EVENT_READ, capture)
            os.set_blocking(stdin.fileno(), False)
            selector.register(stdin, selectors.EVENT_WRITE)
            # With the outputs closed nothing wakes us at the process's end, so it is polled (it mostly is
            # at its end by then).
            while outputs or not self._ended():
                for key, _ in selector.select(self._wait_s(polling=not outputs)):
                    if key.fd == self._cancelled:
                        raise KeyboardInterrupt
                    if key.fileobj is stdin:
                        left = _write(stdin, left)
                        if not left:
                            selector.unregister(stdin)
                            stdin.close()
                    elif chunk := os.read(key.fd, _CHUNK_BYTES):
                        key.data.add(chunk)
                    else:
                        selector.unregister(key.fileobj)
                        outputs -= 1

    def _ended(self) -> bool:
        try:
            self._process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _wait_s(self, *, polling: bool) -> float | None:
        """How long to wait for the next bytes; raises _Deadline when the time is up."""
        if self._deadline is None:
            return 0 if polling else None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _Deadline
        return 0 if polling else left


def _write(pipe: IO[bytes], left: memoryview) -> memoryview:
    """Write what fits; return what is left. Nothing is left when the reader has gone: a command need not
    read its stdin."""
    if not left:
        return left
    try:
        return left[os.write(pipe.fileno(), left[:_CHUNK_BYTES]) :]
    except BlockingIOError:
        return left
    except (BrokenPipeError, ConnectionResetError):
        return left[:0]


def become(argv: Sequence[str]) -> NoReturn:
    """Have a program take this process's place, with its terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.setitimer(signal.ITIMER_REAL, 0)  # the command line's would go on, and end the program
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    os.execvp(argv[0], list(argv))  # noqa: S606 - no shell is the point
