"""Further attempts: of a job alone, and of a whole launch; after failures only."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote.restarts import Restarts, placed, with_interface
from tests.support.served import Launch, Served, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLEEP = "exec sleep 600"
# Fails in its first attempt, once it is told to; ends well in the next, with the others.
FAIL_ONCE = (
    'echo "attempt $RL_ATTEMPT"; [ $RL_ATTEMPT -gt 0 ] || '
    "{ while [ ! -e fail ]; do sleep 0.05; done; echo broke >&2; exit 37; }"
)
SLEEP_ONCE = 'echo "attempt $RL_ATTEMPT"; [ $RL_ATTEMPT -gt 0 ] || exec sleep 600'


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Served]]:
    servers = [Served(tmp_path / f"s{rank}") for rank in range(3)]
    yield servers
    for server in servers:
        server.end_all()


def started(server: Served, job_id: str) -> dict[str, Any]:
    return server.read(job_id, "started.json")


def lasted(end: dict[str, Any]) -> float:
    """By the clock; where that and duration_s differ, the clock is taken for wrong."""
    return end["ended_at"] - end["started_at"]


# -- the decision


def test_restarts_are_counted_and_come_later_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert Restarts({}).delay_s() is None
    restarts = Restarts({"max_restarts": 7})
    delays = []
    while (delay := restarts.delay_s()) is not None:
        delays.append(delay)
        restarts.count()
    assert delays == [1, 2, 4, 8, 16, 30, 30]
    assert restarts.words(1) == "restart 1 of 7"  # a restart has its attempt's number
    windowed = Restarts({"max_restarts": 1, "restart_window_s": 60})
    windowed.count()
    assert windowed.delay_s() is None
    now += 61
    assert windowed.delay_s() == 1
    windowed.count()
    # What counts in a window has no number of its own beside the attempt's.
    assert windowed.words(5) == "attempt 5, 1 of at most 1 restarts within 60 s"


def test_what_another_attempt_changes_of_a_spec() -> None:
    script = ["train.py", "--master-port", "1", "--node-rank", "9"]
    options = ["--nnodes", "2", "--nproc-per-node", "2", "--node-rank", "2", "--master-port", "29500"]
    spec = {
        "torchrun": [*options, *script], "env": {"MASTER_PORT": "29500", "NODE_RANK": "2", "A": "b"},
        "node_rank": 2, "first_rank": 4, "nproc": 2, "attempt": 0,
    }
    place = {"attempt": 1, "port": 31000, "node_rank": 1, "first_rank": 2, "nproc": 2, "cause": {}}
    new = placed(spec, place)
    assert new["torchrun"] == [
        "--nnodes", "2", "--nproc-per-node", "2", "--node-rank", "1", "--master-port", "31000", *script
    ]
    assert new["env"] == {"MASTER_PORT": "31000", "NODE_RANK": "1", "A": "b"}
    assert (new["attempt"], new["node_rank"], new["first_rank"]) == (1, 1, 2)
    kept = placed(spec, {"attempt": 1, "port": None, "node_rank": "x"})
    assert (kept["torchrun"], kept["env"]) == (spec["torchrun"], spec["env"])


def test_an_interface_that_is_gone_is_found_anew() -> None:
    names = {"GLOO_SOCKET_IFNAME": "gone9", "NCCL_SOCKET_IFNAME": "=gone9"}
    spec = {"gang": {"address": "127.0.0.1"}, "env": names}
    assert with_interface(spec)["env"] == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}
    mine = {**spec, "env": {**names, "NCCL_SOCKET_IFNAME": "^docker"}}
    assert with_interface(mine)["env"]["NCCL_SOCKET_IFNAME"] == "^docker"
    for same in ({**spec, "env": {"GLOO_SOCKET_IFNAME": "lo"}}, {**spec, "gang": None}, {"env": {}}):
        assert with_interface(same) == same


# -- a job alone


def test_a_job_is_started_again_until_it_ends_well(served: Served) -> None:
    job_id = served.start('echo "attempt $RL_ATTEMPT"; [ $RL_ATTEMPT = 1 ] || exit 37', max_restarts=2)
    end = served.wait(job_id)
    assert (end["state"], end["exit_code"], end["attempt"]) == ("SUCCEEDED", 0, 1)
    assert [one["attempt"] for one in end["attempts"]] == [0, 1]
    first, last = end["attempts"]
    assert (first["cause"]["exit_code"], last["cause"]) == (37, None)
    assert first["ended_at"] <= last["started_at"]
    folder = served.folder(job_id)
    assert (folder / "job.out").read_text() == "attempt 0\n"
    assert (folder / "job.1.out").read_text() == "attempt 1\n"
    assert served.probe(job_id)["state"] == "SUCCEEDED"


def test_a_job_that_goes_on_failing_fails_in_the_end(served: Served) -> None:
    job_id = served.start("exit $((40 + RL_ATTEMPT))", max_restarts=1, secret_env={"KEY": "kept"})
    end = served.wait(job_id)
    assert (end["state"], end["exit_code"]) == ("FAILED", 41)
    assert [one["cause"]["exit_code"] for one in end["attempts"]] == [40, 41]


def test_secrets_reach_every_attempt(served: Served) -> None:
    shell = '[ $RL_ATTEMPT = 1 ] && [ "$KEY" = kept ]'
    job_id = served.start(shell, max_restarts=1, secret_env={"KEY": "kept"})
    assert served.wait(job_id)["state"] == "SUCCEEDED"


def test_a_kill_between_two_attempts_is_the_end(served: Served) -> None:
    job_id = served.start("exit 1", max_restarts=9)
    told = until(
        lambda: (one := served.probe(job_id))["reason"] and one["attempt"] >= 1 and one, "it rests again"
    )
    assert told["state"] == "RUNNING"
    number = told["attempt"] + 1  # 2, unless this machine is so busy that it had rested before we looked
    assert f"restarting (restart {number} of 9) after the command on s0 exited with 1" in told["reason"]
    coming = told["next_attempt"]
    assert (coming["attempt"], coming["words"]) == (number, f"restart {number} of 9")
    assert 0 <= coming["in_s"] <= 2 ** (number - 1)
    answer = served.kill(job_id)
    assert answer["outcome"] == "killed"
    end = served.wait(job_id)
    assert (end["state"], end["reason"]) == ("KILLED", "killed by me@laptop")
    assert len(end["attempts"]) == len(answer["attempts"]) >= number
    assert end["ended_at"] > end["attempts"][number - 1]["ended_at"]  # it rested, and not for no time
    assert abs(lasted(end) - end["duration_s"]) < 1


def test_a_killed_or_stopped_job_is_not_started_again(served: Served) -> None:
    killed = served.start(SLEEP, max_restarts=3)
    assert served.kill(killed)["outcome"] == "killed"
    stopped = served.start(SLEEP, max_restarts=3)
    os.kill(started(served, stopped)["supervisor_pid"], signal.SIGTERM)
    for job_id, state in ((killed, "KILLED"), (stopped, "FAILED")):
        end = served.wait(job_id)
        assert (end["state"], end["attempt"]) == (state, 0)


def test_a_stop_from_outside_between_two_attempts_is_the_end(served: Served) -> None:
    job_id = served.start("exit 1", max_restarts=9)
    until(lambda: (one := served.probe(job_id))["reason"] and one["attempt"] >= 1, "it rests")
    os.kill(started(served, job_id)["supervisor_pid"], signal.SIGTERM)
    end = served.wait(job_id)
    assert end["state"] == "FAILED"
    assert "told to stop" in end["reason"]


def test_a_stop_from_outside_after_the_child_s_good_end_is_none_of_its_reason(served: Served) -> None:
    job_id = served.start("(trap '' TERM; touch up; sleep 600) & until [ -e up ]; do sleep 0.05; done")
    log = served.folder(job_id) / "supervisor.log"
    until(lambda: "processes are left" in log.read_text(), "what the child left is being ended")
    os.kill(started(served, job_id)["supervisor_pid"], signal.SIGTERM)
    end = served.wait(job_id)
    assert (end["state"], end["reason"]) == ("SUCCEEDED", None)


def test_a_stop_from_outside_while_a_stalled_job_is_stopped_is_the_end(served: Served) -> None:
    shell = "trap '' TERM; while :; do sleep 0.1; done"
    job_id = served.start(shell, max_restarts=3, stall_timeout_s=1.0, grace_s=10.0)
    log = served.folder(job_id) / "supervisor.log"
    until(lambda: "stop: signal TERM" in log.read_text(), "it is stopped for its stall")
    os.kill(started(served, job_id)["supervisor_pid"], signal.SIGTERM)
    end = served.wait(job_id)
    assert (end["state"], end["attempt"]) == ("FAILED", 0)


def test_the_attempts_outlive_a_kill_without_a_supervisor(served: Served) -> None:
    shell = "[ $RL_ATTEMPT -gt 0 ] || exit 1; trap '' TERM; touch up; while :; do sleep 0.1; done"
    job_id = served.start(shell, max_restarts=1)
    until((served.workdir / "up").exists, "the second attempt ignores TERM")
    assert served.probe(job_id)["attempt"] == 1
    served.kill_supervisor(job_id, guardian=True)
    answer = served.kill(job_id, grace_s=0.3)
    assert (answer["outcome"], answer["state"]) == ("killed", "KILLED")
    assert [one["cause"]["exit_code"] for one in served.probe(job_id)["attempts"]] == [1]
    assert served.probe(job_id)["attempt"] == 1


def test_an_attempt_that_cant_be_begun_has_failed(served: Served) -> None:
    (served.workdir / "sub").mkdir()
    job_id = served.start("rmdir $PWD; exit 1", cwd="sub", max_restarts=1)
    end = served.wait(job_id)
    assert (end["state"], end["attempt"]) == ("FAILED", 1)
    assert "can't be entered" in end["reason"]


# -- a launch


def test_a_failure_on_one_node_starts_all_again(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start(SLEEP_ONCE, FAIL_ONCE, max_restarts=2)
    until(lambda: nodes[0].out(launch.ids[0]), "node 0 gets going")
    (nodes[1].workdir / "fail").touch()
    # Its state says so for a second alone.
    reason = "restarting (restart 1 of 2) after the command on s1 exited with 37\n"
    until(lambda: reason in launch.logs(0), "node 0 says that another attempt comes")
    for rank, end in enumerate([launch.wait(0), launch.wait(1)]):
        assert (end["state"], end["attempt"], end["cause"]) == ("SUCCEEDED", 1, None)
        first, last = end["attempts"]
        assert (first["cause"]["server"], first["cause"]["exit_code"]) == ("s1", 37)
        assert first["cause"]["tail"] == "broke"
        assert (last["attempt"], last["cause"]) == (1, None)
        folder = nodes[rank].folder(launch.ids[rank])
        assert (folder / "job.out").read_text() == "attempt 0\n"
        assert (folder / "job.1.out").read_text() == "attempt 1\n"


def test_every_attempt_has_a_port_of_its_own(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    tell, env = "echo $MASTER_PORT; [ $RL_ATTEMPT = 1 ]", {"MASTER_PORT": "29500"}
    launch.start(tell, f"{tell} || exec sleep 600", max_restarts=1, fresh_port=True, env=env)
    assert [launch.wait(rank)["state"] for rank in range(2)] == ["SUCCEEDED"] * 2
    ports = [(nodes[rank].folder(launch.ids[rank]) / "job.1.out").read_text() for rank in range(2)]
    assert ports[0] == ports[1] != "29500\n"
    assert nodes[0].out(launch.ids[0]) == "29500\n"


def test_no_attempt_follows_the_last(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start(SLEEP, "exit $((40 + RL_ATTEMPT))", max_restarts=1)
    for end in (launch.wait(0), launch.wait(1)):
        assert (end["state"], end["cause"]["exit_code"]) == ("FAILED", 41)
        assert [one["cause"]["exit_code"] for one in end["attempts"]] == [40, 41]


def test_a_node_has_lasted_until_its_own_end(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    stubborn = "trap '' TERM; while :; do sleep 0.1; done"
    launch.start(stubborn, "sleep 0.3; exit 3", max_restarts=1, grace_s=2.0)
    ends = [launch.wait(rank) for rank in (0, 1)]
    assert [end["attempt"] for end in ends] == [1, 1]
    assert [abs(lasted(end) - end["duration_s"]) < 1 for end in ends] == [True, True]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_kill_while_a_launch_rests_kills_it(nodes: list[Served], victim: int) -> None:
    launch = Launch(nodes)
    launch.start(SLEEP, "exit 1", max_restarts=9)
    until(lambda: started(nodes[victim], launch.ids[victim])["attempt"] >= 1, "the second attempt")
    until(lambda: nodes[victim].probe(launch.ids[victim])["reason"], "it rests")
    assert nodes[victim].kill(launch.ids[victim])["outcome"] == "killed"
    for rank in range(2):
        end = launch.wait(rank)
        assert (end["state"], end["reason"]) == ("KILLED", "killed by me@laptop")
        assert nodes[rank].pids(launch.ids[rank]) == []


def test_a_silent_node_that_comes_back_takes_part_again(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start(SLEEP_ONCE, SLEEP_ONCE, max_restarts=1)
    launch.joined()
    supervisor = started(nodes[1], launch.ids[1])["supervisor_pid"]
    os.kill(supervisor, signal.SIGSTOP)
    until(lambda: nodes[0].probe(launch.ids[0])["reason"], "node 0 misses it")
    assert nodes[1].pids(launch.ids[1])  # nobody could stop it yet
    os.kill(supervisor, signal.SIGCONT)
    for end in (launch.wait(0), launch.wait(1)):
        assert (end["state"], end["attempt"]) == ("SUCCEEDED", 1)
        assert end["attempts"][0]["cause"]["lost"] is True


def test_a_lost_node_without_a_spare_ends_the_launch(nodes: list[Served]) -> None:
    launch = Launch(nodes, join_timeout_s=20.0)
    launch.start(SLEEP, SLEEP, max_restarts=3)
    launch.joined()
    nodes[1].kill_supervisor(launch.ids[1])
    end = launch.wait(0)
    assert (end["state"], end["cause"]["lost"], end["attempt"]) == ("FAILED", True, 0)
    assert "s1 did not come back" in end["reason"]


def test_node_0_lost_ends_the_launch(nodes: list[Served]) -> None:
    launch = Launch(nodes, join_timeout_s=20.0)
    launch.start(SLEEP, SLEEP, max_restarts=3)
    launch.joined()
    nodes[0].kill_supervisor(launch.ids[0])
    log = nodes[1].folder(launch.ids[1]) / "supervisor.log"  # its state says so for a second alone
    lost = "node 0 (s0) was lost: its supervisor is gone, or the network to it; stopped here, waiting for it"
    until(lambda: lost in log.read_text(), "node 1 misses it")
    end = launch.wait(1)
    assert (end["state"], end["cause"]["node_rank"]) == ("FAILED", 0)
    assert launch.wait(0)["state"] == "LOST"


# -- spares


def test_a_spare_takes_the_place_of_a_lost_node(three: list[Served]) -> None:
    launch = Launch(three, spares=1, nprocs=(2, 2, 2))
    tell = 'echo "node $RL_NODE_RANK"; ' + SLEEP_ONCE
    launch.start(tell, tell, tell, max_restarts=1, env={"NODE_RANK": "x"})
    launch.joined(2)
    spare = three[2].probe(launch.ids[2])
    assert (spare["state"], spare["reason"]) == ("RUNNING", "stands by as a spare")
    assert not three[2].pids(launch.ids[2])
    three[1].kill_supervisor(launch.ids[1])
    ends = [launch.wait(rank) for rank in range(3)]
    assert [end["state"] for end in ends] == ["SUCCEEDED", "LOST", "SUCCEEDED"]
    assert ends[0]["replaced"] == {"s1": "s2"}
    assert (three[2].folder(launch.ids[2]) / "job.1.out").read_text() == "node 1\nattempt 1\n"


def test_a_spare_that_is_not_needed_ends_with_the_launch(three: list[Served]) -> None:
    launch = Launch(three, spares=1)
    launch.start("sleep 1", "sleep 1", "touch ran", max_restarts=1)
    ends = [launch.wait(rank) for rank in range(3)]
    assert [end["state"] for end in ends] == ["SUCCEEDED"] * 3
    assert ends[2]["reason"] == "a spare that was not needed"
    assert ends[2]["ended_at"] >= max(end["ended_at"] for end in ends[:2])  # it stood by until then
    assert not (three[2].workdir / "ran").exists()


def test_a_kill_reaches_spares(three: list[Served]) -> None:
    launch = Launch(three, spares=1)
    launch.start(SLEEP, SLEEP, SLEEP, max_restarts=1)
    launch.joined(2)
    assert three[2].kill(launch.ids[2])["outcome"] == "killed"
    assert [launch.wait(rank)["state"] for rank in range(3)] == ["KILLED"] * 3


def test_a_paused_node_finds_itself_replaced_and_stops(three: list[Served]) -> None:
    launch = Launch(three, spares=1)
    shell = "[ $RL_ATTEMPT -gt 0 ] || exec sleep 600; while [ ! -e go ]; do sleep 0.05; done"
    launch.start(shell, shell, shell, max_restarts=1)
    launch.joined(2)
    supervisor = started(three[1], launch.ids[1])["supervisor_pid"]
    os.kill(supervisor, signal.SIGSTOP)
    until(lambda: three[2].pids(launch.ids[2]), "the spare takes its place")
    os.kill(supervisor, signal.SIGCONT)
    end = launch.wait(1)
    assert (end["state"], end["attempt"]) == ("FAILED", 0)
    assert "s2 took its place" in end["reason"]
    assert not three[1].pids(launch.ids[1])
    for server in three:
        (server.workdir / "go").touch()
    assert [launch.wait(rank)["state"] for rank in (0, 2)] == ["SUCCEEDED"] * 2


# -- strangers


def test_a_thousand_strangers_do_no_harm_and_are_logged_by_number(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    launch.start("while [ ! -e go ]; do sleep 0.05; done")
    for number in range(1000):
        with socket.create_connection(("127.0.0.1", launch.gang.port)) as sock:
            if number % 2:
                sock.sendall(b'{"node": 1, "nonce": "n", "mac": "00"}\n')
    assert nodes[1].call("start", spec=launch.spec(1, "true"))["state"] == "STARTED"
    launch.joined()
    (nodes[0].workdir / "go").touch()
    assert [launch.wait(rank)["state"] for rank in range(2)] == ["SUCCEEDED", "SUCCEEDED"]
    in_all = "connections that were refused in all: "
    until(lambda: in_all in launch.logs(0), "it is said after the end")
    told = launch.logs(0)
    # More when node 1 had to knock twice.
    assert int(told.partition(in_all)[2].split()[0]) in range(1000, 1010), told
    assert len(told) < 4000
