"""Which address and interface each server of a launch talks over, and why. Pure: what the servers told of
their networks comes in, a choice in words comes out.

The best network that all servers are on is taken. Where there is none, each server keeps the address that ssh
reached, and a warning says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.common_networks import (
    VIRTUAL,
    addresses_of_several,
    candidates_of,
    common_networks,
    holds,
)
from remote_launch.core.networks import is_private, usable
from remote_launch.dataclass import dataclass
from remote_launch.errors import TopologyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.common_networks import Candidate, Option
    from remote_launch.core.networks import ServerNetwork

_WHAT = {
    "wireless": "wireless",
    "tunnel": "a tunnel",
    "veth": "a container's own network",
    "docker": "docker's own network",
    "bridge": "a bridge",
    "virtual": "a virtual network",
    "infiniband": "IP over InfiniBand",
}
_NO_OTHER = "there is no other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where the other nodes of a launch reach one server."""

    server: str
    address: str
    interface: str | None
    reason: str  # in words, from "10.0.0.12 on eth1: " on

    def to_dict(self) -> dict[str, str | None]:
        return {"address": self.address, "interface": self.interface, "reason": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlane:
    """The choices for all servers of a launch, in their order."""

    choices: tuple[Choice, ...]
    network: str | None = None  # the network that all are on; None where there is none
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def choose(servers: Sequence[ServerNetwork]) -> DataPlane:
    """Given all servers of a launch, return where each is reached by the others. Raises TopologyError
    where two servers would have the same address."""
    return rank_planes(servers)[0]


def rank_planes(servers: Sequence[ServerNetwork]) -> list[DataPlane]:
    """Return all ways to choose, the best first: a network that turns out to be closed is followed by the
    next."""
    hints = _rdma_notes(servers)
    if len(servers) == 1:
        return [_plane([_alone(servers[0])], notes=hints)]
    if _is_one_machine(servers):
        return [_plane([_on_one_machine(server) for server in servers])]
    warnings = [text for server in servers for text in _unknown_interfaces(server)]
    elsewhere = addresses_of_several(servers)
    candidates = [candidates_of(server, elsewhere) for server in servers]
    options = common_networks(candidates)
    # Only where all of the best kind say how fast they are: a virtual machine's often do not.
    best = [option for option in options if option.tier == min(other.tier for other in options)]
    by_speed = all(one.interface.speed_mbps for option in best for one in option.candidates)
    options.sort(key=lambda option: option.rank(by_speed=by_speed))
    planes = [
        _plane(
            [
                _chosen(server, one, option, len(servers))
                for server, one in zip(servers, option.candidates, strict=True)
            ],
            network=str(option.network),
            notes=hints,
            warnings=warnings + _strayed(servers, option),
        )
        for option in options
    ]
    return [*planes, *_by_routes(servers, candidates, elsewhere, planes, hints, warnings)]


def _plane(
    choices: Sequence[Choice],
    *,
    network: str | None = None,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> DataPlane:
    told = [f"{choice.server}: {choice.reason}" for choice in choices]
    return DataPlane(
        choices=tuple(choices),
        network=network,
        notes=(*told, *notes),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _choice(server: ServerNetwork, address: str, interface: str | None, why: str) -> Choice:
    on = f" on {interface}" if interface else ""
    return Choice(server=server.server, address=address, interface=interface, reason=f"{address}{on}: {why}")


def _alone(server: ServerNetwork) -> Choice:
    why = "address: in the inventory" if server.pinned else "the only server"
    return _choice(server, server.pinned or server.reached, server.reached_interface, why)


def _is_one_machine(servers: Sequence[ServerNetwork]) -> bool:
    stacks = {server.stack for server in servers}
    return all(server.local for server in servers) or (len(stacks) == 1 and None not in stacks)


def _on_one_machine(server: ServerNetwork) -> Choice:
    if server.pinned:
        return _choice(server, server.pinned, server.reached_interface, "address: in the inventory")
    reached = usable(server.reached)
    address = server.reached if not server.local and reached and reached.is_loopback else "127.0.0.1"
    return _choice(server, address, "lo", "all servers of this launch are one machine")


def _chosen(server: ServerNetwork, one: Candidate, option: Option, count: int) -> Choice:
    all_of_them = "both" if count == 2 else f"all {count}"
    words = _reasons(server, one, f"{option.network} is common to {all_of_them} servers")
    return _choice(server, server.pinned or str(one.address.ip), one.interface.name, ", ".join(words))


def _reasons(server: ServerNetwork, one: Candidate, first: str) -> list[str]:
    interface = one.interface
    words = ["address: in the inventory"] if server.pinned else []
    if server.wanted and server.names(interface.name):
        words.append(f"{'/'.join(server.wanted_by)} is set")
    words.append(first)
    if interface.speed_mbps:
        words.append(f"{interface.speed_mbps} Mb/s")
    if interface.over:
        words.append(f"a bridge over {', '.join(interface.over)}")
    elif interface.kind in _WHAT:
        words.append(_WHAT[interface.kind])
    words.append("private" if is_private(one.address.ip) else "public: what the ranks send is not encrypted")
    if one.tier == VIRTUAL and not server.pinned and not server.wanted:
        words.append(_NO_OTHER)
    return words


def _by_routes(
    servers: Sequence[ServerNetwork],
    candidates: Sequence[Sequence[Candidate]],
    elsewhere: set[object],
    better: Sequence[DataPlane],
    hints: Sequence[str],
    warnings: Sequence[str],
) -> list[DataPlane]:
    """Return each server's address that ssh reached, or its best one: the way where no network is common to
    all, and the last one to try where there are ``better`` ones. Raises TopologyError."""
    try:
        choices = [_routed(server, own, elsewhere) for server, own in zip(servers, candidates, strict=True)]
        _refuse_one_address_twice(servers, choices)
    except TopologyError:
        if better:
            return []
        raise
    if any(_addresses(choices) == _addresses(plane.choices) for plane in better):
        return []
    found = list(warnings)
    if not _looks_routed(servers, choices) and not better:
        told = ", ".join(f"{choice.server} {choice.address}" for choice in choices)
        found.append(
            f"no network is common to all servers of this launch; taken by the routes: {told}."
            " Where they do not reach each other so, set address: in the inventory"
        )
    return [_plane(choices, notes=hints, warnings=found)]


def _addresses(choices: Sequence[Choice]) -> list[str]:
    return [choice.address for choice in choices]


def _routed(server: ServerNetwork, own: Sequence[Candidate], elsewhere: set[object]) -> Choice:
    best = min(
        own, key=lambda one: (not one.reached, not one.interface.default_route, *one.rank), default=None
    )
    if server.pinned:
        there = usable(server.pinned)
        name = best.interface.name if best else None
        if (best is None or best.address.ip != there) and server.reached_interface not in (None, "lo"):
            name = server.reached_interface
        return _choice(server, server.pinned, name, "address: in the inventory")
    if best is None:
        reached = usable(server.reached)
        if reached in elsewhere:
            raise TopologyError(
                f"{server.server}: its only address, {server.reached}, is another server's too",
                hint=f"set address: for {server.server} in the inventory",
            )
        return _choice(server, server.reached, server.reached_interface, "the address that ssh reached")
    why = "the address that ssh reached" if best.reached else "its best address"
    return _choice(
        server,
        str(best.address.ip),
        best.interface.name,
        ", ".join(_reasons(server, best, why)),
    )


def _looks_routed(servers: Sequence[ServerNetwork], choices: Sequence[Choice]) -> bool:
    """True where the addresses are the user's own, or private ones of one kind: the subnets of a cloud are
    routed to each other."""
    if all(server.pinned for server in servers):
        return True
    addresses = [usable(choice.address) for choice in choices]
    kinds = {is_private(address, of_which=True) for address in addresses if address}
    return None not in addresses and len(kinds) == 1 and all(kinds)


def _refuse_one_address_twice(servers: Sequence[ServerNetwork], choices: Sequence[Choice]) -> None:
    owners: dict[str, ServerNetwork] = {}
    for server, choice in zip(servers, choices, strict=True):
        other = owners.setdefault(choice.address, server)
        if other is not server and server.stack and other.stack and server.stack != other.stack:
            raise TopologyError(
                f"{other.server} and {server.server} would both be {choice.address}, and are two machines",
                hint="set address: for both in the inventory",
            )


def _strayed(servers: Sequence[ServerNetwork], option: Option) -> list[str]:
    """Say where gloo and NCCL, which are given an interface, don't speak from the address that was chosen."""
    found = []
    for server, one in zip(servers, option.candidates, strict=True):
        pinned = usable(server.pinned)
        if pinned and pinned != one.address.ip:
            found.append(
                f"{server.server}: {pinned} is on none of its interfaces; gloo and NCCL tell the others"
                f" {one.spoken.ip}, of {one.interface.name}"
            )
        elif not holds(option.network, one.spoken):
            found.append(
                f"{server.server}: {one.address.ip} is not the first address of {one.interface.name};"
                f" gloo and NCCL take that, {one.spoken.ip}"
            )
    return found


def _unknown_interfaces(server: ServerNetwork) -> list[str]:
    if not server.wanted or not server.interfaces or any(server.names(one.name) for one in server.interfaces):
        return []
    there = ", ".join(one.name for one in server.interfaces if one.kind != "loopback")
    wanted = f"{'/'.join(server.wanted_by)} is {server.wanted}"
    return [f"{server.server}: {wanted}, and its interfaces are {there or 'none'}"]


def _rdma_notes(servers: Sequence[ServerNetwork]) -> list[str]:
    """Say which InfiniBand and RoCE adapters there are. Nothing is set by them: NCCL finds them itself."""
    groups: dict[str, list[str]] = {}
    for server in servers:
        active = [port for port in server.rdma if port.active]
        idle = [port.device for port in server.rdma if not port.active]
        words = []
        if active:
            kinds = dict.fromkeys(
                "RoCE" if port.link_layer == "Ethernet" else "InfiniBand" for port in active
            )
            names = ",".join(dict.fromkeys(port.device for port in active))
            rates = ", ".join(dict.fromkeys(port.rate for port in active if port.rate))
            words.append(
                f"{'/'.join(kinds)} {names} ({rates}); NCCL looks for it itself, NCCL_IB_HCA={names} names it"
            )
        if idle:
            words.append(f"{', '.join(dict.fromkeys(idle))} not active")
        if words:
            groups.setdefault("; ".join(words), []).append(server.server)
    return [f"{', '.join(names)}: {text}" for text, names in groups.items()]
