"""Streaming logs: nothing lost, nothing twice, an end for every job."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from typing import IO, TYPE_CHECKING, Any

from remote_launch.remote import logfiles
from tests.support.served import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.support.served import Served


@contextlib.contextmanager
def following(served: Served, *jobs: dict[str, Any], live: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    process = served.popen("follow")
    process.stdin.write(
        json.dumps({"workdir": str(served.workdir), "jobs": list(jobs), "follow": live}).encode()
    )
    process.stdin.close()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def frames(stream: IO[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    while line := stream.readline():
        header = json.loads(line)
        content = stream.read(header.get("length", 0))
        if "ping" not in header:
            yield header, content


def texts(found: list[tuple[dict[str, Any], bytes]]) -> dict[str, bytes]:
    result: dict[str, bytes] = {}
    for header, content in found:
        if not header.get("end"):
            assert header["length"] == len(content) <= 65536
            result[header["file"]] = result.get(header["file"], b"") + content
    return result


def test_a_job_is_followed_to_its_end(served: Served) -> None:
    job_id = served.start("for i in 1 2 3 4 5; do echo $i; echo e$i >&2; sleep 0.1; done; exit 3")
    with following(served, {"job_id": job_id, "lines": -1}) as process:
        found = list(frames(process.stdout))
        assert process.wait(60) == 0
    assert texts(found) == {"job.out": b"1\n2\n3\n4\n5\n", "job.err": b"e1\ne2\ne3\ne4\ne5\n"}
    assert {
        (header["stream"], header["rank"]) for header, _ in found[:-1]
    } == {("stdout", None), ("stderr", None)}
    assert found[-1][0] == {
        "end": True, "job": job_id, "state": "FAILED", "exit_code": 3, "signal": None,
        "reason": "exited with 3",
    }


def test_who_waits_for_the_end_alone_is_sent_no_line(served: Served) -> None:
    """5 GB of output would come to rl job-wait otherwise, to be thrown away."""
    job_id = served.start("seq 1000; until [ -e go ]; do sleep 0.05; done; seq 1000; exit 3")
    with following(served, {"job_id": job_id, "ranks": [], "launcher": False, "lines": 0}) as process:
        (served.workdir / "go").touch()
        found = list(frames(process.stdout))
        assert process.wait(60) == 0
    assert [(header.get("end"), header.get("exit_code")) for header, _ in found] == [(True, 3)]


def test_a_file_that_was_emptied_says_so(served: Served) -> None:
    job_id = served.start("echo old old; while [ ! -e go ]; do sleep 0.05; done; echo new")
    out = served.folder(job_id) / "job.out"
    until(lambda: out.stat().st_size, "the first line")
    with following(served, {"job_id": job_id, "lines": -1}) as process:
        found = frames(process.stdout)
        assert next(found)[1] == b"old old\n"
        os.truncate(out, 0)
        (served.workdir / "go").touch()
        header, content = next(found)
    assert (header["emptied"], header["offset"], content) == (True, 0, b"new\n")


def test_a_broken_stream_resumes_without_loss_or_repetition(served: Served) -> None:
    job_id = served.start(
        "i=0; while [ $i -lt 4000 ]; do echo line-$i; i=$((i+1)); [ $((i % 500)) -eq 0 ] && sleep 0.05; done"
    )
    offsets: dict[str, int] = {}
    got: dict[str, bytes] = {}
    ended = False
    while not ended:
        with following(served, {"job_id": job_id, "offsets": offsets, "lines": -1}) as process:
            for count, (header, content) in enumerate(frames(process.stdout)):
                if header.get("end"):
                    ended = True
                    break
                name = header["file"]
                assert header["offset"] == offsets.get(name, 0)
                offsets[name] = header["offset"] + header["length"]
                got[name] = got.get(name, b"") + content
                if count == 2:
                    break  # the connection breaks here
    assert got == {"job.out": "".join(f"line-{i}\n" for i in range(4000)).encode()}


def test_the_last_lines_of_a_huge_file_are_there_at_once(served: Served) -> None:
    job_id = served.start("true")
    served.wait(job_id)
    with open(served.folder(job_id) / "job.out", "wb") as file:
        file.seek(1 << 40)  # with holes; to read it takes minutes
        file.write(b"\n" + b"".join(b"%d\n" % n for n in range(1000)))
    at = time.monotonic()
    with following(served, {"job_id": job_id, "lines": 3}) as process:
        assert texts(list(frames(process.stdout)))["job.out"] == b"997\n998\n999\n"
    # One "line" of a terabyte: cut, not read.
    with following(served, {"job_id": job_id, "lines": 1002}) as process:
        content = texts(list(frames(process.stdout)))["job.out"]
    assert content.endswith(b"999\n")
    assert len(content) < 8 << 20
    assert time.monotonic() - at < 120
    os.unlink(served.folder(job_id) / "job.out")


def test_a_file_of_which_nothing_was_shown_yet_is_not_repeated_on_resuming(served: Served) -> None:
    job_id = served.start("echo old; echo old >&2; exec sleep 600")
    until(lambda: (served.folder(job_id) / "job.err").stat().st_size, "both lines")
    with following(served, {"job_id": job_id, "lines": 0}, live=False) as process:
        offsets = {
            header["file"]: header["offset"] for header, _ in frames(process.stdout) if "file" in header
        }
    assert offsets == {"job.out": 4, "job.err": 4}


def test_ranks_are_global_and_can_be_chosen(served: Served) -> None:
    job_id = uuid.uuid4().hex
    folder = served.folder(job_id)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"torchrun": ["x.py"], "first_rank": 4}))
    (folder / "job.out").write_text("torchrun itself\n")
    (folder / "exit.json").write_text(json.dumps({"state": "SUCCEEDED", "exit_code": 0}))
    for local_rank in range(2):
        logs = folder / "ranks" / "run_x" / "attempt_0" / str(local_rank)
        logs.mkdir(parents=True)
        (logs / "stdout.log").write_text(f"out {local_rank}\n")
        (logs / "stderr.log").write_text("")
        (logs / "error.json").write_text("{}")
    with following(served, {"job_id": job_id}) as process:
        found = list(frames(process.stdout))
    assert {(header["rank"], content) for header, content in found[:-1]} == {(4, b"out 0\n"), (5, b"out 1\n")}
    with following(served, {"job_id": job_id, "ranks": [5], "launcher": True}) as process:
        found = list(frames(process.stdout))
    assert {
        (header["rank"], content) for header, content in found[:-1]
    } == {(5, b"out 1\n"), (None, b"torchrun itself\n")}
    assert found[-1][0]["state"] == "SUCCEEDED"


def test_without_follow_it_ends_though_the_job_runs(served: Served) -> None:
    job_id = served.start("echo started; exec sleep 600")
    until(lambda: served.out(job_id), "the first line")
    unknown = uuid.uuid4().hex
    with following(served, {"job_id": job_id}, {"job_id": unknown}, live=False) as process:
        found = list(frames(process.stdout))
        assert process.wait(60) == 0
    assert texts(found) == {"job.out": b"started\n"}
    ends = {header["job"]: header["state"] for header, _ in found if header.get("end")}
    assert ends == {job_id: "RUNNING", unknown: None}


def test_it_ends_when_nobody_reads_any_more(served: Served) -> None:
    job_id = served.start("exec sleep 600")
    process = served.popen("follow")
    process.stdin.write(
        json.dumps({"workdir": str(served.workdir), "jobs": [{"job_id": job_id}], "follow": True}).encode()
    )
    process.stdin.close()
    until(lambda: os.path.exists(f"/proc/{process.pid}/fd/3"), "it has opened the log")
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_lost_job_ends_its_stream(served: Served) -> None:
    job_id = served.start("echo bye; exec sleep 600")
    until(lambda: served.out(job_id), "the first line")
    with following(served, {"job_id": job_id}) as process:
        os.kill(served.read(job_id, "started.json")["supervisor_pid"], 9)
        found = list(frames(process.stdout))
    assert texts(found) == {"job.out": b"bye\n"}
    assert found[-1][0]["state"] == "LOST"


def test_where_the_last_lines_start(tmp_path) -> None:
    path = tmp_path / "log"
    small = [b"", b"\n", b"a", b"a\n", b"a\nb", b"a\nb\n", b"\n\n\n"]
    for content in (*small, b"x" * 70000 + b"\n" + b"y" * 70000, b"line\n" * 40000):
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY)
        for lines in (0, 1, 2, 3, 39999, 40001):
            expected = b"".join(content.splitlines(keepends=True)[-lines:]) if lines else b""
            assert content[logfiles.start_of_last_lines(fd, lines):] == expected, (content[:20], lines)
        os.close(fd)


def test_a_rest_between_two_attempts_is_told_once(served: Served) -> None:
    shell = "echo $RL_ATTEMPT; while [ ! -e go ]; do sleep 0.05; done; [ $RL_ATTEMPT = 3 ]"
    job_id = served.start(shell, max_restarts=3)
    found = []
    with following(served, {"job_id": job_id, "lines": -1}) as process:
        for header, _ in frames(process.stdout):
            found.append(header)
            (served.workdir / "go").touch()  # now that it follows
    told = [header["next_attempt"] for header in found if "next_attempt" in header]
    # They last 1, 2 and 4 seconds: on a busy machine one may be over before it is seen.
    rests = {number: f"restart {number} of 3" for number in (1, 2, 3)}
    numbers = [one["attempt"] for one in told]
    assert numbers
    assert numbers == sorted(set(numbers)), told  # each once, and in their order
    assert {one["attempt"]: one["words"] for one in told} == {number: rests[number] for number in numbers}
    assert {one["why"] for one in told} == {"the command on s0 exited with 1"}
    assert all(0 <= one["in_s"] <= 2 ** (one["attempt"] - 1) for one in told), told
