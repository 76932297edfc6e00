"""What a server's networks are made of, as data: interfaces, addresses, routes, InfiniBand adapters."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

from remote_launch.dataclass import dataclass

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPInterface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface  # an address with its network
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# ipaddress calls more private than that: examples, benchmarks.
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A network interface of a server."""

    name: str
    kind: str  # as remote/network.py has them
    up: bool = True  # and connected
    speed_mbps: int | None = None
    mtu: int | None = None
    default_route: bool = False
    over: tuple[str, ...] = ()  # the hardware that a bridge connects
    addresses: tuple[IPInterface, ...] = ()
    temporary: tuple[IPAddress, ...] = ()  # those of the addresses that will change


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route other than the default."""

    destination: IPNetwork
    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RdmaPort:
    """A port of an InfiniBand or RoCE adapter."""

    device: str
    active: bool
    link_layer: str = ""  # InfiniBand or Ethernet
    rate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerNetwork:
    """What is known of one server's networks, and what the user said of them."""

    server: str
    reached: str  # the address that ssh reached there, in the server's own eyes
    reached_interface: str | None = None  # that of ``pinned`` when there is one
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    rdma: tuple[RdmaPort, ...] = ()
    stack: str | None = None  # servers that tell the same one share all of their addresses
    local: bool = False  # this machine, without ssh
    pinned: str | None = None  # address: in the inventory; may be a name
    wanted: str | None = None  # the user's GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME
    wanted_by: tuple[str, ...] = ()  # which of them

    def names(self, interface: str) -> bool:
        """True when the user named this interface. NCCL's variable has beginnings of names too, after "="
        whole ones, after "^" those not to take."""
        text = self.wanted or ""
        words = [word for word in text.lstrip("^=").split(",") if word]
        if text.startswith("^"):
            return not any(interface.startswith(word.removeprefix("=")) for word in words)
        whole = text.startswith("=") or "GLOO_SOCKET_IFNAME" in self.wanted_by
        return any(interface == word if whole else interface.startswith(word) for word in words)


def usable(text: str | None) -> IPAddress | None:
    """Return the IP address that a text is, None for a name or nothing."""
    try:
        return ipaddress.ip_address((text or "").partition("%")[0])
    except ValueError:
        return None


def is_private(address: IPAddress, *, of_which: bool = False) -> bool | str:
    """True for an address of a network that is somebody's own. With ``of_which`` the range it is of, ""
    for none."""
    found = next((net for net in _PRIVATE if net.version == address.version and address in net), None)
    return str(found or "") if of_which else found is not None
