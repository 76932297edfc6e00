"""What is kept of a job's attempts."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from remote_launch.remote.attempts import (
    LOGS_KEPT,
    RECORDS_KEPT,
    Attempts,
    attempt_record,
    next_attempt,
    to_come,
)
from remote_launch.remote.jobdir import STATE_LIMIT_BYTES, JobDir

if TYPE_CHECKING:
    from pathlib import Path


def write_logs(folder: Path, attempt: int) -> None:
    """What an attempt leaves: its logs, those of a rank, failures, stacks."""
    job = JobDir(str(folder), attempt)
    rank = folder / job.ranks / "none_x" / "attempt_0" / "0"
    rank.mkdir(parents=True)
    (folder / "stacks").mkdir(exist_ok=True)
    prefix = f"attempt-{attempt}-" if attempt else ""
    for path in (job.out, job.err, rank / "stdout.log", job.failures, folder / f"stacks/{prefix}rank-0.txt"):
        (folder / path).write_text(f"{attempt}")


def test_the_logs_of_the_first_and_the_last_attempts_are_kept(tmp_path: Path) -> None:
    attempts, last = Attempts(JobDir(str(tmp_path))), LOGS_KEPT + 3
    kept_by_others = [tmp_path / name for name in ("job.x.out", "job.1.outs", "ranks.1.old", "spec.json")]
    for path in kept_by_others:
        path.touch()
    for attempt in range(last):
        write_logs(tmp_path, attempt)
        attempts.close(attempt, 1.0, 2.0, {"exit_code": 1})
        attempts.rest(attempt)
    write_logs(tmp_path, last)
    kept = [0, *range(last - LOGS_KEPT + 1, last + 1)]
    found = [n for n in range(last + 1) if (tmp_path / JobDir("", n).out.lstrip("/")).exists()]
    assert found == kept
    assert [n for n in range(last + 1) if (tmp_path / JobDir("", n).ranks.lstrip("/")).exists()] == kept
    assert len(list((tmp_path / "stacks").iterdir())) == len(kept)
    assert len(list(tmp_path.glob("failures*.json"))) == len(kept)
    assert all(path.exists() for path in kept_by_others)
    assert [one["attempt"] for one in attempts.past if not one.get("logs_removed")] == kept[:-1]


def test_what_a_link_leads_to_stays(tmp_path: Path) -> None:
    folder, other = tmp_path / "job", tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    folder.mkdir()
    (folder / "ranks.1").symlink_to(other)
    attempts = Attempts(JobDir(str(folder)))
    attempts.rest(LOGS_KEPT + 1)
    assert not (folder / "ranks.1").is_symlink()
    assert (other / "mine").exists()


def test_the_first_of_very_many_attempts_is_remembered(tmp_path: Path) -> None:
    attempts = Attempts(JobDir(str(tmp_path)))
    for attempt in range(RECORDS_KEPT + 5):
        attempts.close(attempt, 1.0, 2.0, None)
    assert [one["attempt"] for one in attempts.past] == [0, *range(6, RECORDS_KEPT + 5)]
    assert attempts.is_over(RECORDS_KEPT + 4)
    assert not attempts.is_over(3)


def test_the_records_of_many_attempts_stay_readable() -> None:
    cause = {"exit_code": 1, "tail": "\U0001f525" * 20_000}
    records = [attempt_record(number, 1.0, 2.0, cause) for number in range(RECORDS_KEPT)]
    assert len(json.dumps(records)) < STATE_LIMIT_BYTES


def test_the_attempt_to_come_is_told_by_how_far_off_it_is() -> None:
    told = next_attempt(0, {"words": "restart 1 of 3", "delay_s": 60.0})
    coming = to_come({"next_attempt": told})
    assert coming is not None
    assert (coming["attempt"], coming["words"]) == (1, "restart 1 of 3")
    assert 50 < coming["in_s"] <= 60
    assert (to_come({"next_attempt": {**told, "at": time.time() - 5}}) or {})["in_s"] == 0
    for rubbish in (None, [], {}, {"attempt": 1}, {"at": "soon", "attempt": 1}):
        assert to_come({"next_attempt": rubbish}) is None
