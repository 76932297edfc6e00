"""What is made of an all-reduce's ranks: who is named, and what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.project import Project
from remote_launch.errors import CommandTimeoutError, ConnectError
from remote_launch.operations import allreduce
from remote_launch.operations.allreduce import check_allreduce
from remote_launch.operations.fleet import Fleet
from remote_launch.transport.base import Completed

if TYPE_CHECKING:
    from pathlib import Path

    from remote_launch.core.findings import Finding
    from remote_launch.transport.command import Command

IMPORT, REDUCE = {"step": "import"}, {"step": "reduce"}
MEET = {"step": "meet", "import_s": 3.0, "torch": "2.5.1"}
RIGHT = {"right": True, "off": 0.0, "bytes": 4_000_000, "seconds": 0.004}


class World:
    """Two servers; ``said`` is what each rank prints, ``ended`` how it ends."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.said: dict[str, list[Any]] = {name: [IMPORT, MEET, REDUCE, RIGHT] for name in "ab"}
        self.ended: dict[str, Completed | Exception] = {}
        self.asked: dict[str, tuple[Command, dict[str, Any]]] = {}

    def check(self, **options: Any) -> list[Finding]:
        servers = self.fleet.select()
        addresses = {"a": "10.0.0.1", "b": "10.0.0.2"}
        return check_allreduce(self.fleet, servers, addresses, {"a": "eth0", "b": None}, **options)

    def transport(self, name: str) -> Any:
        world = self

        class Transport:
            def run(self, command: Command, *, stdin: bytes, on_stdout: Any, **_: Any) -> Completed:
                world.asked[name] = (command, json.loads(stdin))
                lines = ["Welcome!", *(json.dumps(line) for line in world.said[name]), ""]
                content = "\n".join(lines).encode()
                for start in range(0, len(content), 7):
                    on_stdout(content[start : start + 7])
                end = world.ended.get(name, Completed(server=name, command="", exit_code=0))
                if isinstance(end, Exception):
                    raise end
                return end

        return Transport()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    project = Project(root=tmp_path)
    servers = {name: Server(name=name, workdir="~/w", env={"NCCL_DEBUG": "WARN"}) for name in "ab"}
    inventory = Inventory(name="p", servers=servers, sync=Sync(), path=project.config, project=project)
    made = World(Fleet(project, inventory))
    monkeypatch.setattr(made.fleet, "transport", made.transport)
    monkeypatch.setattr(allreduce, "call", lambda *_, **__: {"ports": [40000, 20001]})
    return made


def test_one_that_works(world: World) -> None:
    (found,) = world.check()
    assert (found.check, found.level, found.servers) == ("allreduce", "ok", ("a", "b"))
    assert found.detail == "2 ranks, 4 MB in 4.0 ms, 8.0 Gbit/s"
    command, request = world.asked["b"]
    assert request == {
        "backend": "gloo", "address": "10.0.0.1", "port": 20001, "rank": 1, "world_size": 2, "limit_s": 20.0
    }
    assert command.env == {"OMP_NUM_THREADS": "1", "NCCL_DEBUG": "WARN"}
    assert world.asked["a"][0].env["GLOO_SOCKET_IFNAME"] == "eth0"


def failed(world: World, *errors: str) -> Finding:
    for name, error in zip("ab", errors, strict=True):
        world.said[name] = [IMPORT, MEET, {"error": error}]
    (found,) = world.check()
    assert found.level == "error"
    return found


def test_who_only_waited_is_not_blamed(world: World) -> None:
    found = failed(world, "DistStoreError: Timed out after 21 seconds waiting for clients", "OSError: boom")
    assert found.servers == ("b",)
    assert found.message == "an all-reduce over gloo failed while the ranks met: OSError: boom"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("RuntimeError: connectFullMesh failed: Connection refused, remote=[127.0.1.1]:4", "GLOO_SOCKET"),
        ("ModuleNotFoundError: No module named 'torch'", "rl prepare"),
        ("RuntimeError: [enforce fail at /x/gloo/device.cc:84] Unable to find address for: eth7", "address:"),
        ("RuntimeError: NCCL error: unhandled system error", "NCCL_DEBUG"),
    ],
)
def test_known_failures_have_a_remedy(world: World, error: str, words: str) -> None:
    found = failed(world, error, error)
    assert words in str(found.do)
    assert "device.cc" not in found.message


def test_a_slow_import_is_said(world: World) -> None:
    world.said["a"] = [IMPORT, MEET, {"error": "DistStoreError: Timed out after 20 seconds"}]
    world.said["b"] = [IMPORT]
    world.ended["b"] = Completed(server="b", command="", exit_code=None, signal="ALRM")
    (found,) = world.check()
    assert "torch was not imported after 60 s" in found.message
    assert "importing torch: not done on b" in found.detail


def test_one_that_crashes_is_told_by_its_last_lines(world: World) -> None:
    world.said["a"] = [IMPORT, MEET]
    stderr = b"free(): invalid pointer\nAborted\n"
    world.ended["a"] = Completed(server="a", command="", exit_code=None, signal="ABRT", stderr=stderr)
    (found,) = world.check()
    assert found.servers == ("a",)
    assert "signal ABRT" in found.message
    assert found.detail == "free(): invalid pointer; Aborted"


@pytest.mark.parametrize(
    "error",
    [
        ConnectError("b", "can't connect"),
        CommandTimeoutError("b: too long", server="b", command="rl allreduce", exit_code_of_command=None),
    ],
)
def test_a_connection_that_ends(world: World, error: Exception) -> None:
    world.said["b"] = [IMPORT]
    world.ended["b"] = error
    (found,) = world.check()
    assert (found.level, found.servers) == ("error", ("b",))


@pytest.mark.parametrize(
    "result",
    [
        {"right": False}, {"right": 1}, {"right": True}, {"right": True, "bytes": "x", "seconds": 1},
        {"right": True, "bytes": 4, "seconds": -1}, {"right": True, "bytes": [], "seconds": {}},
        {"right": True, "bytes": 4, "seconds": float("nan")},
    ],
)
def test_a_result_of_any_shape_is_no_success(world: World, result: dict[str, Any]) -> None:
    world.said["a"] = [IMPORT, MEET, REDUCE, result]
    world.said["b"] = [IMPORT, MEET, REDUCE, result]
    (found,) = world.check()
    assert found.level == "error"


def test_a_server_that_cannot_be_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(_fleet: Fleet, server: Server, *_: Any, **__: Any) -> Any:
        if server.name == "b":
            raise ConnectError("b", "can't connect")
        return {"ports": [40000, 20001]}

    monkeypatch.setattr(allreduce, "call", call)
    (found,) = world.check()
    assert (found.level, found.servers) == ("error", ("b",))
    assert not world.asked
