"""One callable over many servers, in parallel and bounded, with every outcome kept."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from remote_launch.errors import RemoteLaunchError, ServersFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
_INTERRUPT_EVERY_S = 0.1
PARALLEL_SERVERS = 16  # ssh connections opened at a time; more gains nothing (DESIGN 4.1)


@dataclasses.dataclass(frozen=True, slots=True)
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
) -> Outcomes[T]:
    """Run ``function(name)`` for every name, ``limit`` at a time, and return every outcome.

    A RemoteLaunchError is an outcome; anything else is a bug and is raised once all have ended. On Ctrl-C
    nothing new is started, ``on_interrupt`` is called (it ends what runs) until the threads are back, and
    KeyboardInterrupt goes on."""
    names = list(dict.fromkeys(names))
    started: dict[str, float] = {}
    ended: dict[str, float] = {}

    def timed(name: str) -> T:
        started[name] = time.monotonic()
        try:
            return function(name)
        finally:
            ended[name] = time.monotonic()

    with ThreadPoolExecutor(max_workers=max(1, min(limit, len(names))), thread_name_prefix="rl") as pool:
        futures: dict[str, Future[T]] = {name: pool.submit(timed, name) for name in names}
        try:
            pending: set[Future[Any]] = set(futures.values())
            while pending:  # in slices: a bare wait can't be interrupted everywhere
                _, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        except KeyboardInterrupt:
            for future in futures.values():
                future.cancel()
            while on_interrupt is not None and (going := [one for one in futures.values() if not one.done()]):
                on_interrupt()  # again and again: one may be between two commands, or still connecting
                wait(going, timeout=_INTERRUPT_EVERY_S)
            raise
    outcomes = []
    for name, future in futures.items():
        error = future.exception()
        if error is not None and not isinstance(error, RemoteLaunchError):
            raise error
        outcomes.append(
            Outcome(
                name,
                None if error else future.result(),
                error if isinstance(error, RemoteLaunchError) else None,
                ended.get(name, 0.0) - started.get(name, 0.0),
            )
        )
    return Outcomes(outcomes)
