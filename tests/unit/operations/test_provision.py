"""What a server tells while it carries its recipe out: the shape of it is never trusted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.environments.recipes import recipe_for
from remote_launch.core.inventory import Environment, Inventory, Server, Sync
from remote_launch.core.project import Project
from remote_launch.errors import PrepareError
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.followed_recipe import FollowedRecipe
from remote_launch.operations.progress import Progress, Tell
from remote_launch.transport.base import Completed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEP = "create environment (venv)"
DONE = Completed(server="s0", command="rl prepare", exit_code=0, duration_s=0.1)


class World:
    """One server's recipe, followed."""

    def __init__(self, folder: Path) -> None:
        server = Server(
            name="s0", workdir="~/p", transport="local", environment=Environment(manager="venv")
        )
        self.project = Project(root=folder)
        inventory = Inventory(
            name="p", servers={"s0": server}, sync=Sync(), path=self.project.config, project=self.project
        )
        self.told: list[Progress] = []
        fleet = Fleet(self.project, inventory)
        self.followed = FollowedRecipe(
            fleet, server, recipe_for(server, None), Tell("s0", self.told.append)
        )

    def feed(self, *frames: Any) -> None:
        for frame in frames:
            self.followed.feed(json.dumps(frame).encode() + b"\n")

    def logs(self) -> list[str]:
        paths = sorted(self.project.logs_dir.glob("*.log"))
        return [path.read_text() for path in paths if path.name != "commands.log"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.followed.close()


def test_a_step_is_told_and_its_output_kept(world: World) -> None:
    world.feed({"step": STEP}, {"out": "one\ntw"}, {"out": "o\n"}, {"done": STEP}, {"end": {"versions": {}}})
    assert [step.line for step in world.followed.made(DONE).steps] == ["two"]
    assert world.logs() == ["one\ntwo\n"]


@pytest.mark.parametrize("since", [1e18, -1, 2**62, "soon", None, float("inf")])
def test_who_holds_the_lock_may_have_any_shape(world: World, since: Any) -> None:
    world.feed({"wait": {"who": "ann", "host": ["x"], "since": since}})
    assert world.told[-1].text.startswith("for ann")


@pytest.mark.parametrize("step", ["x" * 5000, "../../evil", "\ud800"])
def test_a_step_that_is_none_of_the_recipes_is_not_begun(world: World, step: str) -> None:
    world.feed({"step": step}, {"out": "noise\n"}, {"end": {}})
    assert world.followed.made(DONE).steps == ()
    assert world.logs() == []


def test_a_line_without_end_is_not_kept_whole(world: World) -> None:
    world.feed({"step": STEP})
    for _ in range(40):
        world.feed({"out": "x" * 60_000})
    world.feed({"out": "\nlast\n"}, {"done": STEP}, {"end": {}})
    assert world.followed.made(DONE).steps[0].line == "last"
    assert max(len(line) for line in world.logs()[0].splitlines()) <= 1 << 20
    assert max(len(progress.text) for progress in world.told) <= 20_000


def test_logins_are_hidden_whatever_frame_brings_them(world: World) -> None:
    secret = "https://me:sesame@index.example/simple"
    world.feed({"step": STEP}, {"out": "Looking in https://me:ses"}, {"out": "ame@index.example/simple\n"})
    world.feed({"failed": STEP, "exit_code": 1, "message": f"no answer of {secret}"})
    with pytest.raises(PrepareError) as caught:
        world.followed.made(DONE)
    shown = f"{caught.value} {caught.value.hint} {world.told} {world.logs()}"
    assert "sesame" not in shown
    assert "index.example" in shown


def test_logs_that_cant_be_written_stop_nothing(world: World) -> None:
    world.project.logs_dir.parent.mkdir(parents=True, exist_ok=True)
    world.project.logs_dir.write_text("in the way")
    world.feed({"step": STEP}, {"out": "one\n"}, {"done": STEP}, {"end": {}})
    assert [step.line for step in world.followed.made(DONE).steps] == ["one"]
