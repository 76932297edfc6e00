"""What a job asks of its server's queue, and what a server's answer is taken for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from remote_launch.cli.queue import _wish
from remote_launch.core.cards import CardChoice
from remote_launch.core.gpus import GpuWish
from remote_launch.core.inventory import Server
from remote_launch.core.job_specs import QueueSpec
from remote_launch.core.jobs import JobRecord, JobState
from remote_launch.errors import UsageError
from remote_launch.operations.queue import (
    InQueue,
    Line,
    Queue,
    Slot,
    _line,
    launch_queue,
    left_to_queue,
    one_a_machine,
    queue_spec,
)
from remote_launch.operations.records import updated
from remote_launch.operations.start import _started

PLAIN = Server(name="a", workdir="~/x")
SLOTTED = Server(name="a", workdir="~/x", slots=4)
RECORD = JobRecord(job_id="0" * 32, server="a", command="true")


def test_a_job_needs_one_of_what_the_server_has() -> None:
    assert queue_spec(PLAIN) == QueueSpec(need=1)
    assert queue_spec(PLAIN).words == "1 card"
    assert queue_spec(SLOTTED, slots=2).words == "2 slots"
    assert queue_spec(SLOTTED) == QueueSpec(need=1, slots=4)
    assert queue_spec(SLOTTED, slots=2) == QueueSpec(need=2, slots=4)
    assert queue_spec(SLOTTED, gpus=2) == QueueSpec(need=2, kind="gpu", slots=4)
    with pytest.raises(UsageError, match="not for both"):
        queue_spec(PLAIN, slots=1, gpus=1)


@pytest.mark.parametrize("count", ["2", 1.5, True, -1])
def test_what_is_no_count(count: Any) -> None:
    with pytest.raises(UsageError, match="is not a number of gpus"):
        queue_spec(PLAIN, gpus=count)
    with pytest.raises(UsageError, match="is not a number of slots"):
        queue_spec(PLAIN, slots=count)


def test_a_node_of_a_launch_needs_one_a_rank_or_the_cards_it_was_told() -> None:
    node = SimpleNamespace(nproc=3)
    assert launch_queue(SLOTTED, node, GpuWish(), None).need == 3
    assert launch_queue(SLOTTED, node, GpuWish(), 2).need == 2
    assert launch_queue(PLAIN, node, GpuWish(per_node=2), None) == QueueSpec(need=2, kind="gpu")
    assert launch_queue(PLAIN, node, GpuWish(named={"a": ("0", "2")}), None).need == 2


def test_a_launch_that_queues_fixes_only_the_cards_that_were_named() -> None:
    choice = CardChoice(server="a", count=2, env={"CUDA_VISIBLE_DEVICES": "0,1"}, reason="a: cards 0, 1")
    assert left_to_queue(choice, GpuWish(named={None: ("0", "1")})) == choice
    left = left_to_queue(choice, GpuWish(per_node=2))
    assert (left.count, dict(left.env), left.reason) == (2, {}, "")


def test_a_start_that_waits_is_queued_with_its_place() -> None:
    queued = {"ahead": 2, "need": 1, "of": 4, "ticket": 7}
    job = _started(RECORD, {"started_at": None, "queued": queued, "reason": "2 jobs ahead"})
    assert (job.state, job.reason, job.started_at) == (JobState.QUEUED, "2 jobs ahead", None)
    assert job.details["queue"] == {"ahead": 2, "need": 1, "of": 4}
    assert job.duration_s is None
    running = updated(job, {"state": "RUNNING", "started_at": 5e8})
    assert (running.state, running.started_at) == (JobState.RUNNING, 5e8)
    assert "queue" not in running.details


def test_an_answer_is_taken_with_care() -> None:
    line = _line(
        {
            "kind": 7,
            "slots": [{"name": "0", "holder": {"job_id": 3, "since": "x"}}, "rubbish", {"used_by": ["x"]}],
            "waiting": [{"command": "a", "need": 2, "since": 100.0, "may_have": ["0", 7]}, None],
        },
        10.0,
    )
    assert line.kind == "slot"
    assert [slot.name for slot in line.slots] == ["0", "?"]
    assert line.slots[0].holder is not None
    assert line.slots[0].holder.since is None
    assert [(job.command, job.need, job.since) for job in line.waiting] == [("a", 2, 110.0)]
    assert line.waiting[0].may_have == ("0",)


@pytest.mark.parametrize(("need", "may_have", "words"), [
    (2, (), "2 cards"),
    (1, ("0", "1", "2"), "1 card"),
    (1, ("1",), "card 1"),
    (2, ("0", "2"), "cards 0, 2"),
    (1, ("0", "2"), "1 of cards 0, 2"),
])
def test_what_a_job_waits_for_is_named_where_not_all_will_do(
    need: int, may_have: tuple[str, ...], words: str
) -> None:
    job = InQueue(job_id="j", command="c", workdir="w", need=need, since=None, may_have=may_have)
    line = Line(kind="gpu", slots=tuple(Slot(name=name) for name in "012"), waiting=(job,))
    assert _wish(job, line) == words


def test_servers_that_are_one_machine_have_one_queue() -> None:
    here, there = Queue(lines=(), machine="m1", slots=2), Queue(lines=(), machine="m2", slots=2)
    other_count, untold = Queue(lines=(), machine="m1", slots=1), Queue(lines=(), machine=None)
    found = one_a_machine({"a": here, "b": there, "c": here, "d": other_count, "e": untold, "f": untold})
    assert [names for names, _ in found] == [["a", "c"], ["b"], ["d"], ["e"], ["f"]]
    assert [queue for _, queue in found][:2] == [here, there]
