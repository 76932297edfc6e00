"""A lock that many processes and machines may contend for, on one path. No flock: homes may be on NFS.

The lock is a small file that is put in place whole by link(2), which one contender alone can do. Its owner
renews it every few seconds, in place, through the descriptor that it was made with: what it renews can never
be another's lease. A lease is stale, and a waiter breaks it,

- at once, when its process is gone from this very machine (hostname, boot and pid namespace are ours; a
  stopped process is not gone), or when this machine has booted since;
- else (another machine, another container, a file that nobody could have written whole) when it has not
  changed for ``STALE_AFTER_S`` by the waiter's own clock: nobody's wall clock decides.

Rubbish counts as the latter, since a lock on a filesystem without links is empty for a moment. A folder in
the lock's place is an error, never broken.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time

from . import procs
from .lockfile import TEXT_LIMIT, Sight, look, named, remove, write
from .owner import this_machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable

    Holder = dict[str, Any]  # who, host, since (epoch seconds by the holder's clock), pid; None is unknown

STALE_AFTER_S = 60.0
RENEW_EVERY_S = 5.0
TELL_EVERY_S = 5.0
_RACE_S = 0.02
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Lease:
    """A lease on ``path`` for ``who`` (a name that waiters are shown).

    ``with Lease(path, who):`` waits silently; ``lease.acquire(on_wait)`` tells whom it waits for, and
    ``with lease:`` then releases it. Long work asks ``held`` before a step that can't be taken back. The
    further arguments are for tests.
    """

    def __init__(
        self, path: str, who: str, *, stale_after_s: float = STALE_AFTER_S,
        renew_every_s: float = RENEW_EVERY_S, machine: dict[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic, guarded: bool = True,
    ) -> None:
        self.path = path
        self.who = who
        self._stale_after_s = stale_after_s
        self._renew_every_s = renew_every_s
        self._machine = machine if machine is not None else this_machine()
        self._clock = clock
        self._guarded = guarded
        self._io = threading.Lock()
        self._fd: int | None = None
        self._claims: dict[str, Any] = {}
        self._counter = 0
        self._ended = threading.Event()

    def acquire(self, on_wait: Callable[[Holder], None], poll_s: float = 0.5) -> None:
        """Wait until the lease is ours. ``on_wait`` is told the holder at once and about every 5 s. Raises
        OSError, with its filename, when the place can't be used."""
        if self._fd is not None:
            raise RuntimeError(f"{self.path}: acquired twice")
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        seen: Sight | None = None
        told: Holder | None = None
        seen_at = told_at = 0.0
        while not self._take():
            now, sight = self._clock(), look(self.path)
            if sight is None:
                time.sleep(min(poll_s, _RACE_S))  # released meanwhile
                continue
            if seen is None or sight.state != seen.state:
                seen, seen_at = sight, now
            gone = self._is_gone(sight)
            if gone or (gone is None and now - seen_at >= self._stale_after_s):
                self._break(sight, on_wait, poll_s)
                continue
            if sight.holder() != told or now - told_at >= TELL_EVERY_S:
                told, told_at = sight.holder(), now
                on_wait(told)
            time.sleep(poll_s)
        self._keep_renewing()

    def renew(self) -> bool:
        """Show that the owner lives; a thread does so too. Returns ``held``. Raises OSError when the lock
        can't be written."""
        with self._io:
            if self._fd is None:
                return False
            self._counter += 1
            try:
                write(self._fd, self._content(), self.path)
            except OSError as error:
                if error.errno == errno.ESTALE:  # NFS: broken by another machine
                    return False
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # A filesystem that copies on write has no room for it: the time alone is a sign of life too.
                with named(self.path):
                    os.utime(self._fd)
        return self.held

    @property
    def held(self) -> bool:
        """True while the lock is our own. A process that was stopped for long finds out here that another
        took over. What can't be read is not held."""
        if self._fd is None or self._claims.get("pid") != os.getpid():  # a fork of the owner owns nothing
            return False
        try:
            sight = look(self.path)  # by name and afresh: an open makes an NFS client ask its server
        except OSError:
            return False
        return sight is not None and sight.claims.get("token") == self._claims["token"]

    def release(self) -> None:
        """Give the lease back; another's lease is left alone."""
        self._ended.set()
        # Renewed just before: a waiter that has been counting begins anew, so that the lock can't pass to
        # another between the look and the unlink unless this process is stopped right there for a minute.
        with contextlib.suppress(OSError):
            if self.renew():
                os.unlink(self.path)
        self._close()

    def __enter__(self) -> Lease:
        if self._fd is None:
            self.acquire(_say_nothing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _content(self) -> bytes:
        # Of one length for life, and the counter's digits all that changes: a reader in the midst of a
        # rewrite reads either, never half a lease.
        return (json.dumps({**self._claims, "counter": f"{self._counter:012}"}) + "\n").encode()

    def _take(self) -> bool:
        """Put our lock in place; False when there is one already."""
        if os.path.lexists(self.path):
            return False
        self._claims = {
            "who": self.who[:TEXT_LIMIT], "pid": os.getpid(), "ticks": procs.start_ticks(os.getpid()),
            "since": time.time(), "token": os.urandom(16).hex(), **self._machine,
        }
        self._counter = 0
        aside = f"{self.path}.{self._claims['token']}.tmp"
        taken = False
        try:
            self._fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
            write(self._fd, self._content(), aside)
            taken = self._link(aside)
        except BaseException as error:
            if self.held:  # interrupted just after the link
                os.unlink(self.path)
            if isinstance(error, OSError):
                error.filename = self.path
            raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            if not taken:
                self._close()
        return taken

    def _link(self, aside: str) -> bool:
        try:
            os.link(aside, self.path)
        except OSError as error:
            # A lost answer of an NFS server is asked for again: EEXIST may be our own success. The token in
            # the lock tells, and unlike st_nlink comes from no cache.
            if self.held:
                return True
            if error.errno == errno.EEXIST:
                return False
            if error.errno in _NO_LINKS:
                return self._create()
            raise
        return True

    def _create(self) -> bool:
        """As a link, where there are none: made first, written then."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            return False
        try:
            write(fd, self._content(), self.path)
        except BaseException:
            os.close(fd)
            os.unlink(self.path)
            raise
        former, self._fd = self._fd, fd
        if former is not None:
            os.close(former)
        return True

    def _close(self) -> None:
        with self._io:
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)

    def _keep_renewing(self) -> None:
        ended = self._ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self._renew_every_s):
                with contextlib.suppress(OSError):
                    self.renew()

        try:
            threading.Thread(target=renew, name="lease", daemon=True).start()
        except BaseException:
            self.release()
            raise

    def _is_gone(self, sight: Sight) -> bool | None:
        """True when the owner can't be alive, False when it is, None when this machine can't know."""
        theirs, ours = sight.claims, self._machine
        if not (ours["boot_id"] and ours["pid_namespace"] and theirs.get("hostname") == ours["hostname"]):
            return None
        if not theirs.get("boot_id"):
            return None
        if theirs["boot_id"] != ours["boot_id"]:
            # Two machines of one name share a home now and then; of one name and one machine id, never.
            return True if ours["machine_id"] and theirs.get("machine_id") == ours["machine_id"] else None
        if theirs.get("pid_namespace") != ours["pid_namespace"]:
            return None
        pid, ticks = theirs.get("pid"), theirs.get("ticks")
        if type(pid) is not int or type(ticks) is not int:
            return None
        found = procs.start_ticks(pid) if pid > 0 else None
        if found is not None or pid <= 0:
            return found != ticks
        try:
            os.kill(pid, 0)
        except PermissionError:
            return None  # another user's, in a /proc that hides those
        except (OSError, OverflowError):
            return True
        return True  # a zombie

    def _break(self, stale: Sight, on_wait: Callable[[Holder], None], poll_s: float) -> None:
        """Remove a stale lock, one breaker at a time: of two at once, the slower would break the lease that
        the faster has just taken. The guard is a lease too, itself broken without a guard: that race needs a
        breaker that dies within these lines, and two that wait for it."""
        if not self._guarded:
            remove(self.path, stale)
            return
        guard = Lease(
            f"{self.path}.break", self.who, stale_after_s=self._stale_after_s, machine=self._machine,
            clock=self._clock, guarded=False,
        )
        guard.acquire(lambda _: on_wait(stale.holder()), poll_s)
        with guard:
            sight = look(self.path)
            if sight is not None and sight.state == stale.state:
                remove(self.path, stale)


def _say_nothing(_: Holder) -> None:
    pass
