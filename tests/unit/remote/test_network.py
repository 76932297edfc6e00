"""What a server tells of its networks."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import machine, network

if TYPE_CHECKING:
    from pathlib import Path

UP = 0x1043  # as getifaddrs tells it
ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
wlan0	00000000	0101A8C0	0003	0	0	600	00000000	0	0	0
eth0	00000000	0100000A	0003	0	0	100	00000000	0	0	0
eth0	0000000A	00000000	0001	0	0	100	00FFFFFF	0	0	0
eth0	0000FEA9	00000000	0001	0	0	1000	0000FFFF	0	0	0
eth0	0005000A	00000000	0200	0	0	0	00FFFFFF	0	0	0
"""
ROUTES6 = """\
00000000000000000000000000000000 00 0 0 fe800000000000000000000000000001 00000064 1 0 00000003     ib0
20010db8000000000000000000000000 20 0 0 00000000000000000000000000000000 00000064 1 0 00000001    eth0
20010db8000000000000000000000007 80 0 0 00000000000000000000000000000000 00000000 2 0 80200001    eth0
fe800000000000000000000000000000 40 0 0 00000000000000000000000000000000 00000100 1 0 00000001    eth0
00000000000000000000000000000000 00 0 0 00000000000000000000000000000000 ffffffff 1 0 00200200      lo
"""
ADDRESSES6 = """\
20010db8000000000000000000000007 02 40 00 80     eth0
20010db8000000000000000000000008 02 40 00 01     eth0
20010db8000000000000000000000009 02 40 00 40     eth0
"""
# Its files, as the kernel has them; folders end in "/".
KINDS = {
    "loopback": {"type": "772"},
    "ethernet": {"type": "1", "device/": "", "ifindex": "2", "iflink": "2"},
    "infiniband": {"type": "32", "device/": ""},
    "wireless": {"type": "1", "device/": "", "phy80211/": "", "uevent": "DEVTYPE=wlan\nINTERFACE=x"},
    "bond": {"type": "1", "bonding/": "", "uevent": "DEVTYPE=bond"},
    "vlan": {
        "type": "1",
        "uevent": "DEVTYPE=vlan\nINTERFACE=x",
        "ifindex": "9",
        "iflink": "2",
        "lower_eth0/": "",
    },
    "tunnel": {"type": "65534", "tun_flags": "0x1001"},
    "docker": {"type": "1", "bridge/": "", "uevent": "DEVTYPE=bridge"},
    "bridge": {"type": "1", "bridge/": "", "uevent": "DEVTYPE=bridge"},
    "veth": {"type": "1", "ifindex": "5", "iflink": "12"},
    "virtual": {"type": "1", "ifindex": "7", "iflink": "7"},
}


def put(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders in place of /sys/class and /proc/net, empty."""
    for name, folder in (("NET", "net"), ("INFINIBAND", "infiniband"), ("PROC_NET", "proc")):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(network, name, str(tmp_path / folder))
    monkeypatch.setattr(machine, "addresses", list)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kernel: Path, kind: str) -> None:
    name = "docker0" if kind == "docker" else "net0"
    put(kernel / "net" / name, KINDS[kind])
    assert network.kind_of(name) == kind


@pytest.mark.parametrize(
    ("name", "files", "kind"),
    [
        ("br-0a1b2c3d4e5f", {"type": "1", "bridge/": ""}, "docker"),
        ("br-lan", {"type": "1", "bridge/": ""}, "bridge"),
        ("wg0", {"type": "65534", "uevent": "DEVTYPE=wireguard"}, "tunnel"),
        ("flannel.1", {"type": "1", "uevent": "DEVTYPE=vxlan"}, "tunnel"),
        ("tap0", {"type": "1", "tun_flags": "0x1002"}, "tunnel"),
        ("team0", {"type": "1", "lower_eth0/": "", "ifindex": "4", "iflink": "4"}, "bond"),
        ("eth0", {"type": "1", "uevent": "DEVTYPE=macvlan", "ifindex": "4", "iflink": "2"}, "ethernet"),
    ],
)
def test_kinds_by_more_than_a_name(kernel: Path, name: str, files: dict[str, str], kind: str) -> None:
    put(kernel / "net" / name, files)
    assert network.kind_of(name) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lo", "loopback"),
        ("docker0", "docker"),
        ("vethab12", "veth"),
        ("tailscale0", "tunnel"),
        ("wlp3s0", "wireless"),
        ("ib0", "infiniband"),
        ("bond0", "bond"),
        ("eth0.100", "vlan"),
        ("virbr0", "bridge"),
        ("enp3s0", "ethernet"),
    ],
)
def test_a_name_says_the_kind_where_nothing_else_does(kernel: Path, name: str, kind: str) -> None:
    assert network.kind_of(name) == kind


def test_a_machine(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(
        kernel / "net" / "eth0",
        {
            **KINDS["ethernet"],
            "carrier": "1",
            "speed": "25000",
            "mtu": "9000",
            "flags": "0x1003",
        },
    )
    put(kernel / "net" / "eth1", {**KINDS["ethernet"], "speed": "-1", "mtu": "1500", "flags": "0x1002"})
    put(kernel / "net" / "vmbr0", {**KINDS["bridge"], "carrier": "1", "brif/eth0/": "", "brif/vethab/": ""})
    put(kernel / "net" / "vethab", KINDS["veth"] | {"speed": "10000"})
    put(kernel / "proc", {"route": ROUTES, "ipv6_route": ROUTES6, "if_inet6": ADDRESSES6})
    monkeypatch.setattr(
        machine,
        "addresses",
        lambda: [
            ("eth0", "10.0.0.7", 24, UP),
            ("eth0:1", "10.0.0.8", 24, UP),
            ("vethab", "fe80::1", 64, UP),
            ("vmbr0", "192.168.7.1", 24, UP),
            *(("eth0", f"2001:db8::{number}", 64, UP) for number in (7, 8, 9)),
        ],
    )
    found = {one["name"]: one for one in network.interfaces()}
    assert list(found) == ["eth0", "vmbr0", "eth1"], "a container's end of a cable is of no interest"
    eth0 = found["eth0"]
    assert {name: eth0[name] for name in ("kind", "up", "carrier", "speed_mbps", "mtu", "default_route")} == {
        "kind": "ethernet",
        "up": True,
        "carrier": True,
        "speed_mbps": 25000,
        "mtu": 9000,
        "default_route": True,
    }
    assert [(one["address"], one["temporary"]) for one in eth0["addresses"]] == [
        ("10.0.0.7", False),
        ("10.0.0.8", False),
        ("2001:db8::7", False),
        ("2001:db8::8", True),
    ], "an address that is not ready yet is none"
    assert (found["eth1"]["up"], found["eth1"]["carrier"], found["eth1"]["speed_mbps"]) == (
        False,
        False,
        None,
    )
    assert found["vmbr0"]["over"] == ["eth0"]
    assert network.routes() == [
        {"destination": "10.0.0.0/24", "interface": "eth0"},
        {"destination": "2001:db8::/32", "interface": "eth0"},
    ]


def test_infiniband(kernel: Path) -> None:
    put(
        kernel / "infiniband" / "mlx5_0" / "ports" / "1",
        {
            "state": "4: ACTIVE",
            "link_layer": "InfiniBand",
            "rate": "200 Gb/sec (4X HDR)",
            "gid_attrs/ndevs/0": "ib0",
        },
    )
    put(kernel / "infiniband" / "mlx5_1" / "ports" / "1", {"state": "1: DOWN", "link_layer": "Ethernet"})
    assert network.rdma() == [
        {
            "device": "mlx5_0",
            "port": 1,
            "active": True,
            "link_layer": "InfiniBand",
            "rate": "200 Gb/sec (4X HDR)",
            "interface": "ib0",
        },
        {
            "device": "mlx5_1",
            "port": 1,
            "active": False,
            "link_layer": "Ethernet",
            "rate": "",
            "interface": None,
        },
    ]


@pytest.mark.parametrize("broken", ["", "Iface\n", "x y z\n" * 3, "\x00\xff" * 40])
def test_tables_that_can_not_be_read_are_none(kernel: Path, broken: str) -> None:
    put(kernel / "proc", dict.fromkeys(("route", "ipv6_route", "if_inet6"), broken))
    assert network.network()["routes"] == []


def test_this_machine() -> None:
    told = network.network()
    own: dict[str, Any] = {one["address"]: item for item in told["interfaces"] for one in item["addresses"]}
    assert own["127.0.0.1"]["kind"] == "loopback"
    assert told["stack"] == network.stack()
    for item in told["interfaces"]:
        for one in item["addresses"]:
            ipaddress.ip_interface(f"{one['address']}/{one['prefix']}")
    for route in told["routes"]:
        ipaddress.ip_network(route["destination"])
