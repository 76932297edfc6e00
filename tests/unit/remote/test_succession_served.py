"""Node 0 is replaced as any other node: supervisors on this machine, that see each other's end for real."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import procs
from tests.support.served import Launch, Served, until, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Works until it is stopped in its first attempt, later until the file "go" is there.
SHELL = (
    'echo "node $RL_NODE_RANK at $MASTER_ADDR:$MASTER_PORT"; [ $RL_ATTEMPT -gt 0 ] || exec sleep 600; '
    "while [ ! -e go ]; do sleep 0.05; done"
)
ENV = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "x"}


class Group:
    """A launch whose members are reached at addresses of their own."""

    def __init__(self, folder: Path, count: int, spares: int, **gang: Any) -> None:
        self.servers = [Served(folder / f"s{rank}") for rank in range(count)]
        addresses = tuple(f"127.0.0.{rank + 1}" for rank in range(count))
        self.launch = Launch(self.servers, spares=spares, addresses=addresses, **gang)
        self.ids = self.launch.ids

    def start(self, shell: str = SHELL, **fields: Any) -> None:
        fields = {"max_restarts": 3, "env": ENV, "fresh_port": True, **fields}
        self.launch.start(*[shell] * len(self.servers), **fields)
        count = len(self.servers)
        until(lambda: all(self.knows(member, count - 1) for member in range(1, count)), "all know all doors")

    def knows(self, member: int, doors: int) -> bool:
        return f"knows {doors} doors" in self.log(member)

    def log(self, member: int) -> str:
        return (self.servers[member].folder(self.ids[member]) / "supervisor.log").read_text()

    def loses(self, *members: int) -> None:
        """Neither supervisor nor guardian nor what they ran is there any more: machines without power. All at
        the same moment: no one of them is missed, or does anything, before the last is gone."""
        pids = []
        for member in members:
            supervisor = self.supervisor(member)
            with open(f"/proc/{supervisor}/stat") as file:
                guardian = int(file.read().rpartition(")")[2].split()[1])
            assert words_of(guardian) == words_of(supervisor)
            pids += [guardian, supervisor, *self.servers[member].pids(self.ids[member])]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def supervisor(self, member: int) -> int:
        return self.servers[member].read(self.ids[member], "started.json")["supervisor_pid"]

    def said(self, member: int, attempt: int) -> str:
        path = self.servers[member].folder(self.ids[member]) / f"job.{attempt}.out"
        return path.read_text() if path.exists() else ""

    def finish(self) -> None:
        for server in self.servers:
            (server.workdir / "go").touch()

    def begins(self, attempt: int, *members: int) -> None:
        """Wait until an attempt works on these members."""
        try:
            until(lambda: all(self.said(member, attempt) for member in members), "the attempt begins", 120)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def ends(self, *members: int) -> list[dict[str, Any]]:
        return [self.launch.wait(member, 240) for member in members]

    def told(self) -> list[str]:
        """What the launch's notifications have said, once all supervisors are gone."""
        for server, job_id in zip(self.servers, self.ids, strict=True):
            started = server.read(job_id, "started.json")
            pid, ticks = started["supervisor_pid"], started["supervisor_ticks"]
            until(lambda pid=pid, ticks=ticks: not procs.is_alive(pid, ticks), "the supervisor is gone", 120)
        files = [server.workdir / "told" for server in self.servers]
        return [line for file in files if file.exists() for line in file.read_text().splitlines()]

    def door(self, member: int) -> int:
        """The port of a member's door, as the kernel has it."""
        folder = f"/proc/{self.supervisor(member)}/fd"
        held = set()
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # it reads files all the time
                held.add(os.readlink(f"{folder}/{name}"))
        with open("/proc/net/tcp") as file:
            rows = [line.split() for line in file.readlines()[1:]]
        return next(int(row[1][9:], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in held)

    def logs(self) -> str:
        return "\n".join(f"-- {member}\n{self.log(member)}" for member in range(len(self.servers)))


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Any]:
    made: list[Group] = []

    def make(count: int, spares: int, **gang: Any) -> Group:
        made.append(Group(tmp_path, count, spares, **gang))
        return made[-1]

    yield make
    for one in made:
        for server in one.servers:
            server.end_all()


def test_a_spare_takes_the_place_of_node_0(group: Any) -> None:
    it = group(3, 1)
    it.start()
    it.loses(0)
    it.begins(1, 1, 2)
    it.finish()
    ends = it.ends(1, 2)
    assert [end["state"] for end in ends] == ["SUCCEEDED"] * 2
    assert it.said(2, 1).startswith("node 0 at 127.0.0.3:")
    assert it.said(1, 1) == it.said(2, 1).replace("node 0", "node 1")
    assert "29500" not in it.said(1, 1)
    for end in ends:
        assert end["replaced"] == {"s0": "s2"}
    first, last = ends[0]["attempts"]
    assert (first["cause"]["server"], first["cause"]["lost"], last["cause"]) == ("s0", True, None)


def test_the_successor_is_replaced_in_turn(group: Any) -> None:
    it = group(5, 3, nprocs=(2, 4, 2, 4, 8))  # one spare for each place, whoever of them calls first
    it.start(notify='echo "$RL_STATE $RL_SERVER" >> told')
    it.loses(0)
    it.begins(1, 1, 2)
    probed = it.servers[1].probe(it.ids[1])
    assert (probed["state"], probed["replaced"]) == ("RUNNING", {"s0": "s2"})
    it.loses(1)
    it.begins(2, 2, 3)
    assert it.said(2, 2).startswith("node 0 at 127.0.0.3:")
    assert it.said(3, 2).startswith("node 1 at 127.0.0.3:")
    assert "restart 2 of 3" in it.log(2)
    it.finish()
    ends = it.ends(2, 3, 4)
    assert [end["state"] for end in ends] == ["SUCCEEDED"] * 3
    assert ends[2]["reason"] == "a spare that was not needed"
    for end in ends:
        assert end["replaced"] == {"s0": "s2", "s1": "s3"}
    assert it.told() == ["SUCCEEDED s2"]


def test_a_spare_that_has_no_place_can_coordinate(group: Any) -> None:
    it = group(5, 3, nprocs=(2, 2, 4, 2, 2))  # s2 fits no place
    it.start()
    it.loses(1)
    it.begins(1, 0, 3)
    it.loses(0)
    it.begins(2, 3, 4)
    assert "coordinates in the place of node 0" in it.log(2)
    it.finish()
    ends = it.ends(2, 3, 4)
    assert [end["state"] for end in ends] == ["SUCCEEDED"] * 3
    assert ends[0]["replaced"] == {"s1": "s3", "s0": "s4"}
    assert not it.said(2, 2)


def test_node_0_that_sleeps_and_wakes_finds_its_part_over(group: Any) -> None:
    """Supervisor and ranks, as a machine that is suspended. Only one training ever goes on."""
    it = group(3, 1)
    it.start(notify='echo "$RL_STATE $RL_SERVER" >> told')
    asleep = [it.supervisor(0), *it.servers[0].pids(it.ids[0])]
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    it.begins(1, 1, 2)
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    end = it.ends(0)[0]
    assert (end["state"], end["attempt"]) == ("FAILED", 0)
    assert not it.servers[0].pids(it.ids[0])
    assert not it.said(0, 1)
    assert "replaced" not in end
    assert "s2 took its place" in end["reason"] or "s1 coordinates the launch now" in end["reason"]
    it.finish()
    assert [end["state"] for end in it.ends(1, 2)] == ["SUCCEEDED"] * 2
    assert it.told() == ["SUCCEEDED s1"]


def test_half_of_the_members_choose_nobody(group: Any) -> None:
    it = group(4, 2)
    it.start()
    it.loses(0, 3)
    ends = it.ends(1, 2)
    assert [end["state"] for end in ends] == ["FAILED"] * 2
    assert [end["cause"]["server"] for end in ends] == ["s0"] * 2
    assert "coordinates" not in it.log(1) + it.log(2)


def test_spares_alone_choose_nobody(group: Any) -> None:
    """They can't know whether the nodes have stopped."""
    it = group(5, 3)
    it.start()
    it.loses(0, 1)
    assert [end["state"] for end in it.ends(2, 3, 4)] == ["FAILED"] * 3
    assert "coordinates" not in it.logs()


def test_a_kill_after_a_succession_is_one_of_all(group: Any) -> None:
    it = group(3, 1)
    it.start()
    it.loses(0)
    it.begins(1, 1, 2)
    assert it.servers[2].kill(it.ids[2], grace_s=30)["outcome"] == "killed"
    assert [end["state"] for end in it.ends(1, 2)] == ["KILLED"] * 2
    assert not it.servers[1].pids(it.ids[1])


@pytest.mark.parametrize("victim", [1, 2])
def test_a_kill_while_nobody_coordinates_is_one_of_all(group: Any, victim: int) -> None:
    """Four members of six: a majority would be left without the one that was killed."""
    it = group(6, 4)
    it.start()
    it.loses(0)
    until(lambda: "stopped here, waiting for it" in it.log(victim), "it is alone")
    assert it.servers[victim].kill(it.ids[victim], grace_s=30)["outcome"] == "killed"
    assert [end["state"] for end in it.ends(1, 2, 3, 4, 5)] == ["KILLED"] * 5


def test_strangers_at_a_members_door_are_dropped(group: Any) -> None:
    it = group(3, 1)
    it.start()
    for member in (1, 2):
        port = it.door(member)
        for said in (b"", b'{"node": 0, "nonce": "n", "mac": "00"}\n', b"x" * 4096 + b"\n"):
            with socket.create_connection((f"127.0.0.{member + 1}", port), timeout=60) as sock:
                assert b"nonce" in sock.recv(4096)
                sock.sendall(said)
        until(lambda member=member: "a connection was refused: wrong token" in it.log(member), "it is logged")
    it.loses(0)
    it.begins(1, 1, 2)
    it.finish()
    assert [end["state"] for end in it.ends(1, 2)] == ["SUCCEEDED"] * 2


def test_without_restarts_nobody_listens_and_nobody_succeeds(group: Any) -> None:
    it = group(3, 1)
    it.launch.start(*[SHELL] * 3, env=ENV)
    it.launch.joined(2)
    it.loses(0)
    assert [end["state"] for end in it.ends(1, 2)] == ["FAILED"] * 2
    assert "door" not in it.log(1) + it.log(2)


def test_the_successor_sees_that_the_launch_hangs(group: Any) -> None:
    it = group(3, 1)
    shell = "while [ $RL_ATTEMPT = 0 ]; do echo works; sleep 0.2; done; echo hangs; exec sleep 600"
    it.start(shell, max_restarts=1, stall_timeout_s=8.0)
    it.loses(0)
    ends = it.ends(1, 2)
    assert [end["state"] for end in ends] == ["FAILED"] * 2
    for end in ends:
        assert (end["attempt"], end["cause"]["server"], end["cause"]["stalled"]) == (1, "s1", True)
    assert it.said(2, 1) == "hangs\n"
