"""The user's command after the end of a job: once, with the verdict, its secrets kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from remote_launch.remote import notify
from tests.support.served import Launch, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served import Served

TELL = "env | grep ^RL_ | sort > told; echo said; echo worse >&2"


def told(workdir: Path) -> dict[str, str]:
    until((workdir / "told").exists, "the command runs")
    log = next((workdir / ".jobs").glob("*/notify.log"))
    until(lambda: "rl: the command" in log.read_text(), "the command ends")
    return dict(line.split("=", 1) for line in (workdir / "told").read_text().splitlines())


def test_it_is_told_what_a_job_came_to(served: Served) -> None:
    job_id = served.start(
        "echo why >&2; exit 37", notify=TELL, tags=("a", "b c"), name="prep", command="wget https://me:pw@host/x"
    )
    found = told(served.workdir)
    end = served.read(job_id, "exit.json")
    expected = {
        "RL_STATE": "FAILED", "RL_EXIT_CODE": "37", "RL_SIGNAL": "", "RL_REASON": "exited with 37",
        "RL_JOB_ID": job_id, "RL_LAUNCH_ID": "", "RL_SERVER": "s0", "RL_TAGS": "a,b c", "RL_NAME": "prep",
        "RL_NNODES": "1", "RL_COMMAND": "wget https://•••@host/x",
        "RL_DURATION_S": str(round(end["duration_s"])),
    }
    assert {name: found.get(name) for name in expected} == expected
    log = served.folder(job_id) / "notify.log"
    assert log.read_text() == "said\nworse\nrl: the command exited with 0\n"
    assert served.probe(job_id)["log_bytes"] >= log.stat().st_size


@pytest.mark.parametrize(
    ("shell", "state", "code", "signal"),
    [("true", "SUCCEEDED", "0", ""), ("kill -SEGV $$", "FAILED", "", "SEGV")],
)
def test_states(served: Served, shell: str, state: str, code: str, signal: str) -> None:
    served.start(shell, notify=TELL)
    found = told(served.workdir)
    assert (found["RL_STATE"], found["RL_EXIT_CODE"], found["RL_SIGNAL"]) == (state, code, signal)


def test_a_killed_job(served: Served) -> None:
    job_id = served.start("exec sleep 600", notify=TELL)
    served.kill(job_id)
    found = told(served.workdir)
    assert (found["RL_STATE"], found["RL_REASON"]) == ("KILLED", "killed by me@laptop")


def test_the_exit_record_is_there_before_it_runs(served: Served) -> None:
    """What waits for the job's end does not wait for the command."""
    job_id = served.start("true", notify="ls $RL_JOB_DIR > there")
    served.wait(job_id)
    until((served.workdir / "there").exists, "the command runs")
    until(lambda: "exit.json" in (served.workdir / "there").read_text(), "the listing is whole")


def test_secrets_are_in_its_environment_and_nowhere_else(served: Served) -> None:
    command = 'test "$HOOK_TOKEN" = s3cret || exit 1; : https://hooks/T0/B0; touch known'
    job_id = served.start("exec sleep 0.2", notify=command, secret_env={"HOOK_TOKEN": "s3cret"})
    served.wait(job_id)
    until((served.workdir / "known").exists, "the command runs")
    for path in served.folder(job_id).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"s3cret" not in content, path
            assert b"hooks" not in content, path


def test_a_command_that_fails_changes_nothing(served: Served) -> None:
    job_id = served.start("true", notify="echo no >&2; exit 3")
    assert served.wait(job_id)["state"] == "SUCCEEDED"
    log = served.folder(job_id) / "notify.log"
    until(lambda: log.exists() and log.read_text() == "no\nrl: the command exited with 3\n", "it is told")


def test_a_command_may_write_more_than_words(served: Served) -> None:
    served.start("true", notify="head -c 5000000 /dev/zero > draft.new && mv draft.new draft")
    until((served.workdir / "draft").exists, "it is written")


def test_a_command_that_does_not_end_is_stopped(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.5)
    log = tmp_path / "log"
    begun = time.monotonic()
    with log.open("wb") as out:
        env = {**served.env, "RL_NOTIFY_COMMAND": "sleep 600 & sleep 600"}
        assert notify._run(env, str(tmp_path), out.fileno()) == "was stopped after 0.5 s"
    assert time.monotonic() - begun < 60


def test_once_a_launch_with_its_cause(nodes: list[Served]) -> None:
    launch = Launch(nodes)
    for rank, shell in enumerate(("exec sleep 600", "sleep 0.3; exit 37")):
        command = "env | grep ^RL_ > told; echo x >> times" if rank == 0 else None
        spec = launch.spec(rank, shell, notify=command)
        assert nodes[rank].call("start", spec=spec)["state"] == "STARTED"
    found = told(nodes[0].workdir)
    assert (found["RL_STATE"], found["RL_EXIT_CODE"], found["RL_SERVER"]) == ("FAILED", "37", "s0")
    assert found["RL_REASON"] == "the command on s1 exited with 37"
    assert found["RL_NNODES"] == "2"
    launch.wait(1)
    assert (nodes[0].workdir / "times").read_text() == "x\n"


def test_a_launch_that_failed_elsewhere_has_not_succeeded_here() -> None:
    cause = {"server": "b", "rank": 3, "exit_code": None, "signal": "SEGV"}
    end = {"state": "SUCCEEDED", "exit_code": 0, "signal": None, "cause": cause, "reason": None}
    found = notify.verdict_env({"job_id": "x"}, end, {"state": "FAILED"})
    assert (found["RL_STATE"], found["RL_EXIT_CODE"], found["RL_SIGNAL"]) == ("FAILED", "", "SEGV")
    assert found["RL_REASON"] == "rank 3 on b was killed by signal SEGV"


def test_a_command_that_is_no_text_is_refused(served: Served) -> None:
    spec = {**served.spec("true"), "notify": ["x"]}
    assert served.call("start", spec=spec)["error"]["type"] == "RequestError"
