"""What is refused before a launch, and what is let through."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.dataplane import Choice, DataPlane
from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.project import Project
from remote_launch.core.topology import NodeFacts, lay_out
from remote_launch.errors import ConnectionLostError, TopologyError
from remote_launch.operations import reach
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.known_ways import KnownWays
from remote_launch.operations.launch_check import Layout, check_launch, first_open
from remote_launch.operations.reach import Tries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ("a", "b", "c")
VERSIONS = {"torch_version": "2.5.1+cu121", "python_version": "3.11", "probe_port": 40000}


@dataclasses.dataclass
class World:
    """The servers' answers to preflight, and which ways between them are closed."""

    fleet: Fleet
    answers: dict[str, dict[str, Any]]
    closed: dict[tuple[str, str], str]
    taken: dict[str, dict[str, str]]
    dead: set[str]
    calls: list[str]
    firewall: tuple[str, ...] = ()  # addresses that begin so are closed
    limits: list[float] = dataclasses.field(default_factory=list)

    def layout(self, network: str) -> Layout:
        """The launch on a network, as "10.0.0."."""
        names = [*self.answers]
        choices = [
            Choice(server=name, address=f"{network}{number}", interface=None, reason="")
            for number, name in enumerate(names, 1)
        ]
        facts = [
            NodeFacts(
                server=choice.server, address=choice.address, interface=None, cpus=1, gpus=0,
                ports=(20001, 20002),
            )
            for choice in choices
        ]
        topology = lay_out(facts, [1] * len(facts))
        return Layout(plane=DataPlane(choices=tuple(choices)), topology=topology, members=topology.nodes)

    def check(self) -> list[str]:
        facts = [
            NodeFacts(
                server=name, address=f"10.0.0.{number}", interface="eth0", cpus=1, gpus=0,
                ports=(20001, 20002),
            )
            for number, name in enumerate(self.answers, 1)
        ]
        topology = lay_out(facts, [1] * len(facts))
        return check_launch(self.fleet, topology, topology.nodes, self.answers)

    def call(self, _fleet: Fleet, server: Server, _verb: str, request: dict[str, Any], **_: Any) -> Any:
        self.calls.append(server.name)
        self.limits.append(request["limit_s"])
        if server.name in self.dead:
            raise ConnectionLostError(server.name, "the connection was lost")
        links = [
            {
                **{key: target[key] for key in ("address", "port")}, "to": target["server"],
                "outcome": "timed_out" if target["address"].startswith(self.firewall) else self.closed.get(
                    (server.name, target["server"]), "reached"
                ),
            }
            for target in request["connect"]
        ]
        return {"links": links, "taken": self.taken.get(server.name, {})}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    project = Project(root=tmp_path)
    servers = {name: Server(name=name, workdir="~/w") for name in NAMES}
    inventory = Inventory(name="p", servers=servers, sync=Sync(), path=project.config, project=project)
    answers = {name: dict(VERSIONS) for name in NAMES}
    made = World(Fleet(project, inventory), answers, {}, {}, set(), [])
    monkeypatch.setattr(reach, "call", made.call)
    return made


def refused(world: World) -> TopologyError:
    with pytest.raises(TopologyError) as caught:
        world.check()
    assert "--no-check" in str(caught.value.hint)
    assert caught.value.message.startswith("nothing was started: ")
    return caught.value


def test_nodes_that_can_work_together_cost_one_call_each(world: World) -> None:
    assert world.check() == []
    assert sorted(world.calls) == ["a", "b", "c"]


def test_ways_that_are_known_to_be_open_are_not_tried_again(world: World) -> None:
    layout = world.layout("10.0.0.")

    class Known(KnownWays):
        __slots__ = ()

        def tried(self, *_: object) -> Tries | None:
            return self.doors.get("tries")  # type: ignore[return-value]

    open_ways = Known(doors={"tries": Tries(links=())}, requests={})  # type: ignore[dict-item]
    assert first_open(world.fleet, [layout], world.answers, open_ways) == (layout, [])
    assert world.calls == []
    first_open(world.fleet, [layout], world.answers, Known(doors={}, requests={}))
    assert sorted(world.calls) == ["a", "b", "c"]


def test_versions_of_torch_that_differ(world: World) -> None:
    world.answers["b"]["torch_version"] = "2.4.0+cu121"
    error = refused(world)
    assert "torch differs: 2.5.1 on a, c; 2.4.0 on b" in error.message
    assert "name" in str(error.hint)
    assert world.calls == [], "nobody needs to try the ways then"


def test_pythons_that_differ_are_a_warning(world: World) -> None:
    world.answers["b"]["python_version"] = "3.10"
    (warning,) = world.check()
    assert "Python differs: 3.11 on a, c; 3.10 on b" in warning


def test_builds_that_differ_are_a_warning(world: World) -> None:
    world.answers["b"]["torch_version"] = "2.5.1+cpu"
    (warning,) = world.check()
    assert "CUDA differs: cu121 on a, c; cpu on b" in warning
    world.answers["a"]["torch_version"] = "2.5.1"
    assert world.check() == []


@pytest.mark.parametrize("value", [None, 3, "", "\x1b[2J", []])
def test_what_is_not_known_is_not_held_against_anyone(world: World, value: Any) -> None:
    world.answers["b"]["probe_port"] = value if value != "\x1b[2J" else 10**9
    world.answers["b"]["torch_version"] = value if value != "\x1b[2J" else None
    if value != 3:
        assert world.check() == []


def test_a_firewall(world: World) -> None:
    world.closed[("b", "a")] = "timed_out"
    error = refused(world)
    assert "b can't reach a at 10.0.0.1:40000 and :20001 and :20002: no answer: a firewall" in error.message
    assert "address:" in str(error.hint)
    assert world.calls.count("a") == 2, "it was tried twice"
    assert world.calls.count("c") == 1, "and the second time by those alone whose way was closed"


@pytest.mark.parametrize(
    ("closed", "limit_s"),
    [
        ({("b", "a"): "timed_out"}, reach.SECOND_SHORT_S),
        ({("b", "a"): "refused"}, reach.SECOND_SHORT_S),  # a has reached b: it was there
        ({("b", "a"): "refused", ("a", "b"): "refused"}, reach.SECOND_S + 6 * reach.EACH_S),
        ({("b", "a"): "silent"}, reach.SECOND_S + 6 * reach.EACH_S),
    ],
)
def test_what_may_be_a_program_that_starts_late_is_given_time(
    world: World, closed: dict[tuple[str, str], str], limit_s: float
) -> None:
    world.closed = closed
    refused(world)
    assert world.limits[-1] == pytest.approx(limit_s)


def test_a_port_that_is_taken_says_nothing_of_the_way(world: World) -> None:
    world.closed[("b", "c")] = "other"
    world.closed[("a", "c")] = "other"
    world.taken["c"] = {"40000": "Address already in use"}
    assert world.check() == []
    world.taken["a"] = {"20001": "Address already in use"}
    assert world.check() == [
        "a: port 20001, where the nodes are to meet, can't be listened on: Address already in use"
    ]


def test_a_server_that_is_lost_meanwhile_is_said_and_blamed_for_no_firewall(world: World) -> None:
    world.dead.add("c")
    world.closed[("b", "c")] = "timed_out"
    assert world.check() == [
        "c: whether it reaches the others could not be tried: the connection was lost"
    ]


@pytest.mark.parametrize("told", [[], "x", {"links": 1}, {"links": [{}, 1, {"to": 1}]}, {"taken": []}])
def test_an_answer_of_any_shape(world: World, monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    answer: Callable[..., Any] = lambda *_, **__: told if isinstance(told, dict) else {"links": told}  # noqa: E731
    monkeypatch.setattr(reach, "call", answer)
    assert world.check() == []


def test_the_next_network_is_taken_where_the_best_is_closed(world: World) -> None:
    world.firewall = ("10.",)
    layouts = [world.layout(network) for network in ("10.0.0.", "192.168.0.", "172.16.0.")]
    layout, (warning,) = first_open(world.fleet, layouts, world.answers)
    assert layout is layouts[1]
    assert warning.startswith("another network was taken: ")
    assert "10.0.0." in warning
    world.firewall = ()
    assert first_open(world.fleet, layouts, world.answers) == (layouts[0], [])


def test_all_networks_are_closed(world: World) -> None:
    world.firewall = ("10.", "192.168.")
    with pytest.raises(TopologyError, match=r"10\.0\.0\."):
        first_open(world.fleet, [world.layout("10.0.0."), world.layout("192.168.0.")], world.answers)


def test_the_last_network_is_tried_before_giving_up(world: World) -> None:
    networks = [f"10.0.{number}." for number in range(6)]
    world.firewall = tuple(networks[:5])
    layouts = [world.layout(network) for network in networks]
    assert first_open(world.fleet, layouts, world.answers)[0] is layouts[5]
    assert len(world.calls) <= 3 * 2 * len(NAMES)
