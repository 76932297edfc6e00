"""What a launch came to, from the records of its jobs."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from remote_launch.core.jobs import JobRecord, JobState
from remote_launch.core.places import first_node
from remote_launch.core.verdict import describe_cause, verdict_of

_NUMBERS = itertools.count(1)


def job(state: JobState, **fields: Any) -> JobRecord:
    number = next(_NUMBERS)
    return JobRecord(
        **{"job_id": f"{number:032x}", "server": f"s{number}", "command": "x", "state": state, **fields}
    )


def test_success_is_when_all_succeeded() -> None:
    verdict = verdict_of([job(JobState.SUCCEEDED, exit_code=0), job(JobState.SUCCEEDED, exit_code=0)])
    assert (verdict.state, verdict.exit_code, verdict.cause) == (JobState.SUCCEEDED, 0, None)


def test_one_that_is_unfinished_keeps_the_launch_unfinished() -> None:
    verdict = verdict_of([job(JobState.FAILED, exit_code=1), job(JobState.RUNNING)])
    assert verdict.state is JobState.RUNNING
    assert verdict.text == "1 of 2 jobs unfinished"
    assert verdict.exit_code != 0  # nobody may take "not known yet" for success
    assert verdict.to_dict()["exit_code"] is None


def test_the_cause_is_told_while_a_node_is_out_of_reach() -> None:
    """A machine that has lost its power is the cause, and can't say how its own job ended."""
    cause = {"rank": None, "server": "s9", "message": "node 1 (s9) was lost", "lost": True}
    verdict = verdict_of([job(JobState.FAILED, details={"cause": cause}), job(JobState.RUNNING)])
    assert verdict.state is JobState.RUNNING
    assert verdict.text == "1 of 2 jobs unfinished; s9: node 1 (s9) was lost"
    assert verdict.cause == cause


def test_a_persons_kill_wins_over_what_it_did_to_the_others() -> None:
    verdict = verdict_of([job(JobState.FAILED, signal="TERM"), job(JobState.KILLED, signal="TERM")])
    assert (verdict.state, verdict.exit_code) == (JobState.KILLED, 143)


def test_the_cause_that_the_supervisors_agreed_on_decides() -> None:
    cause = {"rank": 3, "server": "gpu-b", "exit_code": 37, "tail": "ValueError"}
    verdict = verdict_of(
        [
            job(JobState.FAILED, exit_code=1, ended_at=1.0),
            job(JobState.FAILED, exit_code=1, ended_at=2.0, details={"cause": cause}),
        ]
    )
    assert (verdict.exit_code, verdict.text, verdict.cause) == (37, "rank 3 on gpu-b exited with 37", cause)


def test_without_a_cause_the_earliest_failure_that_was_no_stop_decides() -> None:
    stopped = job(JobState.FAILED, signal="TERM", ended_at=1.0)
    later = job(JobState.FAILED, exit_code=9, ended_at=3.0)
    first = job(JobState.FAILED, exit_code=7, ended_at=2.0)
    verdict = verdict_of([stopped, later, first])
    assert (verdict.exit_code, verdict.text) == (7, f"{first.server}: exited with 7")


def test_a_signal_is_128_and_its_number() -> None:
    assert verdict_of([job(JobState.FAILED, signal="KILL", reason="ended by KILL")]).exit_code == 137
    assert verdict_of([job(JobState.FAILED, signal="NOSUCH")]).exit_code == 1
    for name, code in (("37", 165), ("RTMIN", 162), ("0", 1), ("999", 1)):
        assert verdict_of([job(JobState.FAILED, signal=name)]).exit_code == code


def test_lost_is_said_and_is_a_failure() -> None:
    verdict = verdict_of([job(JobState.LOST, reason="the server rebooted", server="gpu-a")])
    assert (verdict.state, verdict.exit_code) == (JobState.LOST, 1)
    assert verdict.text == "lost on gpu-a: the server rebooted"


@pytest.mark.parametrize(
    ("exit_code", "expected"),
    [(256, 1), (257, 1), (255, 255), (-1, 255), (0, 1), (None, 1), ("37", 1), ([], 1)],
)
def test_a_failure_never_reads_as_success(exit_code: Any, expected: int) -> None:
    cause = {"server": "s", "exit_code": exit_code}
    assert verdict_of([job(JobState.FAILED, details={"cause": cause})]).exit_code == expected


@pytest.mark.parametrize(
    "cause", ["rubbish", ["x"], 3, {"rank": {}, "signal": 9}, {"exit_code": "x", "tail": 4}]
)
def test_what_a_server_says_is_not_trusted_to_have_a_shape(cause: Any) -> None:
    verdict = verdict_of([job(JobState.FAILED, exit_code=5, details={"cause": cause})])
    assert verdict.state is JobState.FAILED
    assert verdict.exit_code != 0


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        ({"rank": 0, "server": "a", "signal": "SEGV"}, "rank 0 on a was ended by signal SEGV"),
        ({"server": "a", "exit_code": 2}, "a exited with 2"),
        ({"server": "a", "message": "fell silent", "signal": "KILL"}, "a: fell silent"),
        ({"server": "a", "rank": 1, "message": "gone"}, "rank 1 on a: gone"),
        ({"server": "a"}, "a: lost"),
    ],
)
def test_a_cause_in_a_sentence(cause: dict[str, Any], text: str) -> None:
    assert describe_cause(cause) == text


def test_an_abort_in_gloos_shutdown_says_that_the_script_may_have_finished() -> None:
    tail = "terminate called without an active exception\nFatal Python error: Aborted"
    cause = {"server": "b", "rank": 3, "signal": "ABRT", "tail": tail}
    assert "may have finished" in describe_cause(cause)
    assert "may have finished" not in describe_cause({**cause, "tail": "assert failed"})


def test_a_kill_for_memory_is_named() -> None:
    by = "the kernel: out of memory (limit 2 GiB)"
    cause = {"server": "gpu-b", "rank": 3, "signal": "KILL", "killed_by": by}
    assert describe_cause(cause) == "rank 3 on gpu-b was killed by the kernel: out of memory (limit 2 GiB)"
    assert describe_cause({**cause, "killed_by": [1]}) == "rank 3 on gpu-b was ended by signal KILL"


def test_a_node_that_was_replaced_and_a_spare_that_was_not_needed_say_nothing() -> None:
    def node(rank: int, state: JobState, **fields: Any) -> JobRecord:
        return job(state, server=f"s{rank}", node_rank=rank, nnodes=2, launch_id="f" * 32, **fields)

    first = node(0, JobState.SUCCEEDED, details={"replaced": {"s1": "s2"}})
    lost, spare = node(1, JobState.RUNNING), node(2, JobState.SUCCEEDED)
    assert verdict_of([first, lost, spare, node(3, JobState.FAILED)]).state is JobState.SUCCEEDED
    assert verdict_of([first, lost, node(2, JobState.RUNNING)]).state is JobState.RUNNING
    assert verdict_of([first, lost, node(2, JobState.FAILED, exit_code=37)]).exit_code == 37
    assert verdict_of([first, lost]).state is JobState.RUNNING  # the spare isn't known yet
    # As another laptop finds it on the servers: the spare is node 1 there.
    found = dataclasses.replace(spare, node_rank=1)
    assert verdict_of([first, dataclasses.replace(lost, state=JobState.LOST), found]).exit_code == 0


@pytest.mark.parametrize("word", [["s2"], {}, 7, None])
def test_a_server_may_tell_any_shape_of_a_replacement(word: Any) -> None:
    first = job(JobState.SUCCEEDED, server="s0", node_rank=0, nnodes=2, details={"replaced": {"s1": word}})
    second = job(JobState.LOST, server="s1", node_rank=1, nnodes=2)
    assert verdict_of([first, second]).state is JobState.LOST


def test_a_node_0_that_was_replaced_says_nothing_either() -> None:
    def node(rank: int, state: JobState, **fields: Any) -> JobRecord:
        return job(state, server=f"s{rank}", node_rank=rank, nnodes=2, launch_id="f" * 32, **fields)

    told = {"replaced": {"s0": "s2"}}
    second, spare = node(1, JobState.SUCCEEDED, details=told), node(2, JobState.SUCCEEDED, details=told)
    for state in (JobState.LOST, JobState.RUNNING, JobState.FAILED):  # it may be out of reach for ever
        assert verdict_of([node(0, state), second, spare]).state is JobState.SUCCEEDED
    running = [node(0, JobState.LOST), node(1, JobState.RUNNING, details=told), node(2, JobState.RUNNING)]
    assert verdict_of(running).state is JobState.RUNNING
    # Replaced in turn: what each of them knew.
    known = {"replaced": {"s0": "s2", "s2": "s3"}}
    jobs = [node(0, JobState.LOST), node(1, JobState.SUCCEEDED, details=known)]
    jobs += [node(2, JobState.LOST, details=told), node(3, JobState.SUCCEEDED, details=known)]
    assert verdict_of(jobs).state is JobState.SUCCEEDED
    assert first_node(jobs).server == "s3"
    assert first_node(jobs[:1]).server == "s0"


def test_places_that_go_round_in_a_circle_are_no_trap() -> None:
    told = {"replaced": {"s0": "s1", "s1": "s0"}}
    jobs = [job(JobState.LOST, server=f"s{rank}", node_rank=rank, nnodes=2, details=told) for rank in (0, 1)]
    assert first_node(jobs) in jobs
