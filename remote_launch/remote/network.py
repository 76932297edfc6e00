"""The networks of a server: its interfaces with kind, state, speed and addresses, its routes, its InfiniBand
adapters.

Read from /sys and /proc, which are there without iproute2 and cost no process: every launch asks for it.
"""

from __future__ import annotations

import os
import re
import socket
import struct

from . import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

NET = "/sys/class/net"
INFINIBAND = "/sys/class/infiniband"
PROC_NET = "/proc/net"
INTERFACES_LIMIT = 128
ROUTES_LIMIT = 256
_READ_LIMIT = 65536

_UP, _RUNNING = 0x1, 0x40  # of an interface
_ROUTE_UP, _REJECT, _LOCAL, _ANYCAST = 0x1, 0x200, 0x80000000, 0x00100000  # of a route
_TENTATIVE, _FAILED, _TEMPORARY, _DEPRECATED = 0x40, 0x08, 0x01, 0x20  # of an IPv6 address

# ARPHRD_…: what the kernel's type of an interface says, where that is enough.
_TYPES = {
    772: "loopback", 32: "infiniband", 65534: "tunnel", 768: "tunnel", 769: "tunnel", 776: "tunnel",
    778: "tunnel", 823: "tunnel", 512: "tunnel",
}
_DEVTYPES = {
    "vlan": "vlan", "bond": "bond", "bridge": "bridge", "wlan": "wireless", "wwan": "wireless",
    "wireguard": "tunnel", "vxlan": "tunnel", "geneve": "tunnel", "gre": "tunnel", "macvlan": "ethernet",
    "ipvlan": "ethernet", "macvtap": "ethernet",
}
_DOCKER = re.compile(r"docker|br-[0-9a-f]{12}\Z")
# Only where /sys is not there to be read.
_NAMES = (
    (r"lo\Z", "loopback"), (r"docker|br-[0-9a-f]{12}\Z", "docker"), (r"veth", "veth"),
    (r"br\d|virbr|vmbr|lxcbr|lxdbr|cni|podman", "bridge"), (r"tun|tap|wg|tailscale|zt|utun|ppp", "tunnel"),
    (r"wl", "wireless"), (r"ib", "infiniband"), (r"bond|team", "bond"), (r"[^.]+\.\d+\Z|vlan", "vlan"),
)
_WITHOUT_SPEED = ("loopback", "tunnel", "veth", "docker", "virtual")  # what they say there is made up


def network() -> dict[str, Any]:
    """Return {"interfaces", "routes", "rdma", "stack"}: see the functions of those names."""
    return {"interfaces": interfaces(), "routes": routes(), "rdma": rdma(), "stack": stack()}


def interfaces() -> list[dict[str, Any]]:
    """Return [{name, kind, up, carrier, speed_mbps, mtu, default_route, over, addresses: [{address, prefix,
    temporary}]}] of those with an address or with hardware behind them.

    kind: loopback, ethernet, wireless, infiniband, bond, vlan, tunnel, bridge, docker, veth, or virtual for
    what else has no hardware. "over" has a bridge's ports that are hardware. None is "not known".
    """
    flags6 = _ipv6_flags()
    defaults = _default_interfaces()
    states: dict[str, int] = {}
    told: dict[str, list[dict[str, Any]]] = {}
    for label, address, prefix, flags in machine.addresses():
        name = label.partition(":")[0]  # "eth0:1" is another address of eth0
        states[name] = flags
        state = flags6.get(address, 0)
        if not state & (_TENTATIVE | _FAILED):
            told.setdefault(name, []).append({
                "address": address, "prefix": prefix, "temporary": bool(state & (_TEMPORARY | _DEPRECATED)),
            })
    found = []
    for name in [*told, *(name for name in _names(NET) if name not in told)]:
        own = told.get(name, [])
        # A server of containers has hundreds of veths with a link-local address and no other.
        if any(not is_link_local(one["address"]) for one in own) or _is_hardware(name):
            found.append({**_interface(name, defaults, states.get(name)), "addresses": own})
    return found[:INTERFACES_LIMIT]


def is_link_local(address: str) -> bool:
    """True for an address that means nothing on another link."""
    return address.startswith(("169.254.", "fe8", "fe9", "fea", "feb"))


def _is_hardware(name: str) -> bool:
    return os.path.exists(os.path.join(NET, name, "device"))


def _interface(name: str, defaults: set[str], flags: int | None) -> dict[str, Any]:
    folder = os.path.join(NET, name)
    kind = kind_of(name)
    if flags is None:  # no address: getifaddrs has not told
        flags = _number(os.path.join(folder, "flags"), 16)
    carrier = _read(os.path.join(folder, "carrier"))
    speed = 0 if kind in _WITHOUT_SPEED else _number(os.path.join(folder, "speed"))
    return {
        "name": name, "kind": kind, "up": bool(flags & _UP),
        "carrier": carrier == "1" if carrier else bool(flags & _RUNNING),
        "speed_mbps": speed if 0 < speed < 1 << 31 else None,  # -1, 4294967295: the driver does not know
        "mtu": _number(os.path.join(folder, "mtu")) or None, "default_route": name in defaults,
        "over": _hardware_ports(folder) if kind == "bridge" else [],
    }


def kind_of(name: str) -> str:
    """Return what kind of interface this is."""
    folder = os.path.join(NET, name)
    if not os.path.isdir(folder):
        return next((kind for pattern, kind in _NAMES if re.match(pattern, name)), "ethernet")
    kind = _TYPES.get(_number(os.path.join(folder, "type")))
    if kind:
        return kind

    def has(entry: str) -> bool:
        return os.path.exists(os.path.join(folder, entry))

    if has("bridge"):
        return "docker" if _DOCKER.match(name) else "bridge"
    if has("bonding"):
        return "bond"
    if has("wireless") or has("phy80211"):
        return "wireless"
    found = re.search(r"^DEVTYPE=(\S+)", _read(os.path.join(folder, "uevent")), re.MULTILINE)
    if found and found.group(1) in _DEVTYPES:
        return _DEVTYPES[found.group(1)]
    if has("tun_flags"):
        return "tunnel"
    if _is_hardware(name):
        return "ethernet"
    if any(entry.startswith("lower_") for entry in _names(folder)):
        return "bond"  # a team
    peer, own = _number(os.path.join(folder, "iflink")), _number(os.path.join(folder, "ifindex"))
    return "veth" if peer != own else "virtual"


def _hardware_ports(folder: str) -> list[str]:
    """Return a bridge's ports that are hardware, or a bond or vlan on it: such a bridge is a way out."""
    return [
        port for port in _names(os.path.join(folder, "brif"))
        if kind_of(port) in ("ethernet", "wireless", "infiniband", "bond", "vlan")
    ]


def routes() -> list[dict[str, Any]]:
    """Return [{destination, interface}] of the main table, without default routes and what stays on the
    machine or the link."""
    found = [
        {"destination": f"{network}/{prefix}", "interface": name}
        for network, prefix, name, _metric in [*_routes4(), *_routes6()]
        if prefix and name != "lo" and not network.startswith("ff") and not is_link_local(network)
    ]
    return found[:ROUTES_LIMIT]


def _default_interfaces() -> set[str]:
    """Return the interfaces of the default routes: the best of IPv4, the best of IPv6."""
    best = set()
    for table in (_routes4(), _routes6()):
        defaults = [(metric, name) for _network, prefix, name, metric in table if not prefix and name != "lo"]
        if defaults:
            best.add(min(defaults)[1])
    return best


def _routes4() -> Iterator[tuple[str, int, str, int]]:
    for line in _read(os.path.join(PROC_NET, "route")).splitlines()[1:]:
        words = line.split()
        if len(words) < 8 or int(words[3], 16) & (_ROUTE_UP | _REJECT) != _ROUTE_UP:
            continue
        network = socket.inet_ntop(socket.AF_INET, struct.pack("=I", int(words[1], 16)))
        yield network, bin(int(words[7], 16)).count("1"), words[0].partition(":")[0], int(words[6])


def _routes6() -> Iterator[tuple[str, int, str, int]]:
    for line in _read(os.path.join(PROC_NET, "ipv6_route")).splitlines():
        words = line.split()
        if len(words) < 10 or int(words[8], 16) & (_ROUTE_UP | _REJECT | _LOCAL | _ANYCAST) != _ROUTE_UP:
            continue
        network = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))
        yield network, int(words[1], 16), words[9], int(words[5], 16)


def _ipv6_flags() -> dict[str, int]:
    """Return the flags of each IPv6 address."""
    found = {}
    for line in _read(os.path.join(PROC_NET, "if_inet6")).splitlines():
        words = line.split()
        if len(words) >= 6:
            found[socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))] = int(words[4], 16)
    return found


def rdma() -> list[dict[str, Any]]:
    """Return [{device, port, active, link_layer, rate, interface}] of the InfiniBand and RoCE adapters."""
    found = []
    for device in _names(INFINIBAND):
        ports = os.path.join(INFINIBAND, device, "ports")
        for port in _names(ports):
            folder = os.path.join(ports, port)
            found.append({
                "device": device, "port": int(port) if port.isdigit() else 0,
                "active": "ACTIVE" in _read(os.path.join(folder, "state")),
                "link_layer": _read(os.path.join(folder, "link_layer")),
                "rate": _read(os.path.join(folder, "rate")),
                "interface": _read(os.path.join(folder, "gid_attrs", "ndevs", "0")) or None,
            })
    return found[:INTERFACES_LIMIT]


def stack() -> str | None:
    """Return a name for this network stack: two servers that tell the same one share all of their addresses.
    None where it can't be known."""
    boot = _read("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}" if boot else None
    except OSError:
        return None


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _number(path: str, base: int = 10) -> int:
    try:
        return int(_read(path), base)
    except ValueError:
        return 0


def _read(path: str) -> str:
    """Return a file's text without the last newline; "" where there is none, or the kernel refuses (a speed
    while the cable is out)."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_READ_LIMIT).rstrip("\n")
    except OSError:
        return ""
