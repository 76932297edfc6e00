"""The user's command on this computer after the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.jobs import JobState
from remote_launch.core.verdict import verdict_of
from remote_launch.operations import notify
from tests.support.records import new_record

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def ended(**fields: object) -> list:
    given = {"server": "gpu-a", "command": "train it", "started_at": 1.0, "ended_at": 91.0}
    return [new_record(**{**given, "tags": ("a", "b"), "state": JobState.FAILED, "exit_code": 37, **fields})]


def test_it_gets_the_verdict(tmp_path: Path) -> None:
    jobs = ended()
    words = "$RL_STATE $RL_EXIT_CODE $RL_SERVER $RL_TAGS $RL_DURATION_S $RL_COMMAND"
    command = f'echo "{words}" > {tmp_path}/told'
    assert notify.notify_here(command, jobs, verdict_of(jobs)) is None
    assert (tmp_path / "told").read_text() == "FAILED 37 gpu-a a,b 90 train it\n"


def test_success_has_no_reason() -> None:
    jobs = ended(state=JobState.SUCCEEDED, exit_code=0)
    told = notify.verdict_env(jobs, verdict_of(jobs))
    assert (told["RL_REASON"], told["RL_EXIT_CODE"]) == ("", "0")


def test_spares_are_not_counted_as_nodes() -> None:
    jobs = [ended(nnodes=2, node_rank=rank)[0] for rank in range(3)]
    assert notify.verdict_env(jobs, verdict_of(jobs))["RL_NNODES"] == "2"
    assert notify.verdict_env(ended(), verdict_of(ended()))["RL_NNODES"] == "1"


def test_a_failure_is_told_in_words() -> None:
    jobs = ended()
    told = notify.notify_here("echo 'no such topic' >&2; exit 22", jobs, verdict_of(jobs))
    assert told == "exit code 22: no such topic"


def test_a_command_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.3)
    jobs = ended()
    assert notify.notify_here("sleep 60", jobs, verdict_of(jobs)) == "it was stopped after 0.3 s"
