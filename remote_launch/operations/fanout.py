"""One callable over many servers, in parallel and bounded, with every outcome kept."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from remote_launch.dataclass import dataclass
from remote_launch.errors import RemoteLaunchError, ServersFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
_INTERRUPT_EVERY_S = 0.1
WAIT_TOLD_AFTER_S = 5.0
PARALLEL_SERVERS = 16  # ssh connections opened at a time; more gains nothing (DESIGN 4.1)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What one server came to: a value, or the error."""

    server: str
    value: T | None = None
    error: RemoteLaunchError | None = None
    duration_s: float = 0.0


class Outcomes(Generic[T]):
    """The outcome of every server, in the order asked. One failing server never hides the others."""

    def __init__(self, outcomes: Iterable[Outcome[T]]) -> None:
        self._by_server = {outcome.server: outcome for outcome in outcomes}

    def __iter__(self) -> Iterator[Outcome[T]]:
        return iter(self._by_server.values())

    def __len__(self) -> int:
        return len(self._by_server)

    def __getitem__(self, server: str) -> Outcome[T]:
        return self._by_server[server]

    @property
    def values(self) -> dict[str, T]:
        """The results of the servers that went well."""
        return {o.server: o.value for o in self if o.error is None}  # type: ignore[misc]

    @property
    def errors(self) -> dict[str, RemoteLaunchError]:
        """The errors of the servers that did not."""
        return {o.server: o.error for o in self if o.error is not None}

    @property
    def exit_code(self) -> int:
        """0 all went well, 3 some did, 1 none."""
        if not self.errors:
            return 0
        return 3 if self.values else 1

    @property
    def status(self) -> str:
        """The word of the ``--json`` envelope: ok, partial or error."""
        return {0: "ok", 3: "partial", 1: "error"}[self.exit_code]

    def raise_on_error(self, what: str = "") -> None:
        """Raise the error when there is one server, or ServersFailedError with all outcomes."""
        if not self.errors:
            return
        if len(self) == 1:
            raise next(iter(self.errors.values()))
        raise ServersFailedError({o.server: o.error for o in self}, what)


def fanout(
    names: Iterable[str],
    function: Callable[[str], T],
    *,
    limit: int = PARALLEL_SERVERS,
    on_interrupt: Callable[[], None] | None = None,
    on_wait: Callable[[list[str]], None] | None = None,
) -> Outcomes[T]:
    """Run ``function(name)`` for every name, ``limit`` at a time, and return every outcome.

    A RemoteLaunchError is an outcome; anything else is a bug and is raised once all have ended. On Ctrl-C
    nothing new is started, ``on_interrupt`` is called (it ends what runs) until the threads are back, and
    KeyboardInterrupt goes on. Where it takes seconds, ``on_wait`` is told once who is still at it."""
    crew = _Crew(dict.fromkeys(names), function, limit)
    try:
        crew.start()
        tell_at = time.monotonic() + WAIT_TOLD_AFTER_S
        while not crew.wait(0.5):  # in slices: a bare wait can't be interrupted everywhere
            if on_wait is not None and time.monotonic() > tell_at:
                on_wait([name for name in crew.names if name not in crew.outcomes])
                on_wait = None
    except KeyboardInterrupt:
        crew.waiting.clear()
        while not crew.wait(0.0):
            if on_interrupt is not None:
                on_interrupt()  # again and again: one may be between two commands, or still connecting
            crew.wait(_INTERRUPT_EVERY_S)
        raise
    for bug in crew.bugs:
        raise bug
    return Outcomes(crew.outcomes[name] for name in crew.names)


class _Crew(Generic[T]):
    """Threads that take names from a queue until it is empty. (concurrent.futures takes 5 ms to import.)"""

    def __init__(self, names: Iterable[str], function: Callable[[str], T], limit: int) -> None:
        self.names = tuple(names)
        self.waiting = deque(self.names)
        self.outcomes: dict[str, Outcome[T]] = {}
        self.bugs: list[BaseException] = []
        self._function = function
        self._threads = {}  # and their ends: a join that Ctrl-C interrupts takes one that runs for ended
        for number in range(max(1, min(limit, len(self.names)))):
            ended = threading.Event()
            thread = threading.Thread(target=self._work, args=(ended,), name=f"rl_{number}")
            self._threads[thread] = ended

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the threads' end; True when all have ended."""
        deadline = time.monotonic() + timeout_s
        # An interrupt may come before all are started.
        ends = [ended for thread, ended in self._threads.items() if thread.ident is not None]
        return all(ended.wait(max(0.0, deadline - time.monotonic())) for ended in ends)

    def _work(self, ended: threading.Event) -> None:
        try:
            self._take_all()
        finally:
            ended.set()

    def _take_all(self) -> None:
        while True:
            try:
                name = self.waiting.popleft()
            except IndexError:
                return
            started = time.monotonic()
            value: T | None = None
            failure: RemoteLaunchError | None = None
            try:
                value = self._function(name)
            except RemoteLaunchError as error:
                failure = error
            except BaseException as error:  # noqa: BLE001 - raised by the caller's thread, once all have ended
                self.bugs.append(error)
            self.outcomes[name] = Outcome(name, value, failure, time.monotonic() - started)
