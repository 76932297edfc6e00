"""The networks that all servers of a launch are on, and by which of its addresses each is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.networks import Interface, ServerNetwork, is_private, usable
from remote_launch.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.networks import IPInterface, IPNetwork

_TUNNEL, VIRTUAL = 2, 3  # tiers of interfaces; 0 is wired hardware, 1 wireless
_TIERS = {
    "wireless": 1,
    "tunnel": _TUNNEL,
    **dict.fromkeys(("bridge", "docker", "veth", "virtual"), VIRTUAL),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An address that a server could be reached at."""

    interface: Interface
    address: IPInterface
    reached: bool  # by ssh
    reach: tuple[IPNetwork, ...]  # what lies behind the interface

    @property
    def tier(self) -> int:
        return 0 if self.interface.over else _TIERS.get(self.interface.kind, 0)

    @property
    def spoken(self) -> IPInterface:
        """The address that gloo and NCCL take when they are given the interface's name: its first."""
        return self.interface.addresses[0]

    @property
    def rank(self) -> tuple[object, ...]:
        """Among one server's candidates on one network; the smallest is the best."""
        temporary = self.address.ip in self.interface.temporary
        return (
            self.tier,
            -(self.interface.speed_mbps or 0),
            temporary,
            not self.reached,
            self.address.ip.packed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A network, and how each server would take part in it."""

    network: IPNetwork
    candidates: tuple[Candidate, ...]

    @property
    def tier(self) -> int:
        return max(one.tier for one in self.candidates)

    def rank(self, *, by_speed: bool) -> tuple[object, ...]:
        """Among the networks; the smallest is the best."""
        strayed = any(not holds(self.network, one.spoken) for one in self.candidates)
        interfaces = [one.interface for one in self.candidates]
        return (
            self.tier,
            strayed,
            -min(one.speed_mbps or 0 for one in interfaces) if by_speed else 0,
            not is_private(self.network.network_address),
            self.network.version,
            -sum(one.reached for one in self.candidates),
            -sum(one.default_route for one in interfaces),
            -min(one.mtu or 0 for one in interfaces),
            -self.network.prefixlen,
            str(self.network),
        )


def addresses_of_several(servers: Sequence[ServerNetwork]) -> set[object]:
    """Return the addresses that stand on more than one machine, as docker's 172.17.0.1."""
    owners: dict[object, set[str]] = {}
    for server in servers:
        for interface in server.interfaces:
            for address in interface.addresses:
                owners.setdefault(address.ip, set()).add(server.stack or server.server)
    return {address for address, machines in owners.items() if len(machines) > 1}


def candidates_of(server: ServerNetwork, elsewhere: set[object]) -> list[Candidate]:
    """Return the addresses that a server could be reached at. What the user set leaves no other."""
    pinned, reached = usable(server.pinned), usable(server.reached)
    found = []
    for interface in server.interfaces:
        behind = tuple(route.destination for route in server.routes if route.interface == interface.name)
        for address in interface.addresses:
            ip = address.ip
            if ip != pinned and (
                not interface.up
                or interface.kind == "loopback"
                or ip in elsewhere
                or ip.is_loopback
                or ip.is_link_local
                or ip.is_multicast
                or ip.is_unspecified
            ):
                continue
            reach = tuple(network for network in (address.network, *behind) if network.num_addresses > 1)
            found.append(Candidate(interface=interface, address=address, reached=ip == reached, reach=reach))
    named = [one for one in found if server.names(one.interface.name)]
    found = named or found
    return [one for one in found if one.address.ip == pinned] or found


def common_networks(candidates: Sequence[Sequence[Candidate]]) -> list[Option]:
    """Return each network that every server is on, and how. One that differs from another by its name
    alone is left out."""
    networks = {network for own in candidates for one in own for network in one.reach}
    options: dict[tuple[object, ...], Option] = {}
    for network in sorted(networks, key=lambda one: (one.version, -one.prefixlen, str(one))):
        members = []
        for own in candidates:
            inside = [one for one in own if _is_in(one, network)]
            if not inside:
                break
            members.append(min(inside, key=lambda one: one.rank))
        else:
            key = tuple(one.address.ip for one in members)
            options.setdefault(key, Option(network=network, candidates=tuple(members)))
    return list(options.values())


def _is_in(candidate: Candidate, network: IPNetwork) -> bool:
    """True when the candidate has an address of the network and reaches all of it without a default route."""
    if not holds(network, candidate.address):
        return False
    return any(
        net.version == network.version
        and net.prefixlen <= network.prefixlen
        and network.network_address in net
        for net in candidate.reach
    )


def holds(network: IPNetwork, address: IPInterface) -> bool:
    """True when the address is one of the network."""
    return address.version == network.version and address.ip in network
