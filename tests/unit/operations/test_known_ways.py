"""Ways that are tried with the questions of a launch: from the last launch, and worth only what they were."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.project import Project
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.known_ways import KnownWays, known_ways
from remote_launch.operations.reach import Door
from tests.support.records import new_record

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("a", "b", "c")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    project = Project(root=tmp_path)
    servers = {name: Server(name=name, workdir="~/w") for name in NAMES}
    inventory = Inventory(name="p", servers=servers, sync=Sync(), path=project.config, project=project)
    return Fleet(project, inventory)


def launched(fleet: Fleet, launch: str, addresses: dict[str, str]) -> None:
    for rank, (name, address) in enumerate(addresses.items()):
        choices = {"network": {"address": address}}
        record = new_record(server=name, command="x", launch_id=launch, node_rank=rank, choices=choices)
        fleet.registry.add([record])


def asked(fleet: Fleet) -> KnownWays:
    return known_ways(fleet, fleet.select())


def answers(known: KnownWays, outcome: str = "reached", **changes: Any) -> dict[str, dict[str, Any]]:
    """What servers answer whose ways are all like this; ``changes`` to what server b tells of them."""
    told = {}
    for name, request in known.requests.items():
        links = [{**one, "to": one["server"], "outcome": outcome} for one in request["connect"]]
        told[name] = {"ways": {"links": links, "taken": {}, **(changes if name == "b" else {})}}
    return told


def test_nothing_is_tried_without_a_launch_on_all_of_these(fleet: Fleet) -> None:
    assert not asked(fleet).requests
    assert not fleet.project.registry.exists(), "a look makes no file"
    launched(fleet, "l1", {"a": "10.0.0.1", "b": "10.0.0.2"})
    assert not asked(fleet).requests
    launched(fleet, "l2", {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"})
    assert asked(fleet).requests
    launched(fleet, "l3", {"a": "10.0.0.1"})
    assert not asked(fleet).requests


def test_nothing_is_tried_within_one_machine(fleet: Fleet) -> None:
    launched(fleet, "l", dict.fromkeys(NAMES, "127.0.0.1"))
    servers = [dataclasses.replace(server, transport="local") for server in fleet.select()]
    assert not known_ways(fleet, servers).requests


def test_each_tries_all_others_and_the_master_has_three_doors(fleet: Fleet) -> None:
    launched(fleet, "l", {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"})
    known = asked(fleet)
    assert [len(known.doors[name]) for name in NAMES] == [3, 1, 1]
    assert [door.address for door in known.doors["a"]] == ["10.0.0.1"] * 3
    assert len({door.port for door in known.doors["a"]}) == 3
    assert [len(known.requests[name]["connect"]) for name in NAMES] == [2, 4, 4]
    assert known.requests["a"]["listen"] == [door.port for door in known.doors["a"]]
    assert len({request["token"] for request in known.requests.values()}) == 1


def test_only_open_ways_to_the_very_doors_of_the_launch_count(fleet: Fleet) -> None:
    launched(fleet, "l", {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"})
    known = asked(fleet)
    tries = known.tried(known.doors, answers(known))
    assert tries is not None
    assert len(tries.links) == 10
    others = {**known.doors, "c": [Door(address="10.0.1.3", port=known.doors["c"][0].port)]}
    assert known.tried(others, answers(known)) is None
    assert known.tried(known.doors, answers(known, "timed_out")) is None
    for rubbish in ({"links": []}, {"links": None}, {"taken": {"1": "in use"}}, {"taken": 3, "links": [[]]}):
        assert known.tried(known.doors, answers(known, **rubbish)) is None
    without = {name: {} for name in NAMES}
    assert known.tried(known.doors, without) is None
