"""What a server tells of its environment, as states and sentences."""

from __future__ import annotations

from typing import Any

import pytest

from remote_launch.operations.clean import Amount, Stored
from remote_launch.operations.environments import EnvironmentReport, environment_state, with_shared
from remote_launch.operations.fanout import Outcome, Outcomes


@pytest.mark.parametrize(
    ("folder", "parts", "state"),
    [
        ("there", ["done", "done"], "up_to_date"),
        ("there", ["done"], "up_to_date"),
        ("existing", ["done", "done"], "up_to_date"),
        ("there", ["done", "changed"], "packages_changed"),
        ("there", ["done", "platform"], "packages_changed"),
        ("there", ["done", "absent"], "packages_missing"),
        ("there", ["changed", "done"], "changed"),
        ("there", ["platform", "done"], "other_platform"),
        ("there", ["absent", "absent"], "unfinished"),
        ("absent", ["absent", "absent"], "absent"),
        ("existing", ["absent"], "absent"),
        ("foreign", ["absent"], "foreign"),
        (None, [], "absent"),
        (["rubbish"], "rubbish", "absent"),
    ],
)
def test_the_state_of_an_environment(folder: Any, parts: Any, state: str) -> None:
    assert environment_state({"state": folder, "parts": parts, "interpreter": "/env/bin/python"}) == state


def test_an_environment_whose_interpreter_is_gone_is_broken() -> None:
    assert environment_state({"state": "there", "parts": ["done", "done"], "interpreter": None}) == "broken"


def report(server: str, home: str | None) -> Outcome[EnvironmentReport]:
    found = EnvironmentReport(
        server=server, manager="uv", prefix="~/p", python="p", state="up_to_date", versions={}, packages=1,
        made_at=None, home=home,
    )  # fmt: skip
    return Outcome(server, found)


def test_servers_with_one_folder_are_told_of_each_other() -> None:
    told = with_shared(Outcomes([report("a", "h"), report("b", "h"), report("c", "x"), report("d", None)]))
    assert {name: one.shared_with for name, one in told.values.items()} == {
        "a": ("b",), "b": ("a",), "c": (), "d": (),
    }  # fmt: skip
    assert "home" not in told["a"].value.to_dict()  # type: ignore[union-attr]


def test_what_stays_is_one_sentence_a_reason() -> None:
    amount = Amount(files=1, size_bytes=5, linked_bytes=0)
    runs = {"environment": "1 job still runs", "code": "1 job still runs", "cache": "disk on fire"}
    stored = Stored(server="a", workdir="~/p", amounts={"jobs": amount}, kept=runs, running=1)
    assert stored.kept_text == "environment and code stay: 1 job still runs; cache stays: disk on fire"
    assert stored.error is not None
    assert "rl job-kill" in str(stored.error.hint)
    assert set(stored.to_dict()) == {
        "server", "workdir", "environment", "amounts", "jobs_ended", "jobs_running", "kept",
    }  # fmt: skip
    assert Stored(server="a", workdir="~/p", amounts={}, kept={}).error is None
