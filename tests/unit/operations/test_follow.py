"""Following jobs on servers that cut, repeat, lie and go away."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.inventory import Server
from remote_launch.core.jobs import JobRecord
from remote_launch.errors import AuthenticationError, CommandError, ConnectionLostError, JobError
from remote_launch.operations import follow as module
from remote_launch.operations.follow import Follower, JobEnd, LogLine, Notice, Rest, Selection
from remote_launch.transport.base import Completed

if TYPE_CHECKING:
    from collections.abc import Callable

JOB = "a" * 32
END = {"end": True, "job": JOB, "state": "SUCCEEDED", "exit_code": 0, "signal": None, "reason": None}


def frame(header: dict[str, Any], body: bytes = b"") -> bytes:
    return json.dumps({**header, "length": len(body)} if body else header).encode() + b"\n" + body


def chunk(body: bytes, offset: Any = 0, **more: Any) -> bytes:
    header = {"job": JOB, "file": "job.out", "stream": "stdout", "rank": None, "offset": offset}
    return frame({**header, **more}, body)


class FakeFleet:
    """Answers each connection of a server with the next of its scripts: bytes, then an end or an error."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = list(scripts)
        self.requests: list[dict[str, Any]] = []
        self.cancelled = threading.Event()

    def server(self, name: str) -> Server:
        return Server(name=name, workdir="/w")

    def cancel(self) -> None:
        self.cancelled.set()

    def stream(
        self, _: Any, server: Server, verb: str, request: dict[str, Any], on_stdout: Callable[[bytes], None]
    ) -> Completed:
        assert verb == "follow"
        self.requests.append(json.loads(json.dumps(request)))
        for step in self.scripts.pop(0):
            if isinstance(step, Completed):
                return step
            if isinstance(step, BaseException):
                raise step
            if step is WAIT:
                assert self.cancelled.wait(60)
                raise KeyboardInterrupt
            on_stdout(step)
        return Completed(server=server.name, command="rl follow", exit_code=0)


WAIT = object()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "_RECONNECT_S", (0.0,))

    def start(
        *scripts: list[Any], until_end: bool = True, selection: Selection | None = None
    ) -> tuple[list[Any], FakeFleet]:
        fleet = FakeFleet(*scripts)
        monkeypatch.setattr(module, "stream", fleet.stream)
        job = JobRecord(job_id=JOB, server="s", command="c")
        chosen = selection or Selection()
        return list(Follower(fleet, [job], chosen, until_end=until_end)), fleet  # type: ignore[arg-type]

    return start


def texts(events: list[Any]) -> list[str]:
    return [event.text for event in events if isinstance(event, LogLine)]


class TestLines:
    def test_lines_then_the_end(self, run: Any) -> None:
        events, _ = run([chunk(b"one\ntw"), chunk(b"o\n", 6), frame(END)])
        assert texts(events) == ["one", "two"]
        assert isinstance(events[-1], JobEnd)
        assert (events[-1].state, events[-1].exit_code) == ("SUCCEEDED", 0)

    def test_an_unfinished_line_is_shown_before_the_end(self, run: Any) -> None:
        events, _ = run([chunk(b"no newline"), frame(END)])
        assert [type(event) for event in events] == [LogLine, JobEnd]
        assert texts(events) == ["no newline"]

    def test_ranks_and_streams_are_told(self, run: Any) -> None:
        events, _ = run([chunk(b"x\n", file="ranks/1/stderr.log", stream="stderr", rank=3), frame(END)])
        assert (events[0].rank, events[0].stream) == (3, "stderr")

    def test_every_cut_of_the_stream_gives_the_same(self, run: Any) -> None:
        stream = (
            b"motd\n" + chunk("élan\n🚀".encode()) + frame({"ping": 1.0}) + chunk(b"!\n", 10) + frame(END)
        )
        whole, _ = run([stream])
        assert texts(whole) == ["élan", "🚀!"]
        for cut in range(1, len(stream)):
            assert run([stream[:cut], stream[cut:]])[0] == whole


class TestReconnect:
    LOST = ConnectionLostError("s", "the connection was lost")

    def test_goes_on_at_the_byte_where_it_broke(self, run: Any) -> None:
        events, fleet = run([chunk(b"one\ntw"), self.LOST], [chunk(b"o\n", 6), frame(END)])
        assert texts(events) == ["one", "two"]
        assert [request["jobs"][0]["offsets"] for request in fleet.requests] == [{}, {"job.out": 6}]
        assert [event.text for event in events if isinstance(event, Notice)] != []

    def test_what_is_sent_twice_is_shown_once(self, run: Any) -> None:
        again = [chunk(b"one\ntwo\nthree\n"), chunk(b"two\n", 4), frame(END)]
        events, _ = run([chunk(b"one\ntwo\n"), self.LOST], again)
        assert texts(events) == ["one", "two", "three"]

    def test_a_file_that_was_emptied_is_shown_anew(self, run: Any) -> None:
        again = [chunk(b"three\n", emptied=True), chunk(b"four\n", 6), frame(END)]
        events, fleet = run([chunk(b"one\ntwo\n"), self.LOST], again)
        assert texts(events) == ["one", "two", "three", "four"]
        assert fleet.requests[1]["jobs"][0]["offsets"] == {"job.out": 8}

    def test_lines_on_both_sides_of_what_is_gone_are_two(self, run: Any) -> None:
        events, _ = run([chunk(b"one\ntw"), chunk(b"enty\n", 90_000), frame(END)])
        assert texts(events) == ["one", "tw", "enty"]
        [said] = [event.text for event in events if isinstance(event, Notice)]
        assert said == "job 0: 0.1 MB of job.out were given back before they came here (log_max_bytes)"

    def test_a_frame_cut_by_the_break_is_forgotten(self, run: Any) -> None:
        whole = chunk(b"one\n")
        for cut in range(len(whole)):
            events, _ = run([whole[:cut], self.LOST], [whole, frame(END)])
            assert texts(events) == ["one"]

    def test_a_stream_that_ends_early_is_taken_up_again(self, run: Any) -> None:
        killed = Completed(server="s", command="rl follow", exit_code=None, signal="TERM")
        events, _ = run([chunk(b"one\n")], [killed], [chunk(b"two\n", 4), frame(END)])
        assert texts(events) == ["one", "two"]

    def test_who_resumes_asks_for_the_attempt_that_was_shown_and_for_lines_as_old_as_before(
        self, run: Any
    ) -> None:
        events, fleet = run(
            [chunk(b"one\n", file="job.2.out", attempt=2), self.LOST],
            [chunk(b"two\n", file="job.3.out", attempt=3), frame(END)],
            selection=Selection(since_age_s=600),
        )
        assert [(event.text, event.attempt) for event in events if isinstance(event, LogLine)] == [
            ("one", 2), ("two", 3)
        ]  # fmt: skip
        first, again = (request["jobs"][0] for request in fleet.requests)
        assert (first["first_attempt"], again["first_attempt"]) == (None, 2)
        assert 600 <= first["since_age_s"] <= again["since_age_s"] < 700

    def test_jobs_that_have_ended_are_not_asked_again(self, run: Any) -> None:
        _, fleet = run([frame(END)])
        assert len(fleet.requests) == 1


class TestFailures:
    def test_a_refused_login_is_final(self, run: Any) -> None:
        events, fleet = run([AuthenticationError("s", "denied", hint="ssh-add")])
        assert isinstance(events[0], Notice)
        assert isinstance(events[0].error, AuthenticationError)
        assert len(fleet.requests) == 1

    def test_a_refusal_of_the_program_is_final(self, run: Any) -> None:
        refused = {"error": {"type": "RequestError", "message": "no such job", "hint": "rl job-list"}}
        events, _ = run([json.dumps(refused).encode() + b"\n"])
        assert isinstance(events[0].error, JobError)
        assert "no such job" in events[0].text

    @pytest.mark.parametrize("until_end", [True, False])
    def test_a_program_that_crashes_is_final(self, run: Any, until_end: bool) -> None:
        stderr = b"Traceback\nZeroDivisionError\n"
        crashed = Completed(server="s", command="rl follow", exit_code=1, stderr=stderr)
        events, _ = run([crashed], until_end=until_end)
        assert isinstance(events[0].error, CommandError)
        assert "ZeroDivisionError" in events[0].text

    def test_a_bug_is_raised(self, run: Any) -> None:
        with pytest.raises(ZeroDivisionError):
            run([ZeroDivisionError()])


BAD_CHUNKS = [
    {"offset": 10**30}, {"file": "x" * 2000},
    {"offset": "x"}, {"offset": -1}, {"offset": None}, {"offset": 1.5}, {"offset": True}, {"offset": []},
    {"file": None}, {"file": 3}, {"file": ["x"]},
    {"job": "b" * 32}, {"job": None}, {"job": {"x": 1}}, {"job": [JOB]},
]  # fmt: skip


class TestHostileServers:
    @pytest.mark.parametrize("bad", BAD_CHUNKS)
    def test_a_frame_without_sense_is_skipped(self, run: Any, bad: dict[str, Any]) -> None:
        events, _ = run([chunk(b"bad\n", **bad), chunk(b"good\n"), frame(END)])
        assert texts(events) == ["good"]

    @pytest.mark.parametrize("gone", ["file", "offset", "job"])
    def test_a_frame_without_a_part_is_skipped(self, run: Any, gone: str) -> None:
        header = {"job": JOB, "file": "job.out", "offset": 0}
        del header[gone]
        events, _ = run([frame({"ping": 1, **header}, b"bad\n"), chunk(b"good\n"), frame(END)])
        assert texts(events) == ["good"]

    @pytest.mark.parametrize("length", [-1, 10**12, "5", None, [], True, 1.5])
    def test_lengths(self, run: Any, length: Any) -> None:
        header = json.dumps({"job": JOB, "file": "f", "offset": 0, "length": length}).encode() + b"\n"
        events, _ = run([header, chunk(b"good\n"), frame(END)])
        assert texts(events) == ["good"]

    @pytest.mark.parametrize("rank", ["3", -1.5, {}, [], -1, 10**30, True])
    def test_ranks(self, run: Any, rank: Any) -> None:
        events, _ = run([chunk(b"x\n", rank=rank, attempt=rank, stream={"x": 1}), frame(END)])
        assert (events[0].rank, events[0].attempt, events[0].stream) == (None, 0, "stdout")

    def test_files_without_number_take_no_memory(self, run: Any) -> None:
        many = [chunk(b"x\n", file=f"job.{number}.out") for number in range(module._MOST_FILES + 50)]
        events, _ = run([b"".join(many), frame(END)])
        assert len(texts(events)) == module._MOST_FILES

    def test_a_note_is_a_notice(self, run: Any) -> None:
        events, _ = run([frame({"job": JOB, "note": "no times"}), frame({"job": JOB, "note": 3}), frame(END)])
        assert [event.text for event in events if isinstance(event, Notice)] == ["job 0: no times"]

    def test_a_rest_has_a_shape_or_is_none(self, run: Any) -> None:
        told = [{"attempt": 1, "words": "restart 1 of 3", "in_s": 2}, {"attempt": 1}, {"in_s": 1}, "x", 7]
        told[0]["why"] = "rank 3 failed"
        told += [{"attempt": 1, "in_s": float("nan")}, {"attempt": -1, "in_s": 1}]
        told += [{"attempt": 1, "in_s": "1"}]
        events, _ = run([*(frame({"job": JOB, "next_attempt": one}) for one in told), frame(END)])
        rests = [event for event in events if isinstance(event, Rest)]
        assert [(one.attempt, one.words, one.in_s) for one in rests] == [(1, "restart 1 of 3", 2.0)]
        assert rests[0].why == "rank 3 failed"

    def test_an_end_of_any_shape_ends(self, run: Any) -> None:
        events, _ = run([frame({**END, "state": [], "exit_code": "0", "signal": 9, "reason": {"x": 1}})])
        assert isinstance(events[0], JobEnd)
        assert events[0].exit_code is None
        assert isinstance(events[0].reason, str)

    @pytest.mark.parametrize("error", ["text", 3, None, [], {}, {"message": {"x": 1}, "hint": 4, "type": []}])
    def test_errors_of_any_shape(self, run: Any, error: Any) -> None:
        events, _ = run([json.dumps({"error": error}).encode() + b"\n"])
        assert isinstance(events[0].error, JobError)

    def test_lines_after_the_end_are_not_shown(self, run: Any) -> None:
        events, _ = run([frame(END), chunk(b"late\n")])
        assert texts(events) == []


def test_closing_it_ends_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FakeFleet([chunk(b"one\n"), WAIT])
    monkeypatch.setattr(module, "stream", fleet.stream)
    events = Follower(fleet, [JobRecord(job_id=JOB, server="s", command="c")], Selection())  # type: ignore[arg-type]
    assert isinstance(next(events), LogLine)
    events.close()
    assert fleet.cancelled.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rl-follow")]


def test_once_over_what_is_there_now(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    running = {**END, "state": "RUNNING", "exit_code": None}
    events, fleet = run([chunk(b"one\n"), frame(running)], until_end=False)
    assert texts(events) == ["one"]
    assert fleet.requests[0]["follow"] is False


def test_all_jobs_and_ranks_of_a_server_share_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"{number:032x}" for number in range(16)]
    fleet = FakeFleet(*([frame({**END, "job": one}) for one in ids] for _ in range(2)))
    monkeypatch.setattr(module, "stream", fleet.stream)
    jobs = [JobRecord(job_id=one, server=f"s{number % 2}", command="c") for number, one in enumerate(ids)]
    events = list(Follower(fleet, jobs, Selection()))  # type: ignore[arg-type]
    assert len(events) == 16
    assert [len(request["jobs"]) for request in fleet.requests] == [8, 8]


def test_it_says_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REST_S", 0.01)
    fleet = FakeFleet([chunk(b"one\n"), WAIT])
    monkeypatch.setattr(module, "stream", fleet.stream)
    job = JobRecord(job_id=JOB, server="s", command="c")
    rested: list[int] = []

    def on_rest() -> None:
        rested.append(1)
        fleet.cancel()

    assert texts(list(Follower(fleet, [job], Selection(), on_rest=on_rest))) == ["one"]  # type: ignore[arg-type]
    assert rested
