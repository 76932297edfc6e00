"""Job records and specs as data: what is printed has no secret in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from remote_launch.core.job_specs import GangSpec, JobSpec
from remote_launch.core.jobs import JobRecord, JobState, iso, new_id

SECRET, TOKEN = "hunter2-very-secret", "0123456789abcdef-token"


def spec(**fields: Any) -> JobSpec:
    gang = GangSpec(address="10.0.0.1", port=20002, token=TOKEN, nnodes=2, servers=("a", "b"))
    return JobSpec(
        **{
            "job_id": new_id(),
            "server": "a",
            "workdir": "/w",
            "torchrun": ("train.py",),
            "env": {"LR": "0.1"},
            "secret_env": {"WANDB_API_KEY": SECRET, "PLAIN_NAME": SECRET},
            "gang": gang,
            **fields,
        }
    )


class TestSecrets:
    def test_the_wire_has_them(self) -> None:
        wire = spec().to_wire()
        assert wire["secret_env"]["WANDB_API_KEY"] == SECRET
        assert wire["gang"]["token"] == TOKEN
        json.dumps(wire)

    @pytest.mark.parametrize("show", [lambda one: json.dumps(one.to_dict()), repr, str])
    def test_nothing_for_people_has(self, show: Any) -> None:
        text = show(spec())
        assert SECRET not in text
        assert TOKEN not in text

    def test_but_their_names_are_shown(self) -> None:
        shown = spec().to_dict()
        assert shown["env"]["WANDB_API_KEY"] == "•••"
        assert shown["env"]["LR"] == "0.1"
        assert "secret_env" not in shown
        assert "token" not in shown["gang"]

    def test_a_secret_that_came_in_the_plain_variables_is_masked_too(self) -> None:
        assert spec(env={"HF_TOKEN": SECRET}).to_dict()["env"]["HF_TOKEN"] == "•••"

    def test_a_login_in_a_url_is_masked_too(self) -> None:
        url = f"https://me:{SECRET}@host/x"
        shown = spec(torchrun=("train.py", url), command=f"torchrun train.py {url}", env={"PROXY": url})
        assert SECRET not in json.dumps(shown.to_dict())


class TestRecord:
    def test_json_is_plain_and_times_are_iso_utc(self) -> None:
        record = JobRecord(
            job_id="a" * 32,
            server="s",
            command="c",
            state=JobState.FAILED,
            exit_code=3,
            created_at=1700000000.25,
            started_at=1700000001.0,
            ended_at=1700000003.5,
            tags=("x",),
        )
        data = json.loads(json.dumps(record.to_dict()))
        assert data["state"] == "FAILED"
        assert data["created_at"] == "2023-11-14T22:13:20.250Z"
        assert data["duration_s"] == 2.5
        assert data["seen_at"] is None
        assert data["tags"] == ["x"]

    def test_a_jobs_clock_stops_where_its_server_went_out_of_sight(self) -> None:
        record = JobRecord(job_id="a", server="s", command="c", started_at=100.0, unreachable_since=160.0)
        assert record.duration_s == 60.0
        assert JobRecord(job_id="a", server="s", command="c").duration_s is None
        assert JobRecord(job_id="a", server="s", command="c", started_at=9.0, ended_at=8.0).duration_s == 0.0

    def test_a_job_whose_end_is_unknown_does_not_run_on(self) -> None:
        record = JobRecord(job_id="a", server="s", command="c", state=JobState.LOST, started_at=100.0)
        assert record.duration_s is None

    @pytest.mark.parametrize("state", list(JobState))
    def test_terminal_states_are_the_four_ends(self, state: JobState) -> None:
        assert state.is_terminal == (state.value in {"SUCCEEDED", "FAILED", "KILLED", "LOST"})
        assert str(state) == state.value

    def test_iso_of_nothing(self) -> None:
        assert iso(None) is None
        assert iso(0) is None

    def test_ids_are_32_hex_digits_and_differ(self) -> None:
        ids = {new_id() for _ in range(100)}
        assert len(ids) == 100
        assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)
