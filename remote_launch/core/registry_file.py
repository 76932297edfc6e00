"""The file of the job registry: opened with its schema, locked for a change, and set aside when it is no
database any more. Everything that SQLite can say becomes a RegistryError that says what to do."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from typing import TYPE_CHECKING, TypeVar

from remote_launch.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

_VERSION = 2
# counters: a key is never given out again, also when its job was removed.
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS jobs (
    job_id TEXT PRIMARY KEY,
    key INTEGER NOT NULL UNIQUE,
    launch_id TEXT,
    server TEXT NOT NULL,
    state TEXT NOT NULL,
    record TEXT NOT NULL,
    synced_bytes INTEGER NOT NULL DEFAULT -1
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
CREATE INDEX IF NOT EXISTS jobs_by_launch ON jobs (launch_id);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
PRAGMA user_version = {_VERSION};
"""
_LOCK_TIMEOUT_S = 30.0
# SQLite looks every 0.1 s whether the file is free: who writes again and again on a slow disk is then hardly
# ever caught between two writes. In so short a wait it looks every few milliseconds.
_TURN_MS = 20
# What SQLite says (its codes came with Python 3.11).
_DAMAGED = ("malformed", "not a database", "no such table", "no such column")
_UNWRITABLE = {
    "readonly": "the file or its disk can only be read: make it writable; jobs on the servers go on",
    "read-only": "the file or its disk can only be read: make it writable; jobs on the servers go on",
    "disk is full": "free some space; jobs on the servers go on",
    "no space left": "free some space; jobs on the servers go on",
}
_REMEDIES = {
    "locked": "another program has held it for long: look for an rl or a backup that hangs, then try again",
    "unable to open": "rl keeps it in the project's .remote folder: is that there, and may you write to it?",
    **_UNWRITABLE,
}


def is_unwritable(error: RegistryError) -> bool:
    """True for a file that can still be read: its disk is full, or can only be read."""
    return any(word in error.message.lower() for word in _UNWRITABLE)


class RegistryFile:
    """One SQLite file. ``set_aside`` is where a damaged one was moved to by this process, None for none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: Path | None = None

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return what ``query`` makes of a connection. A damaged file is set aside, and the query gets an
        empty one. Raises RegistryError."""
        for _ in range(2):
            try:
                return self._ask(query)
            except RegistryError as error:
                # Also said of a file that was set aside after it was opened here: another is in its place.
                is_moved = "attempt to write a readonly" in error.message
                if not is_moved and not (_is_damage(error.__cause__) and self._move_away()):
                    raise
        return self._ask(query)

    def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """As ``read``, in one transaction that nobody else writes in: all of it, or nothing."""

        def transaction(connection: sqlite3.Connection) -> T:
            _begin(connection)
            try:
                result = change(connection)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have done it: a full disk
                    connection.execute("ROLLBACK")
                raise
            return result

        return self.read(transaction)

    def _ask(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as connection:
                return query(connection)
        except (sqlite3.Error, OSError) as error:
            said = str(error).lower()
            remedy = next((text for word, text in _REMEDIES.items() if word in said), None)
            rebuild = "the index can be rebuilt: move the file away, then run rl job-list --rsync --all"
            raise RegistryError(f"{self.path}: {error}", hint=remedy or rebuild) from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(
            sqlite3.connect(self.path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)
        ) as connection:
            connection.text_factory = _text
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise RegistryError(
                    f"{self.path} was written by a newer rl (its format is {version}, this rl knows "
                    f"{_VERSION})",
                    hint="update rl on this machine; or move the file away: rl job-list --rsync --all makes "
                    "a new one",
                )
            if version < _VERSION:
                self._make(connection, is_new=version == 0)
            yield connection

    def _make(self, connection: sqlite3.Connection, *, is_new: bool) -> None:
        try:
            connection.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            if is_new or "readonly" not in str(error):
                raise  # an older file on a disk that can only be read has all that a look at it needs

    def _move_away(self) -> bool:
        """Set the file aside unless another process was faster; False when it can't be moved."""
        with _locked(self.path.parent):
            if not self._is_damaged():
                return True
            stamp = time.strftime("%Y-%m-%d-%H%M%S")
            aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
            number = 1
            while aside.exists():
                number += 1
                aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}-{number}")
            # A transaction that was broken off belongs to the file that it was made in. It goes first: once
            # the file is gone, a journal of that name may be of the new file that another process makes.
            with contextlib.suppress(OSError):
                self.path.with_name(f"{self.path.name}-journal").rename(f"{aside}-journal")
            try:
                self.path.rename(aside)
            except OSError:
                return False
            self.set_aside = aside
            return True

    def _is_damaged(self) -> bool:
        try:
            with self._open() as connection:
                connection.execute("SELECT job_id, key, launch_id, server, state, record FROM jobs LIMIT 1")
                return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
        except sqlite3.Error as error:
            return _is_damage(error)


def _begin(connection: sqlite3.Connection) -> None:
    """Begin a transaction that nobody else writes in, as soon as the others let it."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    connection.execute(f"PRAGMA busy_timeout = {_TURN_MS}")
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
    connection.execute(f"PRAGMA busy_timeout = {int(_LOCK_TIMEOUT_S * 1000)}")


def _text(content: bytes) -> str:
    """A text that is none must not keep the other rows from being read."""
    return content.decode("utf-8", "replace")


def _is_damage(error: BaseException | None) -> bool:
    said = str(error).lower()
    return isinstance(error, sqlite3.DatabaseError) and any(word in said for word in _DAMAGED)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself, where its filesystem has locks."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
