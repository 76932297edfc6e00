"""The local index of jobs: ``.remote/jobs.sqlite3``. The truth is on the servers; this can be rebuilt from
them.

Safe under concurrent ``rl`` processes: keys are given out inside one immediate transaction. The journal is
SQLite's default (no WAL: it needs shared memory, which network home folders lack)."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from remote_launch.core.job_rows import dump_record, load_record
from remote_launch.core.jobs import JobRecord, JobState
from remote_launch.core.registry_file import RegistryFile, is_unwritable
from remote_launch.errors import NO_JOBS_HINT, RegistryError, UnknownJobError, did_you_mean

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

_TERMINAL = [state.value for state in JobState if state.is_terminal]
_VARIABLES = 500  # of one statement; SQLite's own limit was 999
_BY_CREATION = """
SELECT key, record FROM jobs
ORDER BY
    CASE WHEN json_valid(record) THEN CAST(json_extract(record, '$.created_at') AS REAL) END DESC,
    key DESC
LIMIT ?
"""
_NEWEST = "(SELECT MAX(key) FROM jobs WHERE typeof(key) = 'integer')"


class Registry:
    """Jobs by key and id. Raises RegistryError when the file can't be used.

    A row that can't be read is skipped; a file that is no database any more is set aside, and the registry
    begins anew. ``notices`` says so in plain words, each once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = RegistryFile(path)
        self._skipped: dict[str, None] = {}
        self._unwritten: dict[str, JobRecord] = {}  # what is known in this process alone
        self._unwritable = ""

    @property
    def was_set_aside(self) -> bool:
        """True when the file was found damaged: what it held must be asked of the servers."""
        return self._file.set_aside is not None

    @property
    def notices(self) -> list[str]:
        """What the user must know of the file, in plain words."""
        aside = self._file.set_aside
        damage = f"{self.path} was damaged and is set aside as {aside and aside.name}; "
        damage += "rl job-list --rsync --all brings the jobs back from the servers"
        return [*([damage] if aside else []), *self._skipped, *filter(None, [self._unwritable])]

    def add(self, records: Iterable[JobRecord]) -> list[JobRecord]:
        """Given new jobs, return them with their keys (1, 2, 3 …). One transaction: all or none. A known
        job_id keeps its row."""
        records = list(records)
        return self._file.write(lambda connection: self._insert(connection, records))

    def _insert(self, connection: sqlite3.Connection, records: Sequence[JobRecord]) -> list[JobRecord]:
        next_key = _next_key(connection)
        added = []
        for record in records:
            known = connection.execute(
                "SELECT key, record FROM jobs WHERE job_id = ?", (record.job_id,)
            ).fetchall()
            readable = self._read(known)
            if readable:
                added.extend(readable)
                continue
            if known:  # a row that can't be read: what the server told takes its place
                connection.execute("DELETE FROM jobs WHERE job_id = ?", (record.job_id,))
            old_key = known[0][0] if known else None
            keyed = dataclasses.replace(record, key=old_key if isinstance(old_key, int) else next_key)
            next_key += keyed.key == next_key
            connection.execute(
                "INSERT INTO jobs (job_id, key, launch_id, server, state, record) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    keyed.job_id, keyed.key, keyed.launch_id, keyed.server, keyed.state.value,
                    dump_record(keyed),
                ),
            )  # fmt: skip
            added.append(keyed)
        connection.execute("REPLACE INTO counters (name, value) VALUES ('next_key', ?)", (next_key,))
        return added

    def adopt(self, records: Iterable[JobRecord]) -> None:
        """Add jobs that a server has. Where nothing can be written, it will tell of them again."""
        records = list(records)
        self._try_to_write(lambda connection: self._insert(connection, records))

    def update(self, records: Iterable[JobRecord]) -> None:
        """Write changed records. A terminal state that is already there stays: an older answer can't undo
        it. Where the disk is full or can only be read, they hold in this process: a job can then still be
        watched and stopped."""
        records = list(records)

        def write(connection: sqlite3.Connection) -> None:
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
                    (record.state.value, dump_record(record), record.job_id),
                )

        if not self._try_to_write(write):
            self._unwritten.update({record.job_id: record for record in records})

    def _try_to_write(self, change: Callable[[sqlite3.Connection], object]) -> bool:
        """Write what the servers will tell again; False, with a notice, where nothing can be written."""
        try:
            self._file.write(change)
        except RegistryError as error:
            if not is_unwritable(error):
                raise
            self._unwritable = f"{error.message}: what the servers told is not kept; {error.hint}"
            return False
        return True

    def require_writable(self) -> None:
        """Raise RegistryError where the file can't be changed."""
        self._file.write(lambda connection: connection.execute("DELETE FROM jobs WHERE key IS NULL"))

    def remove(self, job_ids: Collection[str]) -> None:
        """Forget these jobs. Their keys are never given out again."""
        self._file.write(
            lambda connection: connection.executemany(
                "DELETE FROM jobs WHERE job_id = ?", [(job_id,) for job_id in job_ids]
            )
        )

    def all(self) -> list[JobRecord]:
        """Return every job, by key."""
        return self._select("SELECT key, record FROM jobs ORDER BY key")

    def newest(self, count: int) -> list[JobRecord]:
        """Return the jobs that were created last, the newest at the end. Their keys may say otherwise: a job
        that a server told of got its key late."""
        return self._select(_BY_CREATION, [count])[::-1]

    def tagged(self, tags: Iterable[str]) -> list[JobRecord]:
        """Return the jobs that carry every one of these tags, by key."""
        tags = list(tags)
        # Read those alone that hold the tags' texts somewhere.
        holds = "".join(" AND instr(record, ?)" for _ in tags)
        words = [json.dumps(tag) for tag in tags]
        jobs = self._select(f"SELECT key, record FROM jobs WHERE 1{holds} ORDER BY key", words)  # noqa: S608
        return select_by_tags(jobs, tags)

    def unfinished(self) -> list[JobRecord]:
        """Return the jobs whose state isn't terminal, by key."""
        return self.in_states([state for state in JobState if not state.is_terminal])

    def in_states(self, states: Collection[JobState]) -> list[JobRecord]:
        """Return the jobs in these states, by key."""
        marks = ",".join("?" * len(states))
        where = f"WHERE state IN ({marks})"  # question marks alone
        jobs = self._select(
            f"SELECT key, record FROM jobs {where} ORDER BY key", [state.value for state in states]  # noqa: S608
        )
        return [job for job in jobs if job.state in states]

    def launch(self, launch_id: str) -> list[JobRecord]:
        """Return the jobs of one launch, by node rank."""
        jobs = self._select("SELECT key, record FROM jobs WHERE launch_id = ? ORDER BY key", [launch_id])
        return sorted(jobs, key=lambda job: (job.node_rank or 0, job.key))

    def last_launch(self) -> list[JobRecord]:
        """Return the jobs of the launch that was recorded last, by node rank; none where there was none."""
        newest = "SELECT launch_id FROM jobs WHERE launch_id IS NOT NULL ORDER BY key DESC LIMIT 1"
        jobs = self._select(f"SELECT key, record FROM jobs WHERE launch_id = ({newest})", [])  # noqa: S608
        return sorted(jobs, key=lambda job: (job.node_rank or 0, job.key))

    def launches(self, launch_ids: Collection[str]) -> list[JobRecord]:
        """Return the jobs of these launches, by key."""
        words = list(launch_ids)
        marks = ",".join("?" * len(words))
        if len(words) > _VARIABLES:
            return [job for job in self.all() if job.launch_id in set(words)]
        return self._select(
            f"SELECT key, record FROM jobs WHERE launch_id IN ({marks}) ORDER BY key", words  # noqa: S608
        )

    def ids(self) -> set[str]:
        """Return the ids of all jobs."""
        rows = self._file.read(lambda connection: connection.execute("SELECT job_id FROM jobs").fetchall())
        return {row[0] for row in rows}

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
        rows = self._file.read(
            lambda connection: connection.execute(
                "SELECT key FROM jobs ORDER BY key DESC LIMIT 200"
            ).fetchall()
        )
        keys = [str(row[0]) for row in rows]
        if not keys:
            return UnknownJobError(
                f"unknown job {word!r}: there are no jobs yet", hint=NO_JOBS_HINT
            )
        near = did_you_mean(word, keys)
        return UnknownJobError(
            f"unknown job {word!r}{near}", hint=f"newest keys: {', '.join(keys[:8])}; all: rl job-list --all"
        )

    def synced_bytes(self) -> dict[str, int]:
        """Return, by job_id, how many bytes of logs the last log sync saw; -1 for none yet."""
        rows = self._file.read(
            lambda connection: connection.execute("SELECT job_id, synced_bytes FROM jobs").fetchall()
        )
        return {job_id: size for job_id, size in rows if isinstance(size, int)}

    def set_synced_bytes(self, sizes: dict[str, int]) -> None:
        """Note the log sizes that a sync brought."""
        self._try_to_write(
            lambda connection: connection.executemany(
                "UPDATE jobs SET synced_bytes = ? WHERE job_id = ?", [(v, k) for k, v in sizes.items()]
            )
        )

    def _select(self, sql: str, values: Sequence[object] = ()) -> list[JobRecord]:
        rows = self._file.read(lambda connection: connection.execute(sql, tuple(values)).fetchall())
        return self._read(rows)

    def _read(self, rows: Iterable[tuple[object, object]]) -> list[JobRecord]:
        """Given rows, return their records; a row that can't be read is skipped and noted."""
        records = []
        for key, text in rows:
            try:
                record = load_record(key, text)
                records.append(self._unwritten.get(record.job_id, record))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                self._skipped[
                    f"job {key} in {self.path.name} can't be read and is left out ({error}); "
                    "rl job-list --rsync brings it back where its server has it"
                ] = None
        return records


def _next_key(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM counters WHERE name = 'next_key'").fetchone()
    newest = connection.execute(f"SELECT {_NEWEST}").fetchone()[0] or 0
    counted = row[0] if row and isinstance(row[0], int) else 1
    return int(max(newest + 1, counted))


def select_by_tags(jobs: Iterable[JobRecord], tags: Iterable[str]) -> list[JobRecord]:
    """Given jobs, return those that carry every one of ``tags``."""
    wanted = set(tags)
    return [job for job in jobs if wanted <= set(job.tags)]
