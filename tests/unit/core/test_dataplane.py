"""Which address each server of a launch gets, on the networks that people have."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import Any

import pytest

from remote_launch.core.dataplane import DataPlane, choose, rank_planes
from remote_launch.core.networks import Interface, RdmaPort, Route, ServerNetwork
from remote_launch.errors import TopologyError

_LINE = re.compile(r"(?P<name>\S+) (?P<kind>\w+)(?P<words>.*)")


def interface(line: str) -> Interface:
    """Read "eth1 ethernet 10.0.0.1/24 25000Mb/s mtu=9000 default down over=eno1 temp=fd00::1/64"."""
    name, kind, *words = line.split()
    found: dict[str, Any] = {"name": name, "kind": kind, "addresses": (), "temporary": ()}
    for word in words:
        if word.endswith("Mb/s"):
            found["speed_mbps"] = int(word[:-4])
        elif word.startswith("mtu="):
            found["mtu"] = int(word[4:])
        elif word.startswith("over="):
            found["over"] = tuple(word[5:].split(","))
        elif word in ("default", "down"):
            found |= {"default_route": True} if word == "default" else {"up": False}
        else:
            address = ipaddress.ip_interface(word.removeprefix("temp="))
            found["addresses"] += (address,)
            if word.startswith("temp="):
                found["temporary"] += (address.ip,)
    return Interface(**found)


def server(name: str, lines: str, *, reached: str = "", routes: str = "", **changes: Any) -> ServerNetwork:
    """``lines`` are interfaces; ``routes`` are words as "10.0.0.0/16>eth1"."""
    interfaces = tuple(interface(line) for line in ("lo loopback 127.0.0.1/8 ::1/128\n" + lines).splitlines())
    own = next(
        (one.name for one in interfaces if reached in {str(address.ip) for address in one.addresses}), None
    )
    fields: dict[str, Any] = {
        "server": name, "reached": reached, "reached_interface": own, "interfaces": interfaces,
        "stack": f"boot-{name}/1",
        "routes": tuple(
            Route(destination=ipaddress.ip_network(word.split(">")[0]), interface=word.split(">")[1])
            for word in routes.split()
        ),
    }  # fmt: skip
    return ServerNetwork(**fields | changes)


def picked(plane: DataPlane) -> list[str]:
    return [f"{choice.address} {choice.interface}" for choice in plane.choices]


DOCKER = "docker0 docker 172.17.0.1/16\nbr-0123456789ab docker 172.18.0.1/16"


def cloud(n: int) -> ServerNetwork:
    """A virtual machine: no speed is known, the public address is the provider's."""
    return server(
        f"vm{n}", f"ens5 ethernet 10.0.1.{n}/24 mtu=9001 default\n{DOCKER}", reached=f"10.0.1.{n}"
    )


def droplet(n: int) -> ServerNetwork:
    """Its public address is on an interface, and a second one is private."""
    return server(
        f"d{n}", f"eth0 ethernet 203.0.113.{n}/20 default\neth1 ethernet 10.116.0.{n}/20",
        reached=f"203.0.113.{n}",
    )  # fmt: skip


def metal(n: int, **changes: Any) -> ServerNetwork:
    """A machine with management, a bond, and InfiniBand."""
    lines = (
        f"eno1 ethernet 192.168.10.{n}/24 1000Mb/s mtu=1500\n"
        f"bond0 bond 10.1.0.{n}/16 50000Mb/s mtu=9000 default\n"
        f"ib0 infiniband 10.2.0.{n}/16 200000Mb/s mtu=4092\n"
        f"ib1 infiniband 10.3.0.{n}/16 200000Mb/s mtu=4092 down\n"
        f"{DOCKER}\nvirbr0 bridge 192.168.122.1/24"
    )
    ports = ("mlx5_0", "mlx5_1")
    rdma = tuple(
        RdmaPort(
            device=name, active=name == "mlx5_0", link_layer="InfiniBand", rate="200 Gb/sec (4X HDR)"
        )
        for name in ports
    )
    return server(f"m{n}", lines, reached=f"192.168.10.{n}", rdma=rdma, **changes)


def kubernetes(n: int) -> ServerNetwork:
    return server(
        f"k{n}",
        f"eth0 ethernet 192.168.5.{n}/24 default\nflannel.1 tunnel 10.42.{n}.0/32\n"
        f"cni0 bridge 10.42.{n}.1/24\nkube-ipvs0 virtual 10.43.0.1/32",
        routes=f"10.42.0.0/16>flannel.1 10.42.{n}.0/24>cni0", reached=f"192.168.5.{n}",
    )  # fmt: skip


def laptop(n: int) -> ServerNetwork:
    return server(
        f"l{n}",
        f"wlp2s0 wireless 192.168.1.{n}/24 temp=2001:db8::{n}:9/64 2001:db8::{n}/64 default\n"
        f"enp0s31f6 ethernet 192.168.1.{100 + n}/24 down\ntailscale0 tunnel 100.64.0.{n}/32\n{DOCKER}",
        reached=f"192.168.1.{n}", routes="100.64.0.0/10>tailscale0",
    )  # fmt: skip


def container(n: int) -> ServerNetwork:
    return server(f"c{n}", f"eth0 veth 172.20.0.{n}/16 default", reached=f"172.20.0.{n}")


def wsl(n: int) -> ServerNetwork:
    """Each Windows gives its Linux an address behind a network of its own: only the overlay joins them."""
    return server(
        f"w{n}", f"eth0 ethernet 172.2{n}.144.5/20 default\nzt7nnig26 tunnel 10.147.17.{n}/24",
        reached=f"10.147.17.{n}",
    )  # fmt: skip


def ipv6(n: int) -> ServerNetwork:
    return server(
        f"s{n}", f"eth0 ethernet temp=2001:db8:1::aaa{n}/64 2001:db8:1::{n}/64 fe80::{n}/64 default",
        reached=f"2001:db8:1::{n}",
    )  # fmt: skip


def hypervisor(n: int) -> ServerNetwork:
    return server(
        f"h{n}", f"vmbr0 bridge 192.168.7.{n}/24 10000Mb/s over=eno1 default\nwg0 tunnel 10.9.0.{n}/24",
        reached=f"192.168.7.{n}",
    )  # fmt: skip


def hetzner(n: int) -> ServerNetwork:
    """The private network is a route: the address itself has no neighbours."""
    return server(
        f"z{n}", f"eth0 ethernet 198.51.100.{n}/32 default\nenp7s0 ethernet 10.0.0.{n}/32",
        reached=f"198.51.100.{n}", routes="10.0.0.0/16>enp7s0",
    )  # fmt: skip


def two_speeds(n: int) -> ServerNetwork:
    return server(
        f"f{n}",
        f"eth0 ethernet 10.0.0.{n}/24 1000Mb/s default\neth1 ethernet 203.0.113.{n}/24 10000Mb/s",
        reached=f"10.0.0.{n}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "address", "words"),
    [
        (cloud, "10.0.1.{} ens5", "10.0.1.0/24 is common to all 3 servers, private"),
        (droplet, "10.116.0.{} eth1", "10.116.0.0/20 is common to all 3 servers, private"),
        (metal, "10.2.0.{} ib0", "200000 Mb/s, IP over InfiniBand, private"),
        (kubernetes, "192.168.5.{} eth0", "private"),
        (laptop, "192.168.1.{} wlp2s0", "wireless, private"),
        (container, "172.20.0.{} eth0", "a container's own network, private, there is no other"),
        (wsl, "10.147.17.{} zt7nnig26", "a tunnel, private"),
        (ipv6, "2001:db8:1::{} eth0", "public: what the ranks send is not encrypted"),
        (hypervisor, "192.168.7.{} vmbr0", "10000 Mb/s, a bridge over eno1, private"),
        (hetzner, "10.0.0.{} enp7s0", "10.0.0.0/16 is common to all 3 servers, private"),
        (two_speeds, "203.0.113.{} eth1", "10000 Mb/s, public"),
    ],
)  # fmt: skip
def test_three_of_a_kind(make: Any, address: str, words: str) -> None:
    plane = choose([make(n) for n in (1, 2, 3)])
    assert picked(plane) == [address.format(n) for n in (1, 2, 3)]
    assert words in plane.choices[0].reason
    assert plane.choices[0].reason in plane.notes[0]
    assert plane.warnings == ()


@pytest.mark.parametrize(
    ("servers", "expected", "warned"),
    [
        ([cloud(1), droplet(2)], ["10.0.1.1 ens5", "203.0.113.2 eth0"], True),
        # Subnets of one cloud are routed to each other.
        ([cloud(1), server("b", "ens5 ethernet 10.0.2.7/24 default", reached="10.0.2.7")],
         ["10.0.1.1 ens5", "10.0.2.7 ens5"], False),
        # Google's: a /32 behind a gateway.
        ([server(f"g{n}", f"ens4 ethernet 10.128.0.{n}/32 default", reached=f"10.128.0.{n}") for n in (1, 2)],
         ["10.128.0.1 ens4", "10.128.0.2 ens4"], False),
        # sshd behind a tunnel that ends on the server itself says nothing of its network.
        ([server("a", "eth0 ethernet 10.9.9.9/24 default", reached="127.0.0.1"), cloud(2)],
         ["10.9.9.9 eth0", "10.0.1.2 ens5"], False),
        # Prefixes that differ, one network all the same.
        ([server("a", "eth0 ethernet 10.5.0.1/16"), server("b", "eth0 ethernet 10.5.0.2/24")],
         ["10.5.0.1 eth0", "10.5.0.2 eth0"], False),
        ([ipv6(1), cloud(2)], ["2001:db8:1::1 eth0", "10.0.1.2 ens5"], True),
        # A laptop that takes part itself, without ssh: its address on the network of the others.
        ([server("me", f"wlan0 wireless 10.0.1.99/24 default\n{DOCKER}", reached="127.0.0.1", local=True),
          cloud(2)], ["10.0.1.99 wlan0", "10.0.1.2 ens5"], False),
    ],
)  # fmt: skip
def test_mixtures(servers: list[ServerNetwork], expected: list[str], warned: bool) -> None:
    plane = choose(servers)
    assert picked(plane) == expected
    assert bool(plane.warnings) is warned
    for name in (one.server for one in servers) if warned else ():
        assert name in plane.warnings[0]
        assert "address:" in plane.warnings[0]


class TestWhatTheUserSet:
    def test_an_address_of_the_inventory_takes_the_others_along(self) -> None:
        plane = choose([metal(1, pinned="10.1.0.1"), metal(2), metal(3)])
        assert picked(plane) == ["10.1.0.1 bond0", "10.1.0.2 bond0", "10.1.0.3 bond0"]
        assert "address: in the inventory" in plane.choices[0].reason

    @pytest.mark.parametrize("pinned", ["172.17.0.1", "192.168.122.1"])
    def test_even_one_that_would_not_be_taken(self, pinned: str) -> None:
        plane = choose([dataclasses.replace(metal(1), pinned=pinned), metal(2)])
        assert plane.choices[0].address == pinned

    def test_a_name_keeps_its_words_and_gets_an_interface(self) -> None:
        # Debian's own name is 127.0.1.1 on the server itself: "lo" would not do.
        plane = choose([dataclasses.replace(cloud(1), pinned="vm1.lan", reached_interface="lo"), cloud(2)])
        assert picked(plane) == ["vm1.lan ens5", "10.0.1.2 ens5"]
        assert plane.warnings == ()

    def test_a_mapped_address_is_kept_and_said(self) -> None:
        mapped = dataclasses.replace(cloud(1), pinned="198.51.100.4", reached_interface=None)
        plane = choose([mapped, cloud(2)])
        assert picked(plane) == ["198.51.100.4 ens5", "10.0.1.2 ens5"]
        assert "none of its interfaces" in plane.warnings[0]

    def test_all_are_set_and_nothing_is_common(self) -> None:
        plane = choose([dataclasses.replace(cloud(1), pinned="10.0.1.1"),
                        dataclasses.replace(droplet(2), pinned="203.0.113.2")])  # fmt: skip
        assert picked(plane) == ["10.0.1.1 ens5", "203.0.113.2 eth0"]
        assert plane.warnings == ()

    @pytest.mark.parametrize(
        ("by", "wanted", "expected"),
        [
            ("GLOO_SOCKET_IFNAME", "bond0", "bond0"), ("NCCL_SOCKET_IFNAME", "bond", "bond0"),
            ("NCCL_SOCKET_IFNAME", "=eno1", "eno1"), ("NCCL_SOCKET_IFNAME", "^ib", "bond0"),
            ("NCCL_SOCKET_IFNAME", "^ib,bond,docker,br,virbr", "eno1"),
            ("GLOO_SOCKET_IFNAME", "eno1,bond0", "bond0"),
        ],
    )  # fmt: skip
    def test_an_interface_of_the_environment(self, by: str, wanted: str, expected: str) -> None:
        plane = choose([metal(1, wanted=wanted, wanted_by=(by,)), metal(2)])
        assert [choice.interface for choice in plane.choices] == [expected] * 2
        assert f"{by} is set" in plane.choices[0].reason

    def test_an_interface_that_is_not_there_is_said(self) -> None:
        plane = choose([metal(1, wanted="eth7", wanted_by=("GLOO_SOCKET_IFNAME",)), metal(2)])
        assert plane.choices[0].interface == "ib0"
        assert "eth7" in plane.warnings[0]
        assert "bond0" in plane.warnings[0]


class TestOneMachine:
    def test_local_servers_keep_to_themselves(self) -> None:
        plane = choose([dataclasses.replace(cloud(n), local=True, stack=None) for n in (1, 2)])
        assert picked(plane) == ["127.0.0.1 lo"] * 2

    def test_several_sshds_of_one_machine(self) -> None:
        plane = choose([server(f"s{n}", "eth0 ethernet 10.0.0.1/24", reached=f"127.0.0.{n}", stack="one")
                        for n in (2, 3)])  # fmt: skip
        assert picked(plane) == ["127.0.0.2 lo", "127.0.0.3 lo"]

    def test_two_logins_of_one_machine_and_another_machine(self) -> None:
        one = dataclasses.replace(cloud(1), stack="one")
        plane = choose([one, dataclasses.replace(one, server="again"), cloud(2)])
        assert picked(plane) == ["10.0.1.1 ens5", "10.0.1.1 ens5", "10.0.1.2 ens5"]

    def test_a_server_alone_is_where_ssh_reached_it(self) -> None:
        assert picked(choose([droplet(1)])) == ["203.0.113.1 eth0"]


def test_one_address_on_two_machines_leads_nowhere() -> None:
    both = [server(name, "eth0 veth 172.17.0.2/16 default", reached="172.17.0.2") for name in "ab"]
    with pytest.raises(TopologyError, match=r"172\.17\.0\.2") as caught:
        choose(both)
    assert "address:" in str(caught.value.hint)


def test_nothing_was_told() -> None:
    plane = choose([ServerNetwork(server=name, reached="gpu-a.lan") for name in "ab"])
    assert picked(plane) == ["gpu-a.lan None"] * 2


def test_gloo_speaks_from_the_first_address_of_an_interface() -> None:
    """Measured with torch 2.13: given an interface with 10.1.0.1 and fd00:77::1, its ranks name 10.1.0.1."""
    servers = [
        server(f"s{n}", f"eth0 ethernet 10.{n}.0.1/24 10.9.0.{n}/24 fd00:77::{n}/64 default\n"
               f"eth1 ethernet 192.168.3.{n}/24")
        for n in (1, 2)
    ]  # fmt: skip
    assert picked(choose(servers)) == ["192.168.3.1 eth1", "192.168.3.2 eth1"]
    alone = [dataclasses.replace(one, interfaces=one.interfaces[:2]) for one in servers]
    plane = choose(alone)
    assert picked(plane) == ["10.9.0.1 eth0", "10.9.0.2 eth0"]
    assert "10.1.0.1" in plane.warnings[0]


def test_the_next_networks_are_there_too() -> None:
    assert [plane.network for plane in rank_planes([metal(1), metal(2)])] == [
        "10.2.0.0/16", "10.1.0.0/16", "192.168.10.0/24"
    ]  # fmt: skip


def test_the_routes_are_the_last_to_try() -> None:
    """Two homes with one private network: what ssh reached is an overlay, in a table of its own."""
    homes = [
        server(f"h{n}", f"eth0 ethernet 192.168.1.{n}/24 default\ntailscale0 tunnel 100.64.0.{n}/32",
               reached=f"100.64.0.{n}")
        for n in (1, 2)
    ]  # fmt: skip
    near, far = rank_planes(homes)
    assert picked(near) == ["192.168.1.1 eth0", "192.168.1.2 eth0"]
    assert picked(far) == ["100.64.0.1 tailscale0", "100.64.0.2 tailscale0"]
    assert far.warnings == ()


def test_what_is_down_on_one_server_is_for_none() -> None:
    down = dataclasses.replace(metal(2), interfaces=tuple(
        dataclasses.replace(one, up=one.name != "ib0") for one in metal(2).interfaces
    ))  # fmt: skip
    assert picked(choose([metal(1), down])) == ["10.1.0.1 bond0", "10.1.0.2 bond0"]


def test_infiniband_is_told_and_nothing_is_set() -> None:
    notes = choose([metal(1), metal(2), cloud(3)]).notes
    (hint,) = [note for note in notes if "NCCL_IB_HCA" in note]
    assert hint.startswith("m1, m2: InfiniBand mlx5_0 (200 Gb/sec (4X HDR))")
    assert "mlx5_1 not active" in hint
