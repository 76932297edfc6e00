"""Which rows rl job-list shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.cli.job_table import attempt_lines, exit_text, print_jobs
from remote_launch.cli.jobs import _newest, _show_group
from remote_launch.core.jobs import JobState, now
from remote_launch.core.verdict import verdict_of
from tests.support.records import new_record

if TYPE_CHECKING:
    import pytest

    from remote_launch.core.jobs import JobRecord


def test_the_newest_come_with_all_nodes_of_their_launches() -> None:
    launches = [None, "m", "l", "l", "m", None]
    jobs = [
        new_record(key=key, server="s", command="c", launch_id=launch)
        for key, launch in enumerate(launches, 1)
    ]
    assert [[job.key for job in _newest(jobs, count)[0]] for count in (1, 2, 3, 9)] == [
        [6], [2, 5, 6], [2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6],
    ]  # fmt: skip
    assert [_newest(jobs, count)[1] for count in (1, 2, 3, 9)] == [5, 3, 1, 0]


def test_a_kill_for_memory_is_seen_in_the_list() -> None:
    def shown(reason: str) -> str:
        return exit_text(new_record(server="s", command="c", signal="KILL", reason=reason))

    assert shown("rank 3 was killed by the kernel: out of memory (limit 2 GiB)") == "OOM"
    assert shown("was killed by the kernel: out of memory") == "OOM"
    assert shown("stopped: rank 3 on b was killed by the kernel: out of memory") == "SIGKILL"
    assert shown("was killed by signal KILL, probably by the kernel: memory had run out") == "SIGKILL"


def test_what_is_shown_of_a_job_says_how_to_read_each_attempt(capsys: pytest.CaptureFixture[str]) -> None:
    attempts = [{"attempt": 0, "cause": {"server": "s", "exit_code": 3}}, {"attempt": 1}]
    job = new_record(key=7, server="s", command="c", state=JobState.SUCCEEDED, details={"attempts": attempts})
    _show_group([job], verdict_of([job]), ".jobs")
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("attempt    0: ran –: s exited with 3")
    assert lines[at + 2].strip() == "rl job-tail 7 --attempt 0 shows the output of that one"
    assert "--attempt" not in "".join(lines[:at])


def test_the_attempts_of_a_launch_are_those_of_who_knows_most(capsys: pytest.CaptureFixture[str]) -> None:
    """What servers tell may have any shape."""
    both = [{"attempt": 0}, {"attempt": 1}]
    told = [7, {"a": 1, "b": 2, "c": 3}, both[:1], both]
    jobs = [
        new_record(key=key, server="s", command="c", launch_id="l", details={"attempts": one})
        for key, one in enumerate(told, 1)
    ]
    _show_group(jobs, verdict_of(jobs), ".jobs")
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("attempt")]
    assert [line.split()[1] for line in shown] == ["0:", "1:"]


def test_attempts_whose_logs_are_gone_say_so() -> None:
    attempts = [{"attempt": 0}, {"attempt": 1, "logs_removed": True}, {"attempt": 2, "logs_removed": "x"}]
    job = new_record(server="s", command="c", details={"attempts": attempts})
    assert [" (its logs were removed)" in text for text in attempt_lines(job)] == [False, True, False]


def test_a_server_can_not_add_lines_to_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "failed\njob 8      t: SUCCEEDED 0"
    job = new_record(key=7, server="s", command="a\nb", state=JobState.FAILED, reason=reason)
    _show_group([job], verdict_of([job]), ".jobs")
    lines = capsys.readouterr().out.splitlines()
    assert "command    a" in lines
    assert " " * 11 + "b" in lines
    assert not [line for line in lines if line.startswith("job 8")]


def test_the_attempt_of_a_job_alone_is_in_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"server": "s", "command": "c", "attempt": 2}
    states = (JobState.RUNNING, JobState.FAILED)
    jobs = [new_record(key=key, state=state, **fields) for key, state in enumerate(states, 1)]
    print_jobs(jobs, {"s"}, opened=False)
    out = capsys.readouterr().out
    assert "RUNNING (attempt 2)" in out  # as $RL_ATTEMPT and --attempt have it
    assert out.count("attempt") == 1


def test_a_launch_that_never_ran_has_no_duration(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"server": "s", "command": "c", "launch_id": "l", "nnodes": 2, "state": JobState.QUEUED}
    print_jobs([new_record(key=rank + 1, node_rank=rank, **fields) for rank in range(2)], {"s"}, opened=False)
    out = capsys.readouterr().out
    assert "0.0 s" not in out
    assert out.count("–") == 2  # started, duration


def test_a_rest_between_two_attempts_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = now()  # the machine may pause at any point
    monkeypatch.setattr("remote_launch.core.jobs.now", lambda: at)

    def jobs(in_s: float, state: JobState = JobState.RUNNING) -> list[JobRecord]:
        coming = {"attempt": 1, "words": "restart 1 of 3", "at": at + in_s}
        fields = {"server": "s", "command": "c", "launch_id": "l", "nnodes": 2, "state": state}
        return [
            new_record(key=rank + 1, node_rank=rank, details={"next_attempt": coming}, **fields)
            for rank in range(2)
        ]

    waiting = jobs(19.9)
    print_jobs(waiting, {"s"}, opened=False)
    print_jobs(waiting, {"s"}, opened=True)
    assert capsys.readouterr().out.count("restarting in 20 s: restart 1 of 3") == 3
    print_jobs(jobs(-1), {"s"}, opened=False)
    assert "RUNNING (restarting: restart 1 of 3)" in capsys.readouterr().out
    _show_group(waiting, verdict_of(waiting), ".jobs")
    assert capsys.readouterr().out.count("next       restarting in 20 s: restart 1 of 3") == 1
    print_jobs(jobs(9, JobState.KILLED), {"s"}, opened=True)
    assert "restart" not in capsys.readouterr().out


def test_where_a_node_was_reached_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    choices = {"network": {"address": "10.0.0.7", "interface": "eth1", "reason": "10.0.0.7 on eth1: private"}}
    jobs = [new_record(key=7, server="s", command="c", choices=choices)]
    jobs += [new_record(key=8, server="t", command="c", choices={"network": broken}) for broken in (7, {})]
    _show_group(jobs, verdict_of(jobs), ".jobs")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if "network" in line]
    assert lines == ["network 10.0.0.7 on eth1: private"]
