"""Firewalls and wrong addresses between hosts, made for real: a launch is refused at once, and says why;
rl doctor says the same."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.docker_hosts import DockerHost

LAUNCH = ("torch-launch", "--nproc-per-node", "1", "train.py")
SOON_S = 60.0  # 3.5 s to 6 s on a machine at rest; the ranks themselves would wait for each other for minutes
NEW = "-p tcp --syn"  # connections that begin; those of the other direction go on


@pytest.fixture
def make_rl(tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory) -> Callable[..., Rl]:
    """Given an inventory's other keys, return a project of two hosts. It never trains: no torch is needed."""

    def make(**keys: Any) -> Rl:
        (tmp_path / "train.py").touch()
        inventory(tmp_path, hosts, name="ways", environment={"manager": "none"}, **keys)
        rl = Rl(tmp_path)
        rl("rsync")
        return rl

    return make


def refusal(rl: Rl) -> str:
    """Launch; return what is said of it."""
    started = time.monotonic()
    said = rl(*LAUNCH, code=1).stderr
    assert time.monotonic() - started < SOON_S
    assert "nothing was started" in said
    assert "--no-check" in said
    return " ".join(said.split())


def doctors_words(rl: Rl) -> list[str]:
    found = findings(rl, "reach", code=1)
    assert {one["level"] for one in found} == {"error"}
    return [one["message"] for one in found]


def findings(rl: Rl, check: str, *, code: int) -> list[dict[str, Any]]:
    """Return what rl doctor finds by one check."""
    return list(rl.json("doctor", "--only", check, code=code)["data"]["findings"])


def test_a_firewall_that_drops_everything(make_rl: Callable[..., Rl], hosts: list[DockerHost]) -> None:
    rl = make_rl()
    hosts[0].block(hosts[1].address)
    said = refusal(rl)
    for source, to in ((hosts[0], hosts[1]), (hosts[1], hosts[0])):
        assert f"{source.name} can't reach {to.name} at {to.address}:" in said
    assert "no answer: a firewall drops it" in said
    assert "20000-32000" in said
    assert rl.json("job-list", "--all")["data"] == []
    assert len(doctors_words(rl)) == 2
    assert "torch.distributed.run" in rl("torch-launch", "--no-check", "--dry-run", *LAUNCH[1:]).stdout


def test_firewalls_that_let_some_through(make_rl: Callable[..., Rl], hosts: list[DockerHost]) -> None:
    rl = make_rl()
    hosts[1].exec(f"iptables -w -A INPUT {NEW} -s {hosts[0].address} -j DROP")
    said = refusal(rl)
    assert f"host-0 can't reach host-1 at {hosts[1].address}:" in said
    assert "(the other way is open)" in said
    assert "host-1 can't reach host-0" not in said
    hosts[1].unblock()
    reject = "-j REJECT --reject-with icmp-host-prohibited"
    hosts[0].exec(f"iptables -w -A INPUT {NEW} --dport 32768:60999 -s {hosts[1].address} {reject}")
    said = refusal(rl)
    assert f"host-1 can't reach host-0 at {hosts[0].address}:" in said
    assert "no route: a firewall rejects it" in said
    assert "ports 2" in said
    assert "are open" in said


def test_a_slow_cable_and_one_that_loses_long_packets(
    make_rl: Callable[..., Rl], hosts: list[DockerHost]
) -> None:
    rl = make_rl()
    hosts[0].limit("10mbit")
    (told,) = findings(rl, "bandwidth", code=0)
    assert told["level"] == "warning"
    assert " sends to " in told["message"]  # the worst is named: a busy machine may be slow the other way too
    assert told["data"]["bytes_per_s"]["host-0 to host-1"] < 5_000_000
    hosts[0].unlimit()
    hosts[0].exec(f"iptables -w -A OUTPUT -d {hosts[1].address} -m length --length 1000:65535 -j DROP")
    (told,) = findings(rl, "mtu", code=1)
    assert told["level"] == "error"
    assert "host-0 reaches host-1" in told["message"]


def test_an_address_that_nobody_has(make_rl: Callable[..., Rl], hosts: list[DockerHost]) -> None:
    address = f"{hosts[0].address.rpartition('.')[0]}.200"
    rl = make_rl(servers={"host-0": {"address": address}})
    said = refusal(rl)
    assert f"host-1 can't reach host-0 at {address}:" in said
    assert "address: in the inventory" in said
    (told,) = doctors_words(rl)
    assert address in told
