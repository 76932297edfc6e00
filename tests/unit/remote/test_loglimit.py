"""Logs that may not fill the disk."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from remote_launch.remote import loglimit
from remote_launch.remote.jobdir import JobDir
from remote_launch.remote.loglimit import LogLimit, dropped_bytes, next_data, punch
from tests.support.served import until
from tests.unit.remote.test_follow import following, frames, texts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served import Served

MIB = 1 << 20


@pytest.fixture
def job(tmp_path: Path) -> JobDir:
    probe = tmp_path / "probe"
    probe.write_bytes(b"x" * 8192)
    with probe.open("rb+") as file:
        try:
            punch(file.fileno(), 4096)
        except OSError as error:
            pytest.skip(f"no holes can be made here: {error}")
    folder = tmp_path / ("a" * 32)
    folder.mkdir()
    return JobDir(str(folder))


def blocks_bytes(path: str) -> int:
    return os.stat(path).st_blocks * 512


def test_the_oldest_part_goes_and_offsets_stay(job: JobDir) -> None:
    said: list[str] = []
    limit = LogLimit(job, MIB, said.append)
    content = b"".join(b"%015d\n" % number for number in range(4 * MIB // 16))
    with open(job.out, "ab") as writer:  # as the job has it: open all the time
        writer.write(content)
        writer.flush()
        limit.apply("job.out", len(content))
        writer.write(b"more\n")
    assert said == []
    assert blocks_bytes(job.out) <= MIB
    dropped = dropped_bytes(job)["job.out"]
    assert 3 * MIB < dropped < 3 * MIB + MIB // 2
    with open(job.out, "rb") as file:
        assert next_data(file.fileno(), 0, len(content)) == dropped
        assert next_data(file.fileno(), dropped + 5, len(content)) == dropped + 5
        file.seek(dropped)
        assert file.read() == content[dropped:] + b"more\n"
    again = LogLimit(job, MIB, said.append)  # another supervisor
    assert again.dropped == {"job.out": dropped}


def test_a_log_within_its_limit_is_left_alone(job: JobDir) -> None:
    limit = LogLimit(job, 2 * MIB, lambda _: None)
    with open(job.out, "wb") as file:
        file.write(b"x" * MIB)
    limit.apply("job.out", MIB)
    LogLimit(job, None, lambda _: None).apply("job.out", 100 * MIB)
    assert blocks_bytes(job.out) >= MIB
    assert not os.path.exists(os.path.join(job.path, "logs.dropped"))


def test_where_no_hole_can_be_made_it_is_said_once(job: JobDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int, __: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(loglimit, "punch", refuse)
    said: list[str] = []
    limit = LogLimit(job, MIB, said.append)
    with open(job.out, "wb") as file:
        file.write(b"x" * 2 * MIB)
    for _ in range(3):
        limit.apply("job.out", 2 * MIB)
    assert len(said) == 1
    assert "can't be shortened here" in said[0]


def test_a_link_is_not_followed(job: JobDir, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"x" * 2 * MIB)
    os.symlink(precious, job.out)
    LogLimit(job, MIB, lambda _: None).apply("job.out", 2 * MIB)
    assert precious.read_bytes() == b"x" * 2 * MIB


@pytest.mark.parametrize("content", ["[]", "x", '{"a": "b"}', '{"a": -1}', '{"a": 1.5}', '{"a": true}'])
def test_what_is_gone_by_a_file_without_sense(job: JobDir, content: str) -> None:
    with open(os.path.join(job.path, "logs.dropped"), "w") as file:
        file.write(content)
    assert dropped_bytes(job) == {}


@pytest.mark.usefixtures("job")
def test_a_job_that_writes_more_than_it_may(served: Served) -> None:
    script = (
        "for i in 1 2 3; do head -c 1000000 /dev/zero | tr '\\0' x | fold -w 99; echo part $i; "
        "while [ ! -e go$i ]; do sleep 0.05; done; done; echo end"
    )
    job_id = served.start(script, log_max_bytes=MIB)
    folder = served.folder(job_id)
    for part in (1, 2, 3):
        until(lambda part=part: f"part {part}\n" in served.out(job_id)[-20:], f"part {part}")  # type: ignore[misc]
        if part > 1:  # the supervisor looks each second
            until(lambda: blocks_bytes(str(folder / "job.out")) <= MIB, "less on the disk")
        (served.workdir / f"go{part}").touch()
    served.wait(job_id)
    with following(served, {"job_id": job_id, "lines": -1}) as process:
        found = list(frames(process.stdout))
    shown = texts(found)["job.out"]
    assert b"\0" not in shown
    assert shown.endswith(b"xpart 3\nend\n")
    assert found[0][0]["offset"] == json.loads((folder / "logs.dropped").read_text())["job.out"]
