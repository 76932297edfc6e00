"""The local index of jobs, also under many processes at once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core import registry_file
from remote_launch.core.job_rows import dump_record
from remote_launch.core.jobs import JobRecord, JobState
from remote_launch.core.registry import Registry, select_by_tags
from remote_launch.errors import RegistryError, UnknownJobError
from tests.support.records import new_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADD_FIFTY = """
import sys
from pathlib import Path
from remote_launch.core.jobs import JobRecord, new_id
from remote_launch.core.registry import Registry
registry = Registry(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    [record] = registry.add([JobRecord(job_id=new_id(), server="s", command=f"{sys.argv[2]}-{number}")])
    print(record.key)
"""


@contextlib.contextmanager
def adder(registry: Registry, number: int) -> Iterator[subprocess.Popen[str]]:
    """A process that adds 50 jobs once it gets a line, and prints their keys."""
    with subprocess.Popen(
        [sys.executable, "-c", ADD_FIFTY, str(registry.path), str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / ".remote" / "jobs.sqlite3")


def add(registry: Registry, **fields: Any) -> JobRecord:
    return registry.add([new_record(**{"server": "s", "command": "c", **fields})])[0]


class TestKeys:
    def test_are_1_2_3_over_several_additions(self, registry: Registry) -> None:
        assert [add(registry).key for _ in range(2)] == [1, 2]
        both = registry.add([new_record(server="s", command="c"), new_record(server="t", command="c")])
        assert [job.key for job in both] == [3, 4]
        assert [job.key for job in Registry(registry.path).all()] == [1, 2, 3, 4]

    def test_a_job_that_is_known_keeps_its_row(self, registry: Registry) -> None:
        first = add(registry, command="first")
        again = registry.add([new_record(job_id=first.job_id, server="s", command="second")])
        assert [(job.key, job.command) for job in again] == [(1, "first")]
        assert len(registry.all()) == 1

    def test_all_or_none(self, registry: Registry) -> None:
        def records() -> Any:
            yield new_record(server="s", command="c")
            raise RuntimeError("in the middle")

        with pytest.raises(RuntimeError):
            registry.add(records())
        assert registry.all() == []
        assert add(registry).key == 1

    def test_ten_processes_lose_nothing_and_give_no_key_twice(self, registry: Registry) -> None:
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(adder(registry, number)) for number in range(10)]
            for process in processes:  # now all at once
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            answers = [process.communicate(timeout=240)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * 10
        told = sorted(int(line) for answer in answers for line in answer.split())
        assert told == list(range(1, 501))
        jobs = registry.all()
        assert [job.key for job in jobs] == told
        assert {job.command for job in jobs} == {f"{p}-{n}" for p in range(10) for n in range(50)}

    def test_a_removed_jobs_key_is_not_given_out_again(self, registry: Registry) -> None:
        add(registry)
        job = add(registry)
        registry.remove([job.job_id])
        assert [job.key for job in registry.all()] == [1]
        assert add(registry).key == 3


def test_ten_thousand_jobs(registry: Registry) -> None:
    registry.add(new_record(server="s", command=f"c{number}", tags=("x",)) for number in range(10_000))
    jobs = registry.all()
    assert [job.key for job in jobs] == list(range(1, 10_001))
    assert registry.get("10000").command == "c9999"
    assert registry.unfinished() == jobs


def test_the_newest_are_those_created_last_whatever_their_keys(registry: Registry) -> None:
    """A server told of jobs that were started earlier, from another computer: their keys came later."""
    started = [add(registry, command=f"{at:g}", created_at=at) for at in (30.0, 10.0, 20.0)]
    assert [job.command for job in registry.newest(2)] == ["20", "30"]
    with sqlite3.connect(registry.path) as connection:
        connection.execute("UPDATE jobs SET record = 'rubbish' WHERE key = ?", (started[2].key,))
    assert [job.command for job in registry.newest(2)] == ["10", "30"]


class TestGet:
    def test_by_key_by_id_and_by_its_beginning(self, registry: Registry) -> None:
        job = add(registry, job_id="abcd1234" + "0" * 24)
        for word in ("1", " 1 ", job.job_id, "abcd", "abcd1234"):
            assert registry.get(word) == job

    def test_a_beginning_of_two_ids_is_refused(self, registry: Registry) -> None:
        add(registry, job_id="abcd" + "0" * 28)
        add(registry, job_id="abcd" + "1" * 28)
        with pytest.raises(UnknownJobError, match="beginning of 2 job ids") as caught:
            registry.get("abcd")
        assert caught.value.hint

    def test_an_unknown_key_names_near_ones(self, registry: Registry) -> None:
        for _ in range(12):
            add(registry)
        with pytest.raises(UnknownJobError, match="unknown job '112', did you mean '12'") as caught:
            registry.get("112")
        assert caught.value.exit_code == 2
        assert "12, 11, 10" in str(caught.value.hint)

    @pytest.mark.parametrize(
        "word", ["", "0", "-1", "²", "%", "%%%%", "'; --", "99999999999999999999", "zzzz", "\0"]
    )
    def test_anything_else_is_unknown(self, registry: Registry, word: str) -> None:
        add(registry)
        with pytest.raises(UnknownJobError):
            registry.get(word)

    def test_without_jobs_it_says_how_to_start_one(self, registry: Registry) -> None:
        with pytest.raises(UnknownJobError, match="no jobs yet") as caught:
            registry.get("1")
        assert "rl job-run" in str(caught.value.hint)
        assert "rl job-list --rsync" in str(caught.value.hint)  # the servers know those of a lost registry


class TestUpdate:
    def change(self, registry: Registry, job: JobRecord, state: JobState, **fields: Any) -> JobRecord:
        import dataclasses

        registry.update([dataclasses.replace(job, state=state, **fields)])
        return registry.get(str(job.key))

    @pytest.mark.parametrize("end", [JobState.SUCCEEDED, JobState.FAILED, JobState.KILLED])
    def test_an_older_answer_does_not_undo_an_end(self, registry: Registry, end: JobState) -> None:
        job = add(registry)
        self.change(registry, job, end, exit_code=7)
        later = self.change(registry, job, JobState.RUNNING)
        assert (later.state, later.exit_code) == (end, 7)

    def test_lost_can_be_found_again(self, registry: Registry) -> None:
        job = add(registry)
        self.change(registry, job, JobState.LOST)
        assert self.change(registry, job, JobState.SUCCEEDED).state is JobState.SUCCEEDED

    def test_everything_of_a_record_comes_back(self, registry: Registry) -> None:
        job = add(
            registry,
            tags=("a", "b"),
            env={"LR": "0.1"},
            launch_id="l" * 32,
            node_rank=1,
            nnodes=2,
            name="ünï",
            details={"cause": {"rank": 3}},
        )
        found = self.change(registry, job, JobState.FAILED, signal="KILL", ended_at=5.0)
        assert found.tags == ("a", "b")
        assert (found.name, found.signal, found.details) == ("ünï", "KILL", {"cause": {"rank": 3}})

    def test_lists(self, registry: Registry) -> None:
        first = add(registry, launch_id="l", node_rank=1)
        second = add(registry, launch_id="l", node_rank=0)
        self.change(registry, first, JobState.SUCCEEDED)
        assert registry.unfinished() == [second]
        assert [job.node_rank for job in registry.launch("l")] == [0, 1]
        assert registry.ids() == {first.job_id, second.job_id}

    def test_log_sizes_begin_at_none_yet(self, registry: Registry) -> None:
        job = add(registry)
        assert registry.synced_bytes() == {job.job_id: -1}
        registry.set_synced_bytes({job.job_id: 42})
        assert registry.synced_bytes() == {job.job_id: 42}


def test_the_launch_that_was_recorded_last(registry: Registry) -> None:
    assert registry.last_launch() == []
    for launch in ("l1", "l2"):
        for rank in (1, 0):
            registry.add([new_record(server="s", command="x", launch_id=launch, node_rank=rank)])
    add(registry)
    assert [(job.launch_id, job.node_rank) for job in registry.last_launch()] == [("l2", 0), ("l2", 1)]


class TestDamage:
    def write(self, registry: Registry, key: int, record: str) -> None:
        with sqlite3.connect(registry.path) as connection:
            connection.execute("UPDATE jobs SET record = ? WHERE key = ?", (record, key))
        connection.close()

    @pytest.mark.parametrize(
        "record", ["", "{", "[]", "null", "3", "{}", '{"state": "DANCING"}', '{"state": 5, "tags": 3}']
    )
    def test_a_row_that_cannot_be_read_is_skipped_and_said(self, registry: Registry, record: str) -> None:
        add(registry)
        add(registry, command="good")
        self.write(registry, 1, record)
        assert [job.command for job in registry.all()] == ["good"]
        assert len(registry.notices) == 1
        assert "job 1" in registry.notices[0]
        assert add(registry).key == 3

    def test_a_newer_versions_columns_are_left_out(self, registry: Registry) -> None:
        job = add(registry)
        record = {"job_id": job.job_id, "server": "s", "command": "c", "state": "RUNNING", "colour": "blue"}
        self.write(registry, 1, json.dumps(record))
        assert registry.get("1").state is JobState.RUNNING

    @pytest.mark.parametrize(
        "fields",
        [
            {"job_id": "../../etc"}, {"job_id": 5}, {"server": None}, {"tags": "x"}, {"tags": [1]},
            {"details": []}, {"created_at": "yesterday"}, {"started_at": float("nan")}, {"ended_at": 1e300},
            {"node_rank": "0"}, {"attempt": None}, {"env": []}, {"exit_code": "1"}, {"state": "DANCING"},
        ],
    )  # fmt: skip
    def test_fields_of_another_shape_are_a_damaged_row(
        self, registry: Registry, fields: dict[str, Any]
    ) -> None:
        job = add(registry)
        add(registry, command="good")
        self.write(registry, 1, json.dumps({**json.loads(dump_record(job)), **fields}))
        assert [job.command for job in registry.all()] == ["good"]
        assert [job.command for job in registry.unfinished()] == ["good"]
        [notice] = registry.notices  # read twice, said once
        assert "job 1" in notice

    def test_a_damaged_row_is_replaced_by_what_its_server_told(self, registry: Registry) -> None:
        job = add(registry, command="lost")
        self.write(registry, 1, "{")
        [again] = registry.add([new_record(job_id=job.job_id, server="s", command="told")])
        assert (again.key, again.command) == (1, "told")
        assert registry.all() == [again]
        assert add(registry).key == 2

    @pytest.mark.parametrize("key", ["x", b"\0\xff", 2**62])
    def test_a_damaged_key_does_not_stop_the_count(self, registry: Registry, key: object) -> None:
        add(registry)
        add(registry, command="good")
        with sqlite3.connect(registry.path) as connection:
            connection.execute("UPDATE jobs SET key = ? WHERE key = 1", (key,))
        connection.close()
        assert "good" in [job.command for job in registry.all()]
        assert add(registry).key in (3, 2**62 + 1)

    @pytest.mark.parametrize(
        "content",
        [
            b"not a database, but long enough to look at it" * 40,
            b"SQLite format 3\0" + b"x" * 500,
            b"SQLite format 3\0" + b"x" * 50_000,
            b"\0" * 4096,
        ],
    )
    def test_a_file_that_is_no_database_is_set_aside(self, registry: Registry, content: bytes) -> None:
        registry.path.parent.mkdir()
        registry.path.write_bytes(content)
        assert registry.all() == []
        assert registry.was_set_aside
        [notice] = registry.notices
        assert "rl job-list --rsync" in notice
        [aside] = registry.path.parent.glob("jobs.sqlite3.corrupt-*")
        assert aside.read_bytes() == content
        assert aside.name in notice
        assert add(registry).key == 1
        assert not Registry(registry.path).notices

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
    def test_a_file_that_was_cut_off_is_set_aside(self, registry: Registry, part: float) -> None:
        registry.add([new_record(server="s", command="c") for _ in range(200)])
        content = registry.path.read_bytes()
        registry.path.write_bytes(content[: int(len(content) * part)])
        registry = Registry(registry.path)
        assert add(registry).key == 1
        assert registry.was_set_aside
        assert len(registry.all()) == 1

    def test_another_programs_tables_are_set_aside(self, registry: Registry) -> None:
        registry.path.parent.mkdir()
        with sqlite3.connect(registry.path) as connection:
            connection.executescript("CREATE TABLE notes (text TEXT); PRAGMA user_version = 2")
        connection.close()
        assert registry.all() == []
        assert registry.was_set_aside

    def test_the_journal_of_the_new_file_is_left_alone(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = registry.path.with_name(f"{registry.path.name}-journal")
        rename = type(journal).rename

        def meanwhile(self: Path, target: Any) -> Any:
            done = rename(self, target)
            if self == registry.path:  # another process has begun to make the new one
                journal.touch()
            return done

        registry.path.parent.mkdir()
        registry.path.write_bytes(b"rubbish" * 1000)
        monkeypatch.setattr(type(journal), "rename", meanwhile)
        assert registry._file._move_away()
        assert journal.exists()

    def test_a_damaged_file_that_is_moved_away_while_it_is_opened_is_left(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process sets it aside and is in the middle of writing a new one: SQLite takes the journal
        of the new file for one of the old, and then says that it can't write."""
        registry.path.parent.mkdir()
        registry.path.write_bytes(b"rubbish" * 1000)
        connect, others = sqlite3.connect, list[sqlite3.Connection]()

        def late(path: Path, **options: Any) -> sqlite3.Connection:
            connection = connect(path, **options)
            if others:
                others[0].close()
                return connection
            path.rename(path.with_name("aside"))
            others.append(connect(path, isolation_level=None))
            for words in ("CREATE TABLE other (x)", "PRAGMA cache_size = 1", "BEGIN IMMEDIATE"):
                others[0].execute(words)
            others[0].executemany("INSERT INTO other VALUES (?)", [("x" * 200,)] * 2000)
            return connection

        monkeypatch.setattr(registry_file.sqlite3, "connect", late)
        assert add(registry).key == 1
        assert [job.key for job in registry.all()] == [1]

    def test_several_find_the_damage_and_one_sets_it_aside(self, registry: Registry) -> None:
        registry.path.parent.mkdir()
        registry.path.write_bytes(b"rubbish" * 1000)
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(adder(registry, number)) for number in range(4)]
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in processes:
                process.communicate(timeout=240)
                assert process.returncode == 0
        assert [job.key for job in registry.all()] == list(range(1, 201))
        assert len(list(registry.path.parent.glob("*.corrupt-*"))) == 1

    def test_a_newer_format_is_left_alone(self, registry: Registry) -> None:
        add(registry)
        with sqlite3.connect(registry.path) as connection:
            connection.execute("PRAGMA user_version = 9")
        connection.close()
        before = registry.path.read_bytes()
        with pytest.raises(RegistryError, match=r"newer rl .*format is 9") as caught:
            registry.all()
        assert "update rl" in str(caught.value.hint)
        assert registry.path.read_bytes() == before

    def test_an_older_format_is_brought_up(self, registry: Registry) -> None:
        add(registry)
        with sqlite3.connect(registry.path) as connection:
            connection.executescript("DROP TABLE counters; PRAGMA user_version = 1")
        connection.close()
        assert [job.key for job in registry.all()] == [1]
        assert add(registry).key == 2


class TestWhereItCannotBeWritten:
    def connect(self, monkeypatch: pytest.MonkeyPatch, *pragmas: str, mode: str = "rw") -> None:
        real = sqlite3.connect

        def connect(path: Path, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = real(f"file:{path}?mode={mode}", uri=True, **options)
            for pragma in pragmas:
                connection.execute(pragma)
            return connection

        monkeypatch.setattr(sqlite3, "connect", connect)

    @pytest.mark.parametrize("version", [1, 2])
    def test_a_disk_that_can_only_be_read(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch, version: int
    ) -> None:
        job = add(registry)
        with sqlite3.connect(registry.path) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        self.connect(monkeypatch, mode="ro")
        assert registry.all() == [job]
        remove = lambda: registry.remove([job.job_id])  # noqa: E731
        for change in (lambda: add(registry), registry.require_writable, remove):
            with pytest.raises(RegistryError, match="readonly"):
                change()
        registry.adopt([new_record(server="s", command="c")])
        ended = dataclasses.replace(job, state=JobState.SUCCEEDED)
        registry.update([ended])  # holds in this process
        registry.set_synced_bytes({job.job_id: 5})
        assert registry.all() == [registry.get("1")] == [ended]
        assert registry.unfinished() == []
        [notice] = registry.notices
        assert "not kept" in notice
        assert Registry(registry.path).all() == [job]
        with pytest.raises(RegistryError, match="readonly") as caught:
            add(registry)
        assert "writable" in str(caught.value.hint)
        assert not registry.was_set_aside

    def test_a_full_disk(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        job = add(registry)
        self.connect(monkeypatch, "PRAGMA max_page_count = 10")
        with pytest.raises(RegistryError, match="full") as caught:
            registry.add(new_record(server="s", command="x" * 1000) for _ in range(100))
        assert "free some space" in str(caught.value.hint)
        assert registry.all() == [job]

    def test_a_file_that_is_locked_for_long(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add(registry)
        monkeypatch.setattr(registry_file, "_LOCK_TIMEOUT_S", 0.1)
        holder = sqlite3.connect(registry.path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        for use in (registry.all, lambda: add(registry)):
            with pytest.raises(RegistryError, match="locked") as caught:
                use()
            assert "another program" in str(caught.value.hint)
        holder.execute("ROLLBACK")
        holder.close()
        assert add(registry).key == 2

    def test_who_waits_for_a_writer_looks_often_enough_to_come_between_two_writes(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add(registry)
        holder = sqlite3.connect(registry.path, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        looks: list[int] = []

        class Counting(sqlite3.Connection):
            def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
                if sql == "BEGIN IMMEDIATE":
                    looks.append(1)
                    if len(looks) == 10:
                        holder.execute("ROLLBACK")
                return super().execute(sql, *more)

        real = sqlite3.connect
        monkeypatch.setattr(
            registry_file.sqlite3, "connect", lambda *words, **more: real(*words, factory=Counting, **more)
        )
        assert add(registry).key == 2
        assert len(looks) == 10
        holder.close()

    def test_a_place_that_cannot_be_written_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RegistryError):
            Registry(tmp_path / "file" / "jobs.sqlite3").all()


def test_tags_must_all_match() -> None:
    jobs = [new_record(server="s", command="c", tags=tags) for tags in (("a",), ("a", "b"), ())]
    assert select_by_tags(jobs, ["a", "b"]) == [jobs[1]]
    assert select_by_tags(jobs, []) == jobs
