"""Which logs a job has, and when their bytes were written."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from remote_launch.remote import logindex
from remote_launch.remote.jobdir import JobDir
from remote_launch.remote.logfiles import (
    BLOCK_BYTES,
    LINE_LIMIT_BYTES,
    log_files,
    start_of_last_lines,
    start_of_line,
)
from remote_launch.remote.logindex import LogIndex, index_path, read_rows, sizes_at, thinned
from tests.support.served import until
from tests.unit.remote.test_follow import following, frames, texts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served import Served


@pytest.fixture
def job(tmp_path: Path) -> JobDir:
    folder = tmp_path / ("a" * 32)
    folder.mkdir()
    return JobDir(str(folder))


def write(job: JobDir, name: str, content: bytes = b"x\n") -> str:
    path = os.path.join(job.path, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab") as file:
        file.write(content)
    return path


class TestLogFiles:
    def test_attempts_and_ranks(self, job: JobDir) -> None:
        for name in (
            "job.out", "job.err", "job.2.out", "ranks/run_x/attempt_0/0/stdout.log",
            "ranks.2/run_y/attempt_0/1/stderr.log",
        ):
            write(job, name)
        found = {log.name: (log.stream, log.local_rank, log.attempt) for log in log_files(job)}
        assert found == {
            "job.out": ("stdout", None, 0), "job.err": ("stderr", None, 0), "job.2.out": ("stdout", None, 2),
            "ranks/run_x/attempt_0/0/stdout.log": ("stdout", 0, 0),
            "ranks.2/run_y/attempt_0/1/stderr.log": ("stderr", 1, 2),
        }

    @pytest.mark.parametrize(
        "name",
        ["job.0.out", "job.01.out", "job.-1.out", "job.9999999.out", "job..out", "job.out.1", "xjob.out",
         "ranks/x/attempt_0/-1/stdout.log", "ranks/x/attempt_0/a/stdout.log", "ranks.0/x/y/0/stdout.log",
         "ranks/x/attempt_0/0/other.log", "ranks/x/attempt_0/99999999999999999999/stdout.log"],
    )  # fmt: skip
    def test_other_names_are_none(self, job: JobDir, name: str) -> None:
        write(job, name)
        assert log_files(job) == []

    def test_folders_that_are_links_are_not_entered(self, job: JobDir, tmp_path: Path) -> None:
        (tmp_path / "elsewhere" / "attempt_0" / "0").mkdir(parents=True)
        (tmp_path / "elsewhere" / "attempt_0" / "0" / "stdout.log").write_text("secret")
        os.mkdir(job.ranks)
        os.symlink(tmp_path / "elsewhere", os.path.join(job.ranks, "run_x"))
        assert log_files(job) == []


class TestWhereToBegin:
    @pytest.mark.parametrize("tail", [b"", b"last line\n" * 3])
    def test_a_line_of_a_terabyte_is_cut(self, tmp_path: Path, tail: bytes) -> None:
        path = tmp_path / "log"
        with path.open("wb") as file:
            file.write(b"first\n")
            file.seek(1 << 40)  # with holes; to read it takes minutes
            file.write(b"\n" + tail if tail else b"bar")
        fd = os.open(path, os.O_RDONLY)
        began = time.monotonic()
        start = start_of_last_lines(fd, 20)
        took_s = time.monotonic() - began
        size = os.fstat(fd).st_size
        os.close(fd)
        assert LINE_LIMIT_BYTES <= size - start <= LINE_LIMIT_BYTES + 2 * BLOCK_BYTES + 100
        assert took_s < 60

    def test_many_lines_are_all_found(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_bytes(b"%099d\n" % 0 * 100_000)
        fd = os.open(path, os.O_RDONLY)
        assert start_of_last_lines(fd, 90_000) == 10_000 * 100
        os.close(fd)

    def test_the_start_of_a_line(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        path.write_bytes(b"one\ntwo\n" + b"x" * 200_000)
        fd = os.open(path, os.O_RDONLY)
        assert [start_of_line(fd, at) for at in (0, 2, 4, 6, 8, 1000, 150_000)] == [0, 0, 4, 4, 8, 8, 150_000]
        os.close(fd)


class TestIndex:
    def test_sizes_are_noted_as_they_grow(self, job: JobDir, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logindex, "LIST_EVERY_S", 0.0)
        index = LogIndex(job)
        began = time.time()
        write(job, "job.out", b"12345")
        index.tick(100.0)
        write(job, "job.out", b"678")
        index.tick(100.5)  # too early
        assert index.wait_s(100.5) == pytest.approx(0.5)
        write(job, "ranks/run_x/attempt_0/0/stdout.log", b"abc")
        index.tick(101.0)
        index.tick(102.0)  # nothing new
        rows = read_rows(index_path(job))
        assert [sizes for _, sizes in rows] == [
            {"job.out": 5}, {"job.out": 8, "ranks/run_x/attempt_0/0/stdout.log": 3}
        ]
        assert began <= rows[0][0] <= rows[1][0] <= time.time()
        LogIndex(job).tick(0.0)  # another supervisor, of the next attempt
        assert read_rows(index_path(job)) == rows

    def test_a_month_of_output_takes_little_and_is_found_by_its_age(self) -> None:
        now, rows = 3_000_000.0, []
        for second in range(int(now)):
            if second % 20 == 0:
                rows.append((float(second), {"job.out": second * 10}))
            if len(rows) >= 8192:
                rows = thinned(rows, float(second))
        rows = thinned(rows, now)
        assert len(rows) < 4096
        for age_s, within_s in ((60, 21), (600, 30), (86400, 800), (20 * 86400, 20_000)):
            early_s = (now - age_s) - sizes_at(rows, now - age_s)["job.out"] / 10
            assert 0 <= early_s <= within_s, age_s

    def test_thinning_never_says_more_than_there_was(self) -> None:
        rows = [(float(at), {"a": at} if at % 3 else {"b": at}) for at in range(5000)]
        thin = thinned(rows, 1e6)
        for at in range(0, 6000, 7):
            for name, size in sizes_at(thin, at).items():
                assert size <= sizes_at(rows, at)[name]
        assert sizes_at(thin, 1e9) == sizes_at(rows, 1e9)

    def test_it_is_written_anew_when_it_was_thinned(
        self, job: JobDir, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logindex, "THIN_AT_ROWS", 10)
        monkeypatch.setattr(logindex, "LIST_EVERY_S", 0.0)
        index = LogIndex(job)
        for at in range(100):
            write(job, "job.out")
            index.tick(float(at))
        rows = read_rows(index_path(job))
        assert len(rows) < 20
        assert rows[-1][1] == {"job.out": 200}
        assert os.listdir(job.path).count("logs.index.new") == 0

    @pytest.mark.parametrize(
        "line", [b"", b"x", b"{}", b"[]", b"[1]", b'["x", {}]', b"[1, 2]", b'[1, {"a": "x"}]', b"[" * 9000,
                 b'[NaN, {"a": 1e999}]', b"\xff\xfe"],
    )  # fmt: skip
    def test_rows_without_sense_are_left_out(self, job: JobDir, line: bytes) -> None:
        write(job, "logs.index", line + b'\n[5, {"job.out": 7}]\n')
        assert read_rows(index_path(job)) == [(5.0, {"job.out": 7})]

    def test_no_index_and_a_link_are_none(self, job: JobDir) -> None:
        assert read_rows(index_path(job)) == []
        os.symlink("/etc/passwd", index_path(job))
        assert read_rows(index_path(job)) == []
        write(job, "job.out")
        LogIndex(job).tick(0.0)  # and is not written through

    def test_a_clock_that_was_set_back_shows_too_much_not_too_little(self) -> None:
        rows = [(100.0, {"a": 1}), (200.0, {"a": 2}), (50.0, {"a": 3}), (60.0, {"a": 4})]
        assert sizes_at(rows, 55.0) == {}


class TestFollowing:
    def test_the_newest_attempt_and_the_next(self, served: Served) -> None:
        job_id = served.start("echo first; while [ ! -e go ]; do sleep 0.05; done")
        folder = served.folder(job_id)
        (folder / "job.1.out").write_text("second\n")
        with following(served, {"job_id": job_id, "lines": 10}) as process:
            stream = frames(process.stdout)
            header, content = next(stream)
            assert (header["attempt"], content) == (1, b"second\n")
            (folder / "job.2.out").write_text("third\n")
            header, content = next(stream)
            assert (header["attempt"], header["offset"], content) == (2, 0, b"third\n")
            (served.workdir / "go").touch()
        offsets = {"job.1.out": 7}
        with following(served, {"job_id": job_id, "offsets": offsets, "first_attempt": 1}) as process:
            assert texts(list(frames(process.stdout))) == {"job.2.out": b"third\n"}

    def test_the_supervisor_keeps_the_index(self, served: Served) -> None:
        job_id = served.start("echo old; while [ ! -e go ]; do sleep 0.05; done; echo new; sleep 0.5")
        path = served.folder(job_id) / "logs.index"
        until(lambda: path.exists() and path.read_text().endswith("\n"), "a row")
        [at, sizes] = json.loads(path.read_text())
        assert sizes == {"job.out": 4}
        until(lambda: time.time() > at + 1.2, "a second later")
        (served.workdir / "go").touch()
        served.wait(job_id)
        [first, *later] = map(json.loads, path.read_text().splitlines())
        assert first == [at, sizes]
        # Asked for between the two, however long the asking takes.
        rows = [[at - 1000, sizes], *([when, more] for when, more in later)]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        with following(served, {"job_id": job_id, "since_age_s": 500}) as process:
            assert texts(list(frames(process.stdout))) == {"job.out": b"new\n"}

    def test_what_was_not_written_since_is_not_shown(self, served: Served) -> None:
        job_id = served.start("echo old")
        served.wait(job_id)
        os.utime(served.folder(job_id) / "job.out", (1, 1))
        with following(served, {"job_id": job_id, "since_age_s": 60}) as process:
            assert texts(list(frames(process.stdout))) == {"job.out": b""}

    def test_without_an_index_it_says_so(self, served: Served) -> None:
        job_id = served.start("true")
        served.wait(job_id)
        (served.folder(job_id) / "job.out").write_bytes(b"line\n" * 50_000)
        (served.folder(job_id) / "logs.index").unlink(missing_ok=True)
        request = {"job_id": job_id, "since_age_s": 60, "lines": 2}
        with following(served, request, live=False) as process:
            found = list(frames(process.stdout))
        assert [header["note"] for header, _ in found if "note" in header]
        assert b"".join(content for _, content in found) == b"line\n" * 2

    def test_pipes_and_links_are_no_logs(self, served: Served) -> None:
        job_id = uuid.uuid4().hex
        folder = served.folder(job_id)
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text("{}")
        (folder / "exit.json").write_text(json.dumps({"state": "SUCCEEDED", "exit_code": 0}))
        os.mkfifo(folder / "job.out")
        (folder / "job.err").symlink_to("/etc/passwd")
        with following(served, {"job_id": job_id, "lines": -1}) as process:
            found = list(frames(process.stdout))
        assert [content for _, content in found] == [b""]
        assert found[0][0]["state"] == "SUCCEEDED"

    def test_a_reader_is_told_when_it_falls_quiet(self, served: Served) -> None:
        """And not only with the next of the regular signs of life: there are none here."""
        program = "import json, sys; from remote_launch.remote import follow; follow.PING_EVERY_S = 1e9; "
        program += "follow.follow(json.load(sys.stdin))"
        job_id = served.start("printf 'continue? '; exec sleep 600")
        request = {
            "workdir": str(served.workdir), "follow": True, "jobs": [{"job_id": job_id, "lines": -1}],
        }
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
            try:
                said = b""
                while said.count(b"\n") < 2:
                    assert select.select([process.stdout], [], [], 60)[0], said
                    said += process.stdout.read(65536)
            finally:
                process.kill()
        header, rest = said.split(b"\n", 1)
        assert json.loads(header)["length"] == len(b"continue? ")
        assert "ping" in json.loads(rest.removeprefix(b"continue? ")), said
