"""What a launch makes of the servers' answers."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.inventory import Environment, Inventory, Server, Sync
from remote_launch.core.launch_defaults import LaunchDefaults
from remote_launch.core.project import Project
from remote_launch.core.torchrun import Script
from remote_launch.errors import RemoteLaunchError, ServersFailedError, TopologyError
from remote_launch.operations import launch
from remote_launch.operations import preflight as module
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.launch import LaunchPlan, LaunchRequest, plan_launch

if TYPE_CHECKING:
    from pathlib import Path

ANSWER = {
    "workdir": "/home/me/w", "workdir_exists": True, "workspace": True, "python": "/usr/bin/python3",
    "torch": True, "script_exists": True, "address": "10.0.0.5", "interface": "eth0", "cpus": 4, "gpus": 0,
    "ports": [20001, 20002],
}  # fmt: skip
RUBBISH = [
    None, "", "\x1b[2J", "fe80::1%\x1b[2J", "a b", -1, 1.5, [], {}, [1, {}], 10**30, float("nan"), "-x", "x\n"
]  # fmt: skip


@pytest.fixture
def servers() -> str:
    return "ab"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: str) -> Any:
    project = Project(root=tmp_path)
    (tmp_path / "train.py").touch()
    inventory = Inventory(
        name="p",
        servers={name: Server(name=name, workdir="~/w", nproc_per_node=2) for name in servers},
        sync=Sync(),
        path=project.config,
        project=project,
    )

    def make(
        asked: dict[str, Any] | None = None,
        defaults: LaunchDefaults | None = None,
        environment: Environment | None = None,
        **told: Any,
    ) -> LaunchPlan:
        here = dataclasses.replace(inventory, launch=defaults or LaunchDefaults())
        if environment:
            here = dataclasses.replace(
                here,
                servers={
                    name: dataclasses.replace(server, environment=environment)
                    for name, server in here.servers.items()
                },
            )
        monkeypatch.setattr(module, "call", lambda *_, **__: {**ANSWER, **told})
        request = LaunchRequest(script=Script(name="train.py"), **(asked or {}))
        return plan_launch(Fleet(project, here), request)

    return make


def test_the_plan_follows_the_answers(plan: Any) -> None:
    made = plan()
    assert (made.topology.master_addr, made.topology.master_port, made.topology.world_size) == (
        "10.0.0.5",
        20001,
        4,
    )
    assert [spec.workdir for spec in made.specs] == ["/home/me/w"] * 2
    assert [spec.first_rank for spec in made.specs] == [0, 2]


def a_network(number: int) -> dict[str, Any]:
    """What a machine tells that ssh reaches on one network, and the others on a faster one."""
    slow, fast = f"192.168.0.{number}", f"10.0.0.{number}"
    names = ("eth0", slow, 1000), ("eth1", fast, 25000), ("docker0", "172.17.0.1", None)
    return {
        "reached": slow, "stack": f"boot-{number}/1", "routes": [], "rdma": [],
        "interfaces": [
            {"name": name, "kind": "docker" if name == "docker0" else "ethernet", "up": True, "carrier": True,
             "speed_mbps": speed, "addresses": [{"address": address, "prefix": 24, "temporary": False}]}
            for name, address, speed in names
        ],
    }  # fmt: skip


def test_the_choice_of_addresses_is_in_the_plan_and_in_each_spec(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_fleet: object, server: Server, *_: object) -> dict[str, Any]:
        number = ord(server.name) - 96
        return {**ANSWER, "address": f"192.168.0.{number}", "network": a_network(number)}

    monkeypatch.setattr(launch, "ask_node", ask)
    made = plan()
    assert made.topology.master_addr == "10.0.0.1"
    network = [spec.choices["network"] for spec in made.specs]
    assert [one["address"] for one in network] == ["10.0.0.1", "10.0.0.2"]
    assert [one["interface"] for one in network] == ["eth1", "eth1"]
    assert made.specs[1].env["GLOO_SOCKET_IFNAME"] == "eth1"
    assert made.specs[1].env["NCCL_SOCKET_IFNAME"] == "=eth1"
    why = "10.0.0.1 on eth1: 10.0.0.0/24 is common to both servers, 25000 Mb/s, private"
    assert network[0]["reason"] == why
    assert made.to_dict()["notes"][0] == f"a: {why}"
    assert made.specs[0].to_dict()["choices"] == {"network": network[0]}


@pytest.mark.parametrize("value", [*RUBBISH, {"interfaces": RUBBISH}, {"routes": RUBBISH}, {"rdma": RUBBISH}])
def test_networks_of_any_shape(plan: Any, value: object) -> None:
    made = plan(network=value)
    assert made.topology.master_addr == "10.0.0.5"


@pytest.mark.parametrize("value", RUBBISH, ids=repr)
def test_an_interface_of_any_shape_steers_nothing(plan: Any, value: object) -> None:
    good = a_network(1)["interfaces"][1]
    broken = [
        {**good, name: value}
        for name in ("name", "kind", "speed_mbps", "mtu", "over", "addresses", "default_route")
    ]
    addresses = [{"address": value, "prefix": 24}, {"address": "10.0.0.1", "prefix": value}]
    broken += [{**good, "addresses": addresses}]
    for interface in broken:
        route = {"destination": value, "interface": value}
        told = {"interfaces": [interface], "reached": value, "routes": [route]}
        for spec in plan(network=told).specs:
            assert all(word.isprintable() and word for word in [*(spec.torchrun or ()), *spec.env.values()])
            assert spec.choices["network"]["reason"].isprintable()


@pytest.mark.parametrize("field", ["workdir", "address", "interface", "cpus", "gpus", "ports"])
@pytest.mark.parametrize("value", RUBBISH, ids=repr)
def test_an_answer_of_any_shape_steers_no_terminal_and_no_command(
    plan: Any, field: str, value: object
) -> None:
    with contextlib.suppress(TopologyError):  # refused is as good
        made = plan(**{field: value})
        for spec in made.specs:
            words = [spec.workdir, *(spec.torchrun or ()), *spec.env.values()]
            assert all(word.isprintable() for word in words)
            assert made.topology.master_addr == "10.0.0.5"


def test_a_port_that_is_none_is_not_taken(plan: Any) -> None:
    with pytest.raises(TopologyError, match="no free port"):
        plan(ports=[70000, 0, -1, "80", True, 20001])
    assert plan(ports=[70000, 20001, 20002]).topology.master_port == 20001


@pytest.mark.parametrize("word", ["two", "0", "-1", "2.5", ""])
def test_a_number_of_ranks_that_is_none_is_refused_before_a_server_is_asked(plan: Any, word: str) -> None:
    with pytest.raises(TopologyError, match="expected a number from 1, gpu, cpu or auto") as caught:
        plan({"nproc_per_node": word}, torch=False)  # what the servers would say comes second
    assert caught.value.exit_code == 2


def test_an_interpreter_of_the_inventory_that_is_not_there_is_not_for_prepare_to_make(
    plan: Any,
) -> None:
    none = Environment(manager="none", python="/opt/py/bin/python")
    with pytest.raises(ServersFailedError) as caught:
        plan(environment=none, python=None)
    error = caught.value.outcomes["a"]
    assert isinstance(error, TopologyError)
    assert error.message == "a: there is no /opt/py/bin/python there, which manager: none is to use"
    assert "environment.python" in (error.hint or "")


@pytest.mark.parametrize("address", ["fe80::1%eth0", "::1", "gpu-a.lan", "192.168.0.7"])
def test_addresses_of_all_kinds(plan: Any, address: str) -> None:
    assert plan(address=address).topology.master_addr == address


class TestSpares:
    @pytest.fixture
    def servers(self) -> str:
        return "abc"

    @pytest.mark.parametrize("asked", [{"spares": 1}, {"nnodes": 2}, {"nnodes": 2, "spares": 1}])
    def test_the_last_servers_stand_by(self, plan: Any, asked: dict[str, Any]) -> None:
        made = plan({**asked, "max_restarts": 2, "restart_window_s": 60.0})
        assert (made.topology.nnodes, made.topology.world_size) == (2, 4)
        assert [(spec.server, spec.node_rank, spec.nnodes) for spec in made.specs] == [
            ("a", 0, 2), ("b", 1, 2), ("c", 2, 2)
        ]
        gang = made.specs[2].gang
        assert (gang.nnodes, gang.spares, gang.servers, gang.nprocs) == (2, 1, ("a", "b", "c"), (2, 2, 2))
        assert all((spec.max_restarts, spec.restart_window_s) == (2, 60.0) for spec in made.specs)
        shown = made.to_dict()
        assert [len(shown[name]) for name in ("nodes", "spares")] == [2, 1]

    def test_the_inventory_says_what_was_not_asked(self, plan: Any) -> None:
        launch = LaunchDefaults(max_restarts=3, restart_window=3600, stall_timeout=600)
        for spec in plan({"spares": 1}, launch).specs:
            assert (spec.max_restarts, spec.restart_window_s, spec.stall_timeout_s) == (3, 3600, 600)

    @pytest.mark.parametrize(
        "asked",
        [
            {"spares": 1}, {"spares": 3, "max_restarts": 1}, {"nnodes": 4, "max_restarts": 1},
            {"nnodes": 2, "spares": 2, "max_restarts": 1}, {"nnodes": 1, "max_restarts": 1},
        ],
    )
    def test_what_makes_no_sense_is_said(self, plan: Any, asked: dict[str, Any]) -> None:
        with pytest.raises(RemoteLaunchError) as caught:
            plan(asked)
        assert caught.value.hint

    def test_spares_alone_can_not_run(self, plan: Any) -> None:
        with pytest.raises(TopologyError, match="--spare 3 of 3 servers leaves none to run on") as caught:
            plan({"spares": 3, "max_restarts": 1})
        assert "fewer spares" in caught.value.hint

    def test_a_port_of_the_users_is_kept_through_all_attempts(self, plan: Any) -> None:
        assert all(spec.fresh_port for spec in plan().specs)
        assert not any(spec.fresh_port for spec in plan({"master_port": 29500}).specs)
