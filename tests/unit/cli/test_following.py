"""Ctrl-C while the logs are shown."""

from __future__ import annotations

from typing import Any

import pytest

from remote_launch.cli import following
from remote_launch.core.jobs import JobRecord
from remote_launch.operations.log_events import Selection


class Interrupted:
    """A follower in whose first wait the user presses Ctrl-C."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __enter__(self) -> Interrupted:
        return self

    def __exit__(self, *_: object) -> None: ...
    def __iter__(self) -> Interrupted:
        return self

    def __next__(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("asks", "asked"), [(True, 1), (False, 0)])
def test_who_launched_is_asked_and_who_looked_on_leaves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asks: bool, asked: int
) -> None:
    questions: list[int] = []
    monkeypatch.setattr("remote_launch.operations.follow.Follower", Interrupted)
    monkeypatch.setattr(following, "_ask_at_interrupt", lambda: questions.append(1) or "detach")
    jobs = [JobRecord(job_id="0" * 32, server="a", command="c")]
    code = following.follow_to_end(None, jobs, as_json=False, selection=Selection(lines=0), asks=asks)  # type: ignore[arg-type]
    assert (code, len(questions)) == (130, asked)
    assert "the jobs go on" in capsys.readouterr().err
