"""Hosts on two networks: the launch takes the one that is open, says why, and keeps it in its record."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.docker_hosts import SESSION_LABEL, free_subnet
from tests.support.docker_image import docker
from tests.support.training import make_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.cli import Rl
    from tests.support.docker_hosts import DockerHost

SCRIPT = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == dist.get_world_size() == 2
dist.barrier()
os._exit(0)  # now and then gloo's threads abort a Python that shuts down
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Second:
    """A second network that both hosts are on, at ``addresses``."""

    hosts: list[DockerHost]
    addresses: list[str]

    def close_the_first(self) -> None:
        """Let nothing but ssh through on the network that ssh uses."""
        for host in self.hosts:
            new = f"-d {host.address} -p tcp ! --dport 22 -m state --state NEW"
            host.exec(f"iptables -w -A INPUT {new} -j DROP")


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def second(hosts: list[DockerHost], request: pytest.FixtureRequest) -> Iterator[Second]:
    """``hosts`` with a second network; that of IPv6 has no IPv4."""
    name = f"remote-launch-tests-{os.getpid()}-second"
    if request.param == 4:
        subnet = free_subnet()
        addresses = [f"{subnet.rpartition('.')[0]}.{number}" for number in (50, 51)]
        words, option = ["--subnet", subnet], "--ip"
    else:
        prefix = f"fd77:{os.getpid() >> 16:x}:{os.getpid() & 0xFFFF:x}:"
        addresses = [f"{prefix}:{number}" for number in (50, 51)]
        words, option = ["--ipv6", "--subnet", free_subnet(), "--subnet", f"{prefix}:/64"], "--ip6"
    docker("network", "create", *words, "--label", f"{SESSION_LABEL}={os.getpid()}", name)
    try:
        for host, address in zip(hosts, addresses, strict=True):
            docker("network", "connect", option, address, name, host.container)
            if request.param == 6:
                host.exec(f"ip -4 addr flush dev $(ip -o addr show to {address} | cut -d' ' -f2)")
        yield Second(hosts=hosts, addresses=addresses)
    finally:
        for host in hosts:
            docker("network", "disconnect", "-f", name, host.container, check=False)
        docker("network", "rm", name)


@pytest.fixture
def rl(tmp_path: Path, hosts: list[DockerHost]) -> Rl:
    return make_project(tmp_path / "project", hosts)


def test_a_launch_takes_the_network_that_is_open(rl: Rl, hosts: list[DockerHost], second: Second) -> None:
    (rl.project / "add.py").write_text(SCRIPT)
    second.close_the_first()
    started = rl("torch-launch", "--rsync", "--nproc-per-node", "1", "add.py")
    assert "another network was taken" in started.stderr
    assert any(f"{host.address}:" in started.stderr for host in hosts), "what was closed is said"
    assert second.addresses[0] in started.stdout, "where they meet"
    rl("job-wait")
    jobs = rl.json("job-list", "--all", "--rsync")["data"][:2]
    assert [job["exit_code"] for job in jobs] == [0, 0]
    for job, host, address in zip(jobs, hosts, second.addresses, strict=True):
        assert job["choices"]["network"]["address"] == address
        assert address in host.exec(f"ip addr show {job['choices']['network']['interface']}")
    assert f"network {second.addresses[1]} on " in rl("job-show").stdout


@pytest.mark.parametrize("second", [4], indirect=True)
def test_an_address_of_the_inventory_is_kept(
    tmp_path: Path, hosts: list[DockerHost], second: Second
) -> None:
    def project(addresses: list[str]) -> Rl:
        entries = {host.name: {"address": address} for host, address in zip(hosts, addresses, strict=True)}
        return make_project(tmp_path / addresses[0], hosts, servers=entries)

    second.close_the_first()
    launch = ("torch-launch", "--dry-run", "--nproc-per-node", "1", "train.py")
    shown = project(second.addresses)(*launch).stdout
    assert f"# host-1: {second.addresses[1]} on " in shown
    assert "address: in the inventory" in shown
    refused = project([host.address for host in hosts])(*launch, code=1)
    assert hosts[0].address in refused.stderr
    assert "nothing was started" in refused.stderr
