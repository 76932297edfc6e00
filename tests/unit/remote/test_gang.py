"""The supervisors of a launch: what stops one node stops all, and the cause stands in every record."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from remote_launch.remote.causes import choose_cause, lost
from remote_launch.remote.coordinator import Coordinator
from remote_launch.remote.gang import GangSettings
from remote_launch.remote.link import Link, LinkError
from remote_launch.remote.restarts import Restarts
from tests.support.ports import free_port
from tests.support.served import Launch, until

if TYPE_CHECKING:
    from tests.support.served import Served

SLEEP = "exec sleep 600"


def supervisor(launch: Launch, rank: int) -> int:
    return launch.servers[rank].read(launch.ids[rank], "started.json")["supervisor_pid"]


def fails_before_it_is_missed(launch: Launch, rank: int, *, lost: int) -> None:
    """A node's supervisor dies; what runs on ``rank`` fails by that, before anybody misses the node. It is
    stopped first: nobody misses it so soon, however long it takes until the other one has failed."""
    os.kill(supervisor(launch, lost), signal.SIGSTOP)
    (launch.servers[rank].workdir / "go").touch()
    until(lambda: " ended: exit code 1," in launch.logs(rank), "its child fails")
    os.kill(supervisor(launch, lost), signal.SIGKILL)


def test_all_nodes_succeed_together(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start("exit 0", "sleep 0.5")
    for rank in range(2):
        end = launch.wait(rank)
        assert (end["state"], end["exit_code"], end["cause"]) == ("SUCCEEDED", 0, None)


def test_one_nodes_success_is_no_end_for_the_others(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start("exit 0", "while [ ! -e go ]; do sleep 0.05; done")
    launch.joined()
    until(lambda: not nodes[0].pids(launch.ids[0]), "node 0's child ends")
    assert nodes[1].probe(launch.ids[1])["state"] == "RUNNING"
    (nodes[1].workdir / "go").touch()
    assert [launch.wait(rank)["state"] for rank in range(2)] == ["SUCCEEDED", "SUCCEEDED"]


def test_a_failure_on_node_1_stops_node_0_with_its_cause(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start("trap '' TERM; sleep 600; sleep 600", "sleep 0.3; echo 'it broke' >&2; exit 37", grace_s=0.5)
    ends = [launch.wait(rank) for rank in range(2)]
    for end in ends:
        cause = end["cause"]
        assert (
            cause["node_rank"], cause["server"], cause["exit_code"], cause["signal"]
        ) == (1, "s1", 37, None)
        assert cause["tail"] == "it broke"
        assert end["left_over"] == 0
    assert [end["state"] for end in ends] == ["FAILED", "FAILED"]
    assert ends[0]["reason"] == "stopped: the command on s1 exited with 37"
    assert ends[1]["reason"] == "exited with 37"
    assert nodes[0].pids(launch.ids[0]) == []


def test_a_failure_on_node_0_stops_node_1(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start("while [ ! -e go ]; do sleep 0.05; done; kill -SEGV $$", SLEEP)
    launch.joined()
    (nodes[0].workdir / "go").touch()
    ends = [launch.wait(rank) for rank in range(2)]
    assert [(end["cause"]["node_rank"], end["cause"]["signal"]) for end in ends] == [(0, "SEGV")] * 2
    assert ends[1]["signal"] == "TERM"


def test_a_node_whose_supervisor_dies_is_lost_and_blamed(nodes: list[Served]) -> None:
    """Node 0's own failure comes first, as torchrun's does when its peer vanishes; the cause is the lost node
    all the same."""
    launch = Launch(nodes)
    launch.start("while [ ! -e go ]; do sleep 0.05; done; exit 1", SLEEP)
    launch.joined()
    fails_before_it_is_missed(launch, 0, lost=1)
    end = launch.wait(0)
    assert (end["state"], end["exit_code"]) == ("FAILED", 1)
    assert (end["cause"]["node_rank"], end["cause"]["lost"]) == (1, True)
    assert "node 1 (s1) was lost" in end["cause"]["message"]
    until(lambda: not nodes[1].pids(launch.ids[1]), "node 1's child ends with its supervisor")
    assert nodes[1].probe(launch.ids[1])["state"] == "LOST"


def test_node_1_stops_when_node_0_is_lost(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start(SLEEP, SLEEP)
    launch.joined()
    os.kill(supervisor(launch, 0), signal.SIGKILL)
    end = launch.wait(1)
    assert (end["state"], end["cause"]["node_rank"], end["cause"]["lost"]) == ("FAILED", 0, True)
    assert end["reason"].startswith("stopped: node 0 (s0) was lost")
    assert nodes[1].pids(launch.ids[1]) == []


def test_node_0_is_blamed_for_what_its_loss_does_to_node_1(nodes: list[Served]) -> None:
    """As torchrun does it: node 1's own ranks fail before node 0 is missed."""
    launch = Launch(nodes)
    launch.start(SLEEP, "while [ ! -e go ]; do sleep 0.05; done; exit 1")
    launch.joined()
    fails_before_it_is_missed(launch, 1, lost=0)
    end = launch.wait(1)
    assert (end["state"], end["exit_code"]) == ("FAILED", 1)
    assert (end["cause"]["node_rank"], end["cause"]["lost"]) == (0, True)
    assert "the launch's cause: node 0 (s0) was lost" in end["reason"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_that_is_stopped_from_outside_stops_the_launch(nodes: list[Served], victim: int) -> None:
    """Its machine shuts down. The others may never fail by themselves: NCCL waits for ten minutes."""
    launch = Launch(nodes)
    launch.start(SLEEP, SLEEP)
    launch.joined()
    os.kill(supervisor(launch, victim), signal.SIGTERM)
    for rank in range(2):
        end = launch.wait(rank)
        assert (end["state"], end["cause"]["node_rank"]) == ("FAILED", victim)
        assert "not by rl" in end["reason"]


def test_a_newcomer_that_is_gone_again_is_no_end_for_the_coordinator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = SimpleNamespace(
        selector=selectors.DefaultSelector(), attempt=0, grace_s=1.0, stop=lambda *_: None,
        server_name=str, log=lambda _: None,
        restarts=Restarts({}), turn=None,
    )
    gang = {"nnodes": 2, "address": "127.0.0.1", "port": free_port(), "token": "t" * 32}
    settings = GangSettings({"gang": gang, "node_rank": 0, "launch_id": "x"})
    coordinator = Coordinator(settings, host)  # type: ignore[arg-type]
    coordinator.kill({})  # so that it has something to say to who joins

    def turn() -> None:
        for key, events in host.selector.select(1):
            key.data(events)

    def broken(*_: object) -> None:
        raise LinkError("reset")

    with socket.create_connection(("127.0.0.1", settings.port)) as sock:
        turn()
        member = Link(sock, "x", "t" * 32)
        member.answer(until(member.lines, "the challenge")[0], 1)
        monkeypatch.setattr(Link, "send", broken)
        turn()
        coordinator.tick(time.monotonic())
    coordinator.close()
    host.selector.close()


def test_a_silent_node_is_lost(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start(SLEEP, SLEEP)
    launch.joined()
    silent = supervisor(launch, 1)
    os.kill(silent, signal.SIGSTOP)
    end = launch.wait(0)
    assert (end["cause"]["node_rank"], end["cause"]["lost"]) == (1, True)
    os.kill(silent, signal.SIGCONT)
    woken = launch.wait(1)  # it finds itself left alone, and stops
    assert woken["state"] == "FAILED"
    assert nodes[1].pids(launch.ids[1]) == []


def test_a_node_that_never_comes_ends_the_launch(nodes: list[Served]) -> None:
    launch = Launch(nodes, join_timeout_s=0.5)
    launch.start(SLEEP)
    end = launch.wait(0)
    assert (end["state"], end["cause"]["node_rank"]) == ("FAILED", 1)
    assert "did not reach node 0" in end["cause"]["message"]


def test_a_persons_kill_of_one_node_kills_the_launch(nodes: list[Served]) -> None:
    for victim in range(2):
        launch = Launch(nodes)
        launch.start(SLEEP, "trap '' TERM; sleep 600; sleep 600")
        launch.joined()
        assert nodes[victim].kill(launch.ids[victim], grace_s=0.5)["outcome"] == "killed"
        ends = [launch.wait(rank) for rank in range(2)]
        assert [(end["state"], end["reason"]) for end in ends] == [("KILLED", "killed by me@laptop")] * 2
        assert not nodes[0].pids(launch.ids[0])
        assert not nodes[1].pids(launch.ids[1])


def test_a_member_with_the_wrong_token_stays_out(nodes: list[Served]) -> None:
    right = Launch(nodes, join_timeout_s=20.0)
    right.start(SLEEP)
    wrong = Launch(nodes, token="w" * 32, join_timeout_s=5.0)
    wrong.launch_id = right.launch_id
    gang = {**right.spec(1, SLEEP)["gang"], "token": "w" * 32}
    spec = {**wrong.spec(1, SLEEP), "gang": gang}
    assert nodes[1].call("start", spec=spec)["state"] == "STARTED"
    log = nodes[0].folder(right.ids[0]) / "supervisor.log"
    until(lambda: "wrong token" in log.read_text(), "the stranger is refused")
    assert right.wait(0)["cause"]["node_rank"] == 1  # the real node 1 never came
    assert wrong.wait(1)["state"] == "FAILED"


def test_strangers_neither_join_nor_block(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start("while [ ! -e go ]; do sleep 0.05; done")
    address = ("127.0.0.1", launch.gang.port)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(address)) for _ in range(80)]
        flood = stack.enter_context(socket.create_connection(address))
        with contextlib.suppress(OSError):
            flood.settimeout(60)
            flood.sendall(b"x" * (3 << 20))
            while flood.recv(65536):
                pass
        rude = stack.enter_context(socket.create_connection(address))
        rude.sendall(b'{"node": 1, "nonce": "n", "mac": "00"}\n[]\n')
        assert nodes[1].call("start", spec=launch.spec(1, "true"))["state"] == "STARTED"
        launch.joined()
        (nodes[0].workdir / "go").touch()
        assert [launch.wait(rank)["state"] for rank in range(2)] == ["SUCCEEDED", "SUCCEEDED"]
        assert idle


def test_a_taken_port_is_said_at_the_start(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    with socket.create_server(("127.0.0.1", launch.gang.port)):
        error = nodes[0].call("start", spec=launch.spec(0, SLEEP))["error"]
    assert error["type"] == "PortTakenError"
    assert os.listdir(nodes[0].workdir / ".jobs") == []


def test_a_failing_rank_is_the_cause_not_torchruns_own_exit_code(nodes: list[Served]) -> None:
    """A surrogate for torchrun: it writes failures.json as the torchrun verb does, then ends with 1."""
    launch = Launch(nodes)
    surrogate = nodes[1].workdir / "python"
    failure = {"rank": 3, "local_rank": 1, "pid": 1, "exit_code": 37, "signal": None, "time": time.time()}
    surrogate.write_text(
        "#!/bin/sh\nlogs=$RL_JOB_DIR/ranks/r/attempt_0/1\nmkdir -p $logs\nseq 100 > $logs/stderr.log\n"
        f"echo '{json.dumps([failure])}' > $RL_JOB_DIR/failures.json\nexit 1\n"
    )
    surrogate.chmod(0o755)
    launch.start(SLEEP)
    fields = {"shell": None, "torchrun": ["train.py"], "python": str(surrogate), "first_rank": 2}
    spec = {**launch.spec(1, SLEEP), **fields}
    assert nodes[1].call("start", spec=spec)["state"] == "STARTED"
    ends = [launch.wait(rank) for rank in range(2)]
    assert (ends[1]["exit_code"], ends[1]["reason"]) == (37, "rank 3 exited with 37")
    assert ends[1]["failures"][0]["rank"] == 3
    assert ends[0]["reason"] == "stopped: rank 3 on s1 exited with 37"
    assert ends[0]["cause"]["tail"].split("\n") == [str(n) for n in range(81, 101)]
    assert ends[0]["failures"] == []


def test_choosing_the_cause() -> None:
    def failure(node: int, time: float, exit_code: int | None = 1, killed_by: str | None = None) -> dict:
        return {"node_rank": node, "time": time, "exit_code": exit_code, "signal": killed_by}

    gone = {**lost(2, "s2", "silence", 0.0), "time": 99.0}
    assert choose_cause([]) is None
    assert choose_cause([failure(0, 100.0), failure(1, 99.5)])["node_rank"] == 1
    # What a dead peer does to others is exit 1.
    assert choose_cause([failure(0, 99.0), failure(1, 99.5, None, "SEGV")])["node_rank"] == 1
    # NCCL's watchdog aborts after the fact.
    assert choose_cause([failure(0, 99.0, 37), failure(1, 99.5, None, "ABRT")])["node_rank"] == 0
    assert choose_cause([failure(0, 99.5), gone])["node_rank"] == 2
    assert choose_cause([failure(0, 90.0), gone])["node_rank"] == 0  # node 2 was heard from long after
