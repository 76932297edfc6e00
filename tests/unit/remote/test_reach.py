"""Who reaches whom: every server listens and connects, and nothing stays."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import gauge, preflight, reach
from tests.support.ports import free_port
from tests.support.served import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.support.served import Served

TOKEN = "t" * 32
LIMIT_S = 50.0  # a try ends as soon as all have come


class Try:
    """Two servers, s0 and s1, on loopback, and what each told."""

    def __init__(self, servers: list[Served]) -> None:
        self.servers = servers
        self.ports = [[free_port(), free_port()] for _ in servers]

    def request(self, number: int, mode: str = "reach", **changes: Any) -> dict[str, Any]:
        other = 1 - number
        return {
            "server": f"s{number}", "token": TOKEN, "limit_s": LIMIT_S, "listen": self.ports[number],
            "expect": [[f"s{other}", port] for port in self.ports[number]],
            "connect": [
                {"server": f"s{other}", "address": "127.0.0.1", "port": port, "mode": mode}
                for port in self.ports[other]
            ],
            **changes,
        }

    def run(self, *requests: dict[str, Any]) -> list[dict[str, Any]]:
        answers: list[Any] = [None] * len(requests)

        def ask(number: int, request: dict[str, Any]) -> None:
            answers[number] = self.servers[number].call("reach", **request)

        threads = [threading.Thread(target=ask, args=one) for one in enumerate(requests)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    @contextlib.contextmanager
    def listener(self, number: int, **changes: Any) -> Iterator[subprocess.Popen[bytes]]:
        """For the length of a ``with``: a server that listens, and connects to nobody."""
        server = self.servers[number]
        request = {**self.request(number, connect=[], **changes), "workdir": str(server.workdir)}
        with server.popen("reach") as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
            try:
                yield process
            finally:
                process.kill()


def greet(listener: socket.socket, greeting: bytes) -> None:
    with listener.accept()[0] as sock:
        sock.sendall(greeting)


@pytest.fixture
def attempt(nodes: list[Served]) -> Try:
    return Try(nodes)


def outcomes(answer: dict[str, Any]) -> list[str]:
    return [link["outcome"] for link in answer["links"]]


def test_each_reaches_the_other(attempt: Try) -> None:
    started = time.monotonic()
    answers = attempt.run(attempt.request(0), attempt.request(1))
    assert [outcomes(answer) for answer in answers] == [["reached"] * 2] * 2
    assert [len(answer["heard"]) for answer in answers] == [2, 2]
    assert all(answer["taken"] == {} for answer in answers)
    assert time.monotonic() - started < 45.0, "it ends as soon as all have come, not when the time is up"
    for ports in attempt.ports:
        for port in ports:
            listener = socket.socket()  # without SO_REUSEADDR: nothing of the try lingers on it
            listener.bind(("", port))
            listener.close()


def test_ports_are_offered_as_those_of_a_launch(attempt: Try) -> None:
    probe, meeting = attempt.servers[0].call("reach", ask_ports=True)["ports"]
    assert 20000 <= meeting < 32000, "as rl's own"
    assert preflight._is_of_the_kernels_range(probe)


def test_what_is_measured(attempt: Try) -> None:
    answers = attempt.run(*(attempt.request(number, "ping") for number in (0, 1)))
    for link in answers[0]["links"]:
        assert 0 < link["rtt_ms"] < 10_000
        assert link["connect_ms"] > 0
        assert link["mtu"] > 10_000  # loopback's

    def rates() -> list[int]:
        answers = attempt.run(*(attempt.request(number, "bulk", in_turn=True) for number in (0, 1)))
        assert [len(answer["heard"]) for answer in answers] == [2, 2]
        return [link.get("bytes_per_s", 0) for answer in answers for link in answer["links"]]

    # A machine that stands still for seconds in this tenth of one has measured nothing.
    until(lambda: min(rates()) > 10_000, "a measurement")


@pytest.mark.parametrize(("mode", "measure"), [("ping", "ping"), ("bulk", "give_bulk")])
def test_only_of_many_bytes_is_it_said_that_they_do_not_arrive(
    monkeypatch: pytest.MonkeyPatch, mode: str, measure: str
) -> None:
    """Who is slow to answer a single byte may just be standing still."""

    def too_late(*_: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(reach, measure, too_late)
    there, here = (reach._Attempt({"token": TOKEN, "server": name, "limit_s": 60.0}) for name in ("s1", "s0"))
    link: dict[str, Any] = {"to": "s1", "mode": mode}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as sock:
            serving = threading.Thread(target=there._serve, args=(listener.accept()[0], 1))
            serving.start()
            here._meet(sock, link)
        serving.join()
    assert (link["outcome"], link["said"]) == ("reached", "timed out")
    assert link.get("stalled", False) is (mode == "bulk")


def test_slow_answers_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten that each come just in time would take longer than the whole call may."""
    now = 0.0

    def answer(_: int) -> bytes:
        nonlocal now
        now += gauge.ANSWER_S - 1
        return b"."

    monkeypatch.setattr(gauge, "time", SimpleNamespace(monotonic=lambda: now))
    sock: Any = SimpleNamespace(settimeout=lambda _: None, sendall=lambda _: None, recv=answer)
    assert gauge.ping(sock) == (gauge.ANSWER_S - 1) * 1000
    assert now < 2 * gauge.ANSWER_S


def test_who_is_not_there_is_refused_when_the_time_is_up(attempt: Try) -> None:
    (answer,) = attempt.run(attempt.request(0, limit_s=0.3))
    assert outcomes(answer) == ["refused"] * 2
    assert answer["heard"] == []


def test_who_was_too_busy_to_try_in_time_tries_once() -> None:
    """That its time was up says nothing of the way."""
    mine = reach._Attempt({"token": TOKEN, "server": "s0", "limit_s": 1.0})
    mine.deadline = time.monotonic() - 5
    target = {"to": "s1", "address": "127.0.0.1", "mode": "reach"}
    assert mine._connect({**target, "port": free_port()})["outcome"] == "refused"
    other = reach._Attempt({"token": TOKEN, "server": "s1", "limit_s": 1.0})
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=lambda: other._serve(door.accept()[0], 1), daemon=True).start()
        assert mine._connect({**target, "port": door.getsockname()[1]})["outcome"] == "reached"


def test_a_wrong_token_is_not_reached(attempt: Try) -> None:
    wrong = "x" * 32
    mine = attempt.ports[1]
    with attempt.listener(1, token=wrong, expect=[["s9", port] for port in mine]) as listening:
        (answer,) = attempt.run(attempt.request(0, expect=[]))
        assert outcomes(answer) == ["other"] * 2
        # One that has its token comes through, and it has heard of nobody else.
        (answer,) = attempt.run(attempt.request(0, token=wrong, server="s9", expect=[]))
        assert outcomes(answer) == ["reached"] * 2
        assert listening.stdout is not None
        told = json.loads(listening.stdout.read())
    assert told["heard"] == sorted(["s9", port] for port in mine)


@pytest.mark.parametrize("greeting", [b"220 mail\n", b"[" * 4000 + b"\n", b"x" * 9000])
def test_what_another_program_says_is_no_way(attempt: Try, greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        target = {"server": "s1", "address": "127.0.0.1", "port": port, "mode": "reach"}
        threading.Thread(target=greet, args=(stranger, greeting)).start()
        (answer,) = attempt.run(attempt.request(0, connect=[target], expect=[]))
    assert outcomes(answer) == ["other"]


def test_too_many_at_once_are_no_end_of_listening() -> None:
    mine = reach._Attempt({"token": TOKEN, "server": "s0", "limit_s": 1.0})
    came = iter([OSError(errno.EMFILE, "Too many open files"), (object(), None), KeyboardInterrupt()])
    served = []

    def accept() -> object:
        one = next(came)
        if isinstance(one, BaseException):
            raise one
        return one

    mine._serve = lambda sock, _: served.append(sock)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        mine.welcome(SimpleNamespace(accept=accept), 1)  # type: ignore[arg-type]
    assert len(served) == 1


def test_another_server_at_the_address_is_told_by_its_name(attempt: Try) -> None:
    asked = attempt.request(0, expect=[])
    asked["connect"] = [{**target, "server": "s7"} for target in asked["connect"]]
    with attempt.listener(1):
        (answer,) = attempt.run(asked)
    assert outcomes(answer) == ["other"] * 2
    assert answer["links"][0]["said"] == "s1"


def test_a_port_that_is_taken_is_said(attempt: Try) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        (answer,) = attempt.run(attempt.request(0, listen=[port], connect=[], expect=[["s1", port]]))
    assert answer["taken"] == {str(port): "Address already in use"}


@pytest.mark.parametrize("address", ["no-such-host.invalid", ""])
def test_an_address_that_is_none(attempt: Try, address: str) -> None:
    target = {"server": "s1", "address": address, "port": free_port(), "mode": "reach"}
    (answer,) = attempt.run(attempt.request(0, connect=[target], expect=[], limit_s=0.5))
    assert outcomes(answer)[0] in ("unresolved", "refused", "failed")


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "short"}, {"limit_s": 1e9}, {"limit_s": None}, {"connect": [{}]}, {"expect": [1]},
        {"listen": ["x"]},
        {"connect": [{"server": "s1", "address": "127.0.0.1", "port": 1, "mode": "shell"}]},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(attempt: Try, changes: dict[str, Any]) -> None:
    (answer,) = attempt.run(attempt.request(0, **changes))
    assert answer["error"]["type"] == "RequestError"


def test_it_ends_when_nobody_reads_any_more(attempt: Try) -> None:
    with attempt.listener(0) as listening:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", attempt.ports[0][0]), timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert listening.stdout is not None
        listening.stdout.close()
        listening.wait(LIMIT_S - 15)
