"""The quick check before a launch: refuse at once what would hang for half an hour and then fail.

Versions cost nothing, they are in the answers that a launch has anyway; whether the nodes reach each other
takes one more round trip, all nodes at once, unless it was tried already (see ``known_ways``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.differences import find_differences
from remote_launch.core.ways import blocked_findings
from remote_launch.dataclass import dataclass
from remote_launch.errors import TopologyError
from remote_launch.operations import told
from remote_launch.operations.known_ways import NO_WAYS
from remote_launch.operations.reach import Door, try_twice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.dataplane import DataPlane
    from remote_launch.core.environments.differences import Difference
    from remote_launch.core.topology import Node, Topology
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.known_ways import KnownWays


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A launch on one network: its nodes, ``members`` with its spares."""

    plane: DataPlane
    topology: Topology
    members: Sequence[Node]


_REFUSED = ("torch",)  # other Pythons and builds are a warning: it may work
_NETWORKS_TRIED = 3  # the best two, and the last: where ssh reached the servers
_NOTHING = "nothing was started: "
_GO_ON = "--no-check starts it all the same"


def first_open(
    fleet: Fleet,
    layouts: Sequence[Layout],
    answers: Mapping[str, Mapping[str, Any]],
    known: KnownWays = NO_WAYS,
) -> tuple[Layout, list[str]]:
    """Given the ways to lay a launch out, the best first, return the first that ``check_launch`` lets
    through, and warnings. Raises what the best one was refused for, where none is let through."""
    refused: TopologyError | None = None
    for layout in [*layouts[: _NETWORKS_TRIED - 1], *layouts[_NETWORKS_TRIED - 1 :][-1:]]:
        try:
            found = check_launch(fleet, layout.topology, layout.members, answers, known)
        except TopologyError as error:
            refused = refused or error
            continue
        if refused:
            reason = refused.message.removeprefix(_NOTHING).partition("\n")[0]
            found.append(f"another network was taken: {reason}")
        return layout, found
    assert refused is not None
    raise refused


def check_launch(
    fleet: Fleet,
    topology: Topology,
    members: Sequence[Node],
    answers: Mapping[str, Mapping[str, Any]],
    known: KnownWays = NO_WAYS,
) -> list[str]:
    """Given a launch's nodes (``members``: with its spares) and what ``preflight`` told of each (with the
    ``known`` ways, which were tried then), return warnings. Raises TopologyError, saying who and why, where
    the nodes can't work together."""
    if len(members) < 2:
        return []
    differences = _differences({node.server: answers[node.server] for node in members})
    _refuse([(one.text, one.why) for one in differences if one.what in _REFUSED])
    warnings = [f"{one.text}: {one.why}" for one in differences if one.what not in _REFUSED]
    servers = [fleet.server(node.server) for node in members]
    doors = _doors(topology, members, answers)
    if all(server.target.transport == "local" for server in servers) or not all(doors.values()):
        return warnings  # one machine; or a server that told no port
    tries = known.tried(doors, answers) or try_twice(fleet, servers, doors)
    _refuse([(finding.message, finding.do) for finding in blocked_findings(tries.links)])
    master = members[0].server
    warnings += [
        f"{master}: port {port}, where the nodes are to meet, can't be listened on: {why}"
        for port in (topology.master_port, topology.gang_port)
        if (why := tries.taken.get(f"{master}:{port}"))
    ]
    for name, error in tries.errors.items():
        words = error.message.removeprefix(f"{name}: ")
        warnings.append(f"{name}: whether it reaches the others could not be tried: {words}")
    return warnings


def _doors(
    topology: Topology, members: Sequence[Node], answers: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[Door]]:
    """Return where each node is tried: at a port as gloo and NCCL take them, node 0 also at those where the
    launch meets."""
    doors = {}
    for node in members:
        port = told.port(answers[node.server].get("probe_port"))
        doors[node.server] = [Door(address=node.address, port=port)] if port else []
    if master := doors[members[0].server]:
        meeting = (topology.master_port, topology.gang_port)
        master += [Door(address=topology.master_addr, port=port) for port in meeting]
    return doors


def _differences(answers: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """Return what differs of Python and torch; what is not known of a server is not held against it."""
    versions = {}
    for name, answer in answers.items():
        python, torch = told.text(answer.get("python_version")), told.text(answer.get("torch_version"))
        if python and torch:
            versions[name] = {"python": python, "torch": torch, "cuda": torch.partition("+")[2]}
    if not all(found["cuda"] for found in versions.values()):
        versions = {name: {**found, "cuda": ""} for name, found in versions.items()}  # conda's don't say
    return find_differences(versions)


def _refuse(reasons: Sequence[tuple[str, str | None]]) -> None:
    """Given what is wrong, and what to do about each, raise TopologyError; return where nothing is."""
    if reasons:
        remedies = dict.fromkeys(do for _, do in reasons if do)
        raise TopologyError(
            _NOTHING + "\n".join(what for what, _ in reasons),
            hint="; ".join([*remedies, _GO_ON]),
        )
