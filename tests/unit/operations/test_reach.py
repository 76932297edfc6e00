"""What is found between servers: one that stands still for a moment is no finding."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.project import Project
from remote_launch.operations import reach
from remote_launch.operations.fleet import Fleet

if TYPE_CHECKING:
    from pathlib import Path

    from remote_launch.core.findings import Finding

NAMES = ("a", "b")
RATE = 100_000_000


@dataclasses.dataclass
class Servers:
    """Two servers. ``odd``: what comes of a's tries to send much to b, one after the other; then all is
    well."""

    fleet: Fleet
    odd: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    sent: list[str] = dataclasses.field(default_factory=list)  # who has sent much

    def call(self, _fleet: Fleet, server: Server, _verb: str, request: dict[str, Any], **_: Any) -> Any:
        if request.get("ask_ports"):
            return {"ports": [40000, 20000]}
        return {"links": [self.link(server.name, target) for target in request["connect"]]}

    def link(self, source: str, target: dict[str, Any]) -> dict[str, Any]:
        place = {"to": target["server"], "address": target["address"], "port": target["port"]}
        if target["mode"] != "bulk":
            return {**place, "outcome": "reached", "rtt_ms": 0.1, "mtu": 1500}
        self.sent.append(source)
        odd = self.odd.pop(0) if source == "a" and self.odd else {"bytes_per_s": RATE}
        return {**place, "outcome": "reached", "mtu": 1500, **odd}

    def findings(self) -> dict[str, Finding]:
        servers = self.fleet.select()
        found = reach.check_pairs(self.fleet, servers, {name: f"10.0.0.{name}" for name in NAMES})
        return {one.check: one for one in found}


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Servers:
    project = Project(root=tmp_path)
    entries = {name: Server(name=name, workdir="~/w") for name in NAMES}
    inventory = Inventory(name="p", servers=entries, sync=Sync(), path=project.config, project=project)
    made = Servers(Fleet(project, inventory))
    monkeypatch.setattr(reach, "call", made.call)
    return made


def test_what_goes_well_is_measured_once(servers: Servers) -> None:
    found = servers.findings()
    assert {check: one.level for check, one in found.items()} == {
        "reach": "ok", "latency": "ok", "mtu": "ok", "bandwidth": "ok",
    }  # fmt: skip
    assert sorted(servers.sent) == ["a", "b"]


@pytest.mark.parametrize("odd", [{"stalled": True}, {"outcome": "silent"}, {"outcome": "timed_out"}])
def test_who_stood_still_is_measured_once_more(servers: Servers, odd: dict[str, Any]) -> None:
    servers.odd = [odd]
    found = servers.findings()
    assert found["mtu"].level == "ok"
    assert found["bandwidth"].data["bytes_per_s"] == {"a to b": RATE, "b to a": RATE}
    assert sorted(servers.sent) == ["a", "a", "b"], "the others' figures stand"


def test_what_does_not_arrive_twice_is_lost_on_the_way(servers: Servers) -> None:
    servers.odd = [{"stalled": True}, {"stalled": True}]
    found = servers.findings()
    assert found["mtu"].level == "error"
    assert "a reaches b" in found["mtu"].message
