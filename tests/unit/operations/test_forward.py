from __future__ import annotations

import dataclasses
import os
import platform
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.forwards import ForwardBook, ForwardRecord
from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.project import Project
from remote_launch.errors import AuthenticationError, ConnectTimeoutError, HostKeyError, UsageError
from remote_launch.operations import forward, kept_forwards
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.forward import Ports, hold, listening_addresses, local_port, parse_ports
from remote_launch.operations.kept_forwards import list_forwards, stop_forwards

if TYPE_CHECKING:
    from pathlib import Path

V4 = "   0: 0100007F:1766 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 1 1\n"
V6 = "   1: 0000000000000000FFFF00000A00000A:1766 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0\n"


class TestPorts:
    @pytest.mark.parametrize(
        ("text", "local", "remote"),
        [("6006", None, 6006), ("16006:6006", 16006, 6006), (":6006", 0, 6006), ("0:6006", 0, 6006)],
    )
    def test_what_is_meant(self, text: str, local: int | None, remote: int) -> None:
        assert parse_ports(text) == Ports(local=local, remote=remote)

    @pytest.mark.parametrize("text", ["", "x", "6006:", "0", "70000", "70000:80", "1:2:3", "١٢", "-1"])
    def test_what_makes_no_sense(self, text: str) -> None:
        with pytest.raises(UsageError):
            parse_ports(text)

    def test_the_next_one_that_is_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forward, "port_is_free", lambda port: port not in (80, 6006, 6007))
        assert local_port(Ports(local=None, remote=6005)) == 6005
        assert local_port(Ports(local=None, remote=6006)) == 6008
        assert local_port(Ports(local=None, remote=6006), wish=7000) == 7000
        assert local_port(Ports(local=None, remote=80)) == 8080
        with pytest.raises(UsageError, match="port 6007 is taken"):
            local_port(Ports(local=6007, remote=1))
        monkeypatch.setattr(forward, "port_is_free", lambda _: False)
        assert local_port(Ports(local=None, remote=6006)) > 1023


def test_who_listens_on_a_server() -> None:
    assert listening_addresses(V4 + V6 + "noise\n") == ["127.0.0.1", "10.0.0.10"]
    assert listening_addresses("") == []


class Connection:
    """A transport whose looks and tries are told beforehand."""

    def __init__(self, looks: list[bool], tries: list[Exception | None]) -> None:
        self.looks, self.tries = looks, tries

    def is_open(self) -> bool:
        if not self.looks:
            raise KeyboardInterrupt
        return self.looks.pop(0)

    def connect(self) -> None:
        error = self.tries.pop(0)
        if error is not None:
            raise error


RECORD = ForwardRecord(
    server="s", local_port=6006, remote_port=6006, started_at=1.0, machine=platform.node(),
    pid=os.getpid(), background=False,
)  # fmt: skip


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    (tmp_path / ".remote").mkdir()
    project = Project(root=tmp_path)
    servers = {"s": Server(name="s", workdir="~/proj")}
    inventory = Inventory(name="p", servers=servers, sync=Sync(), path=project.config, project=project)
    return Fleet(project, inventory)


class TestHold:
    @pytest.fixture
    def held(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Any:
        def run(connection: Connection, *, nap_s: float = 0) -> list[str]:
            clock = [0.0]
            monkeypatch.setattr(forward.time, "time", lambda: clock[0])
            monkeypatch.setattr(
                forward.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds + nap_s)
            )
            fleet._transports["s"] = connection  # type: ignore[assignment]
            said: list[str] = []
            with pytest.raises((KeyboardInterrupt, HostKeyError)):
                hold(fleet, RECORD, said.append)
            return said

        return run

    def test_says_nothing_while_it_stands(self, held: Any) -> None:
        assert held(Connection([True, True, True], [])) == []

    def test_tries_until_it_is_back_and_says_each_reason_once(self, held: Any) -> None:
        away = [ConnectTimeoutError("s", "no answer"), ConnectTimeoutError("s", "no answer")]
        said = held(Connection([True, False], [*away, AuthenticationError("s", "no key"), None]))
        assert said == [
            "the connection to s is lost; trying again until Ctrl-C",
            "s: no answer",
            "s: no key",
            "connected again: http://127.0.0.1:6006",
        ]

    def test_after_a_sleep_it_asks_the_server(self, held: Any) -> None:
        connection = Connection([True], [None])
        assert held(connection, nap_s=3600) == []
        assert connection.tries == []

    @pytest.mark.parametrize("looks", [[True, True], [False]])
    def test_ends_when_another_terminal_asks(
        self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, looks: list[bool]
    ) -> None:
        book = ForwardBook(fleet.project)
        naps = []

        def sleep(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 3:  # it watches, or waits for the next try
                with book.change() as records:
                    records.append(dataclasses.replace(RECORD, stop_asked=True))

        monkeypatch.setattr(forward.time, "sleep", sleep)
        away = [ConnectTimeoutError("s", "no answer")] * 3
        fleet._transports["s"] = Connection([*looks, True], [*away])  # type: ignore[assignment]
        said: list[str] = []
        hold(fleet, RECORD, said.append)
        assert said[-1] == "stopped by rl forward --stop"
        assert "connected again" not in " ".join(said)
        assert len(naps) == 3

    def test_another_host_key_ends_it(self, held: Any) -> None:
        connection = Connection([False], [HostKeyError("s", "changed")])
        assert len(held(connection)) == 1


class TestList:
    @pytest.fixture
    def alive(self, monkeypatch: pytest.MonkeyPatch) -> set[int]:
        """The ids of the ssh processes that are there; stopping takes one away."""
        pids: set[int] = set()
        monkeypatch.setattr(kept_forwards, "is_kept", lambda kept, _: kept.pid in pids)
        monkeypatch.setattr(kept_forwards, "stop_kept", lambda kept: pids.discard(kept.pid))
        monkeypatch.setattr(kept_forwards, "port_is_free", lambda _: False)
        return pids

    def write(self, fleet: Fleet, *records: ForwardRecord) -> None:
        with ForwardBook(fleet.project).change() as kept:
            kept[:] = records

    def test_of_all_kinds(self, fleet: Fleet, alive: set[int]) -> None:
        kept = dataclasses.replace(RECORD, background=True, pid=11)
        dead = dataclasses.replace(RECORD, background=True, pid=12)
        gone = dataclasses.replace(RECORD, pid=2**22 + 1)
        foreign = dataclasses.replace(RECORD, machine="elsewhere", pid=13)
        alive.add(11)
        self.write(fleet, RECORD, kept, dead, gone, foreign)
        states = {state.record.pid: state.alive for state in list_forwards(fleet.project)}
        assert states == {os.getpid(): True, 11: True, 12: False, 13: None}
        assert {record.pid for record in ForwardBook(fleet.project).read()} == set(states)

    def test_a_dead_one_is_forgotten_after_a_day(
        self, fleet: Fleet, alive: set[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not alive
        self.write(fleet, dataclasses.replace(RECORD, background=True))
        [first] = list_forwards(fleet.project)
        assert first.record.ended_at
        assert list_forwards(fleet.project) == [first]
        later = first.record.ended_at + kept_forwards.FORGET_DEAD_S + 1
        monkeypatch.setattr(kept_forwards.time, "time", lambda: later)
        assert list_forwards(fleet.project) == []
        assert ForwardBook(fleet.project).read() == []

    def test_stop_chooses(self, fleet: Fleet, alive: set[int]) -> None:
        def one(pid: int, server: str, local: int, remote: int) -> ForwardRecord:
            return dataclasses.replace(
                RECORD, background=True, pid=pid, server=server, local_port=local, remote_port=remote
            )

        alive |= {1, 2, 3, 4}
        front = dataclasses.replace(RECORD, server="u")
        alike = [one(1, "s", 80, 8080), one(2, "s", 81, 8080)]
        self.write(fleet, *alike, one(3, "s", 5, 5), one(4, "t", 6, 5), front)
        project = fleet.project
        assert [r.pid for r in stop_forwards(project, "s", Ports(local=81, remote=8080))] == [2]
        assert [r.pid for r in stop_forwards(project, "s", Ports(local=None, remote=80))] == [1]
        with pytest.raises(UsageError, match="no such forward"):
            stop_forwards(project, "s", Ports(local=None, remote=80))
        assert [r.pid for r in stop_forwards(project, "s")] == [3]
        assert [r.pid for r in stop_forwards(project, "t")] == [4]
        assert not alive
        assert ForwardBook(project).read() == [front]

    def test_stop_of_one_that_another_terminal_holds(
        self, fleet: Fleet, alive: set[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not alive
        foreign = dataclasses.replace(RECORD, machine="elsewhere", server="t")
        self.write(fleet, RECORD, foreign)
        book = ForwardBook(fleet.project)
        monkeypatch.setattr(kept_forwards, "_STOP_S", 0.0)  # its process does nothing
        does_not_end = f"in the foreground, by process {os.getpid()}, which does not end it"
        with pytest.raises(UsageError, match=does_not_end):
            stop_forwards(fleet.project, "s")
        assert [one.stop_asked for one in book.read()] == [True, False]
        with pytest.raises(UsageError, match="t 6006 is forwarded on elsewhere"):
            stop_forwards(fleet.project, "t")

        def obey(_: float) -> None:
            with book.change() as records:
                records[:] = [one for one in records if not one.stop_asked]

        monkeypatch.setattr(kept_forwards, "_STOP_S", 60.0)
        monkeypatch.setattr(kept_forwards.time, "sleep", obey)
        assert [one.pid for one in stop_forwards(fleet.project, everything=True)] == [os.getpid()]
        assert stop_forwards(fleet.project, everything=True) == []
