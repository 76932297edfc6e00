"""The local index of jobs: ``.remote/jobs.sqlite3``. The truth is on the servers; this can be rebuilt from
them.

Safe under concurrent ``rl`` processes: keys are given out inside one immediate transaction. The journal is
SQLite's default (no WAL: it needs shared memory, which network home folders lack)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from typing import TYPE_CHECKING

from remote_launch.core.jobs import JobRecord, JobState
from remote_launch.errors import RegistryError, UnknownJobError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_SCHEMA = """
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
PRAGMA user_version = 1;
"""
_LOCK_TIMEOUT_S = 30.0
_FIELDS = frozenset(field.name for field in dataclasses.fields(JobRecord))
_TERMINAL = [state.value for state in JobState if state.is_terminal]


class Registry:
    """Jobs by key and id. Raises RegistryError when the file can't be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: list[str] = []  # rows that could not be read, in plain words

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = NORMAL")
                if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                    connection.executescript(_SCHEMA)
                yield connection
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            raise RegistryError(
                f"{self.path}: {error}",
                hint="the index can be rebuilt: move the file away, then run rl job-list --rsync --all",
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def add(self, records: Iterable[JobRecord]) -> list[JobRecord]:
        """Given new jobs, return them with their keys (1, 2, 3 …). One transaction: all or none. A known
        job_id keeps its row."""
        added = []
        with self._transaction() as connection:
            next_key = connection.execute("SELECT COALESCE(MAX(key), 0) FROM jobs").fetchone()[0] + 1
            for record in records:
                known = connection.execute(
                    "SELECT key, record FROM jobs WHERE job_id = ?", (record.job_id,)
                ).fetchone()
                if known:
                    added.extend(self._read([known]))
                    continue
                keyed = dataclasses.replace(record, key=next_key)
                next_key += 1
                connection.execute(
                    "INSERT INTO jobs (job_id, key, launch_id, server, state, record)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (keyed.job_id, keyed.key, keyed.launch_id, keyed.server, keyed.state.value, _dump(keyed)),
                )
                added.append(keyed)
        return added

    def update(self, records: Iterable[JobRecord]) -> None:
        """Write changed records. A terminal state that is already there stays: an older answer can't undo
        it."""
        with self._transaction() as connection:
            for record in records:
                row = connection.execute(
                    "SELECT state FROM jobs WHERE job_id = ?", (record.job_id,)
                ).fetchone()
                # LOST is what could be said at the time; a server that comes back may know better.
                if (
                    row
                    and row[0] in _TERMINAL
                    and row[0] != JobState.LOST.value
                    and not record.state.is_terminal
                ):
                    continue
                connection.execute(
                    "UPDATE jobs SET state = ?, record = ? WHERE job_id = ?",
                    (record.state.value, _dump(record), record.job_id),
                )

    def all(self) -> list[JobRecord]:
        """Return every job, by key."""
        return self._select("SELECT key, record FROM jobs ORDER BY key")

    def unfinished(self) -> list[JobRecord]:
        """Return the jobs whose state isn't terminal, by key."""
        marks = ",".join("?" * len(_TERMINAL))
        where = f"WHERE state NOT IN ({marks})"  # question marks alone
        return self._select(f"SELECT key, record FROM jobs {where} ORDER BY key", _TERMINAL)  # noqa: S608

    def launch(self, launch_id: str) -> list[JobRecord]:
        """Return the jobs of one launch, by node rank."""
        jobs = self._select("SELECT key, record FROM jobs WHERE launch_id = ? ORDER BY key", [launch_id])
        return sorted(jobs, key=lambda job: (job.node_rank or 0, job.key))

    def ids(self) -> set[str]:
        """Return the ids of all jobs."""
        with self._connection() as connection:
            return {row[0] for row in connection.execute("SELECT job_id FROM jobs")}

    def get(self, word: str) -> JobRecord:
        """Given a key, a job_id or its beginning (4 digits or more), return the job. Raises UnknownJobError,
        naming near keys."""
        word = str(word).strip()
        if word.isdecimal() and len(word) < 8:
            found = self._select("SELECT key, record FROM jobs WHERE key = ?", [int(word)])
        elif len(word) >= 4 and all(c in "0123456789abcdef" for c in word):
            found = self._select("SELECT key, record FROM jobs WHERE job_id LIKE ?", [word + "%"])
        else:
            found = []
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise UnknownJobError(
                f"{word!r} is the beginning of {len(found)} job ids", hint="give more digits, or the key"
            )
        raise self._unknown(word)

    def _unknown(self, word: str) -> UnknownJobError:
        with self._connection() as connection:
            keys = [
                str(row[0]) for row in connection.execute("SELECT key FROM jobs ORDER BY key DESC LIMIT 200")
            ]
        if not keys:
            return UnknownJobError(
                f"unknown job {word!r}: there are no jobs yet", hint="start one: rl job-run, rl torch-launch"
            )
        near = did_you_mean(word, keys)
        return UnknownJobError(
            f"unknown job {word!r}{near}", hint=f"newest keys: {', '.join(keys[:8])}; all: rl job-list --all"
        )

    def synced_bytes(self) -> dict[str, int]:
        """Return, by job_id, how many bytes of logs the last log sync saw; -1 for none yet."""
        with self._connection() as connection:
            return dict(connection.execute("SELECT job_id, synced_bytes FROM jobs").fetchall())

    def set_synced_bytes(self, sizes: dict[str, int]) -> None:
        """Note the log sizes that a sync brought."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE jobs SET synced_bytes = ? WHERE job_id = ?", [(v, k) for k, v in sizes.items()]
            )

    def _select(self, sql: str, values: Sequence[object] = ()) -> list[JobRecord]:
        with self._connection() as connection:
            rows = connection.execute(sql, tuple(values)).fetchall()
        return self._read(rows)

    def _read(self, rows: Iterable[tuple[int, str]]) -> list[JobRecord]:
        """Given rows, return their records; a row that can't be read is skipped and noted in ``skipped``."""
        records = []
        for key, text in rows:
            try:
                records.append(_load(key, text))
            except (ValueError, TypeError, KeyError) as error:
                self.skipped.append(f"job {key} in {self.path.name} can't be read ({error})")
        return records


def select_by_tags(jobs: Iterable[JobRecord], tags: Iterable[str]) -> list[JobRecord]:
    """Given jobs, return those that carry every one of ``tags``."""
    wanted = set(tags)
    return [job for job in jobs if wanted <= set(job.tags)]


def _dump(record: JobRecord) -> str:
    data = dataclasses.asdict(record)
    data["state"] = record.state.value
    return json.dumps(data, separators=(",", ":"))


def _load(key: int, text: str) -> JobRecord:
    data = json.loads(text)
    if not isinstance(data, dict):
        raise TypeError("not a record")
    # A column of a newer version is left out rather than refused.
    known = {name: value for name, value in data.items() if name in _FIELDS}
    known["state"] = JobState(known["state"])
    known["tags"] = tuple(known.get("tags") or ())
    known["key"] = key
    return JobRecord(**known)
