"""What the servers tell of their cards, and what a launch makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.gpus import GpuWish
from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.project import Project
from remote_launch.core.torchrun import Script
from remote_launch.errors import ConnectError, TopologyError
from remote_launch.operations import gpus, preflight
from remote_launch.operations.fanout import Outcome, Outcomes
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.launch import LaunchPlan, LaunchRequest, plan_launch
from tests.unit.operations.test_launch import ANSWER, RUBBISH

if TYPE_CHECKING:
    from pathlib import Path


def told(index: int, **values: Any) -> dict[str, Any]:
    """Return what a server tells of a card."""
    return {"vendor": "nvidia", "index": index, "uuid": f"GPU-{index:08}", "name": "A100", **values}


@pytest.mark.parametrize("value", RUBBISH, ids=repr)
def test_an_answer_of_any_shape_is_no_card_or_a_harmless_one(value: Any) -> None:
    assert gpus.read_survey(value).cards == ()
    for field in ("index", "uuid", "name", "memory_total_mb", "busy", "trouble", "mig_devices", "processes"):
        for card in gpus.read_survey({"cards": [{**told(0), field: value}], "problems": value}).cards:
            assert "\n" not in f"{card.uuid}{card.name}{card.busy}"
            assert not set(card.uuid) & set("\x1b ;$")
    shown = gpus.read_survey({"visible": {"CUDA_VISIBLE_DEVICES": value}}).visible
    assert all(text.isprintable() for text in shown.values())


def test_a_process_is_told_with_its_owner() -> None:
    process = {"pid": 7, "user": "alice", "is_own": False, "memory_mb": 900, "command": "python train.py"}
    (card,) = gpus.read_survey({"cards": [told(0, processes=[process])]}).cards
    assert card.processes[0].words == "python train.py (pid 7, 900 MiB)"
    assert (card.processes[0].user, card.processes[0].is_own) == ("alice", False)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plan a launch on servers whose cards are given."""
    (tmp_path / "train.py").touch()
    project = Project(root=tmp_path)

    def make(cards: dict[str, list[dict[str, Any]]], **asked: Any) -> LaunchPlan:
        servers = {name: Server(name=name, workdir="~/w", env=asked.pop("env", {})) for name in cards}
        inventory = Inventory(name="p", servers=servers, sync=Sync(), path=project.config, project=project)

        def answer(_fleet: Any, server: Server, *_: Any, **__: Any) -> dict[str, Any]:
            number = list(cards).index(server.name)
            return {**ANSWER, "address": f"10.0.0.{number + 5}", "gpus": {"cards": cards[server.name]}}

        monkeypatch.setattr(preflight, "call", answer)
        request = LaunchRequest(script=Script(name="train.py"), check=False, **asked)
        return plan_launch(Fleet(project, inventory), request)

    return make


def test_unequal_counts_give_each_node_its_ranks(plan: Any) -> None:
    four = [told(0, busy="alice (pid 3)"), *map(told, (1, 2, 3))]
    made = plan({"a": [told(0)], "b": four}, nproc_per_node="gpu")
    assert [(spec.first_rank, spec.nproc) for spec in made.specs] == [(0, 1), (1, 3)]
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in made.specs] == ["0", "1,2,3"]
    assert [spec.env["WORLD_SIZE"] for spec in made.specs] == ["4", "4"]
    assert "b: cards 1, 2, 3 of 4 (A100); card 0 is held by alice (pid 3)" in made.notes
    kept = made.specs[1].choices["gpus"]
    assert ([card["index"] for card in kept["cards"]], kept["count"]) == ([1, 2, 3], 3)


def test_named_cards_say_the_number_of_ranks_too(plan: Any) -> None:
    made = plan({"a": [told(0)], "b": list(map(told, range(4)))}, gpus=["0", "b:1,3"])
    assert [spec.nproc for spec in made.specs] == [1, 2]


def test_what_the_user_set_stays(plan: Any) -> None:
    made = plan({"a": list(map(told, range(4)))}, nproc_per_node="gpu", env={"CUDA_VISIBLE_DEVICES": "2,3"})
    assert (made.specs[0].nproc, made.specs[0].env["CUDA_VISIBLE_DEVICES"]) == (2, "2,3")
    assert "CUDA_DEVICE_ORDER" not in made.specs[0].env


def test_servers_without_cards_keep_their_environment(plan: Any) -> None:
    made = plan({"a": [], "b": []}, nproc_per_node=2)
    assert not [name for spec in made.specs for name in spec.env if "VISIBLE" in name]
    assert not [spec for spec in made.specs if "gpus" in spec.choices]


def test_too_few_cards_start_nothing(plan: Any) -> None:
    with pytest.raises(TopologyError, match=r"b: --gpus-per-node 1, but 0 of its 1 cards are free: .*alice"):
        plan({"a": [told(0)], "b": [told(0, busy="alice (pid 3)")]}, gpus_per_node=1)


def test_local_servers_share_one_machine() -> None:
    servers = [Server(name=name, workdir="~/w", transport="local") for name in "ab"]
    answers = {name: {"gpus": {"cards": list(map(told, range(4)))}} for name in "ab"}
    chosen = gpus.choose_for_launch(
        servers, answers, GpuWish(per_node=2), {"a": "gpu", "b": "gpu"}, {"a": {}, "b": {}}
    )
    assert [chosen[name].env["CUDA_VISIBLE_DEVICES"] for name in "ab"] == ["0,1", "2,3"]


def test_a_watch_leaves_a_server_alone_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(_: Any, servers: list[Server]) -> Outcomes[Any]:
        asked.extend(server.name for server in servers)
        error = ConnectError("far", "refused")
        return Outcomes(
            Outcome(one.name, error=error) if one.name == "far" else Outcome(one.name, gpus.read_survey({}))
            for one in servers
        )

    monkeypatch.setattr(gpus, "survey_cards", answer)
    watch = gpus.CardWatch(None, [Server(name=name, workdir="~/w") for name in ("far", "near")])  # type: ignore[arg-type]
    for _ in range(3):
        outcomes = watch.look()
        assert [outcome.server for outcome in outcomes] == ["far", "near"]
        assert list(outcomes.errors) == ["far"]
    assert asked == ["far", "near", "near", "near"]
