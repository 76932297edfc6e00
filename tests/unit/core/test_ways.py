"""What tries of the way between servers are called."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from remote_launch.core.ways import (
    Link,
    bandwidth_findings,
    blocked_findings,
    gbits,
    latency_findings,
    mtu_findings,
)


def link(source: str, to: str, outcome: str = "reached", **fields: Any) -> Link:
    values = {"address": f"10.0.0.{ord(to) - 96}", "port": 40000, **fields}
    return Link(source=source, to=to, outcome=outcome, **values)


def mesh(names: str, closed: dict[str, str] | None = None, **fields: Any) -> list[Link]:
    """All ways between the servers; ``closed``: {"ab": outcome}."""
    return [
        link(source, to, (closed or {}).get(source + to, "reached"), **fields)
        for source, to in permutations(names, 2)
    ]


class TestClosedWays:
    def test_open_ways_are_none(self) -> None:
        assert blocked_findings(mesh("abc")) == []
        assert blocked_findings([]) == []

    def test_one_way_is_named_with_its_direction(self) -> None:
        (found,) = blocked_findings(mesh("abc", {"ab": "timed_out"}))
        assert found.message == (
            "a can't reach b at 10.0.0.2:40000: no answer: a firewall drops it, or the address is on a "
            "network that they don't share (the other way is open)"
        )
        assert (found.level, found.servers) == ("error", ("a", "b"))
        assert "20000-32000" in str(found.do)

    def test_two_servers_that_reach_each_other_not(self) -> None:
        told = [found.message for found in blocked_findings(mesh("ab", {"ab": "refused", "ba": "refused"}))]
        assert [text.partition(": refused")[0] for text in told] == [
            "a can't reach b at 10.0.0.2:40000", "b can't reach a at 10.0.0.1:40000"
        ]
        assert all("nor the other way round" in text for text in told)

    def test_a_server_that_nobody_reaches_is_one_finding(self) -> None:
        closed = {source + "d": "timed_out" for source in "abcefg"}
        (found,) = blocked_findings(mesh("abcdefg", closed))
        assert found.message.startswith("6 servers (a, b, c …) can't reach d at 10.0.0.4:40000")

    def test_a_server_that_reaches_nobody_is_one_finding(self) -> None:
        closed = {"d" + to: "no_route" for to in "abc"}
        (found,) = blocked_findings(mesh("abcd", closed))
        assert found.message.startswith("d can't reach any other server (10.0.0.1, 10.0.0.2, 10.0.0.3): no")

    def test_a_port_of_two_is_said(self) -> None:
        links = [*mesh("ab"), link("b", "a", "timed_out", port=20001)]
        (found,) = blocked_findings(links)
        assert found.message.startswith("b can't reach a at 10.0.0.1:20001: no answer")
        assert "port 40000 is open" in found.message

    def test_ipv6_and_the_systems_own_words(self) -> None:
        one = link("a", "b", "failed", address="fd00::2", said="Protocol not available")
        (found,) = blocked_findings([one])
        assert "at [fd00::2]:40000: the connection fails (Protocol not available)" in found.message

    def test_an_outcome_that_nobody_knows(self) -> None:
        (found,) = blocked_findings([link("a", "b", "bewitched")])
        assert "the connection fails" in found.message


class TestFigures:
    def test_short_round_trips(self) -> None:
        (found,) = latency_findings(mesh("abc", rtt_ms=0.2))
        assert (found.level, found.detail, found.servers) == ("ok", "0.20 ms", ("a", "b", "c"))
        assert latency_findings(mesh("abc")) == []

    @pytest.mark.parametrize("rtt_ms", [30.0, 4.0])
    def test_a_server_far_away(self, rtt_ms: float) -> None:
        links = [*mesh("abc", rtt_ms=0.2), link("a", "d", rtt_ms=rtt_ms), link("d", "a", rtt_ms=rtt_ms + 1)]
        (found,) = latency_findings(links)
        assert (found.level, found.servers) == ("warning", ("a", "d"))
        assert f"between a and d takes {rtt_ms:.1f} ms" in found.message

    def test_one_packet_size_and_two(self) -> None:
        assert [found.level for found in mtu_findings(mesh("abc", mtu=1500))] == ["ok"]
        assert mtu_findings(mesh("ab", mtu=65535)) == [], "one machine"
        (found,) = mtu_findings([*mesh("ab", mtu=9000), link("a", "c", mtu=1500)])
        assert (found.level, found.detail) == ("warning", "1500: a to c")
        assert "MTU 1500, 9000" in found.message

    def test_a_black_hole(self) -> None:
        (found,) = mtu_findings([link("a", "b", mtu=9000, stalled=True), *mesh("ac", mtu=9000)])
        assert (found.level, found.servers) == ("error", ("a", "b"))
        assert "does not arrive" in found.message

    def test_bandwidths(self) -> None:
        (found,) = bandwidth_findings(mesh("abc", bytes_per_s=1.1e9))
        assert (found.level, found.detail) == ("ok", "8.8 Gbit/s, in 0.1 s")
        (found,) = bandwidth_findings([*mesh("abc", bytes_per_s=1.1e9), link("a", "d", bytes_per_s=11.7e6)])
        assert (found.level, found.servers) == ("warning", ("a", "d"))
        assert found.message == "a sends to d at 93.6 Mbit/s only"
        assert "8.8 Gbit/s" in found.detail

    def test_all_slow_is_slow_too(self) -> None:
        (found,) = bandwidth_findings(mesh("ab", bytes_per_s=1e6))
        assert found.message == "a sends to b at 8 Mbit/s only, and 1 more ways are slow"
        assert gbits(1.25e9) == "10.0 Gbit/s"
