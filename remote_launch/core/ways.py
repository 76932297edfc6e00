"""What tries of the way between servers mean: who can't reach whom, what is slow, what differs. Pure."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING

from remote_launch.core.findings import Finding
from remote_launch.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

REACH, LATENCY, MTU, BANDWIDTH = "reach", "latency", "mtu", "bandwidth"
REMEDY = (
    "open TCP between the servers, both ways: ports 20000-32000 for rl and torch's master, 32768-60999 for "
    "gloo and NCCL; or set address: in the inventory to a network that they share"
)
SLOW_RTT_MS = 5.0
SLOW_BYTES_PER_S = 12_500_000  # 100 Mbit/s
_LOOPBACK_MTU = 65_000  # two servers on one machine
_NAMES_SHOWN = 4
_MEANING = {
    "timed_out": "no answer: a firewall drops it, or the address is on a network that they don't share",
    "refused": "refused: a firewall rejects it, or the address is another machine's",
    "no_route": "no route: a firewall rejects it, or the address is of another network",
    "unresolved": "the name can't be resolved there",
    "other": "something else answers there: another machine has this address, or another program this port",
    "silent": "it connects, and then nothing comes: a proxy or a firewall takes the connection",
    "failed": "the connection fails",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One server's try to reach another."""

    source: str
    to: str
    address: str
    port: int
    outcome: str  # "reached", or a key of _MEANING
    said: str = ""  # the system's own word for it
    rtt_ms: float | None = None
    mtu: int | None = None
    bytes_per_s: float | None = None
    stalled: bool = False  # small messages came through, many bytes did not

    @property
    def reached(self) -> bool:
        return self.outcome == "reached"

    @property
    def means(self) -> str:
        """What its outcome means, in words."""
        meaning = _MEANING.get(self.outcome, _MEANING["failed"])
        shows_word = self.outcome in ("failed", "other") and self.said
        return f"{meaning} ({self.said})" if shows_word else meaning


def blocked(links: Sequence[Link]) -> list[Link]:
    """Return the tries that failed."""
    return [link for link in links if not link.reached]


def blocked_findings(links: Sequence[Link]) -> list[Finding]:
    """Given all tries, return an error for each way that is closed; one for a server that nobody reaches, or
    that reaches nobody."""
    failed = blocked(links)
    others: dict[str, set[str]] = defaultdict(set)
    for link in links:
        others[link.source].add(link.to)
    by_source: dict[str, set[str]] = defaultdict(set)
    for link in failed:
        by_source[link.source].add(link.to)
    lonely = {source for source, tos in by_source.items() if len(tos) > 1 and tos == others[source]}
    if len(lonely) == len(others):
        lonely = set()  # nobody reaches anybody: say it of the addresses that are not reached
    findings = []
    for source in sorted(lonely):
        mine = [link for link in failed if link.source == source]
        findings.append(_finding(links, mine, f"{source} can't reach any other server ({_places(mine)})"))
    by_target: dict[str, list[Link]] = defaultdict(list)
    for link in failed:
        if link.source not in lonely:
            by_target[link.to].append(link)
    for target, mine in by_target.items():
        sources = list(dict.fromkeys(link.source for link in mine))
        findings.append(_finding(links, mine, f"{_some(sources)} can't reach {target} at {_places(mine)}"))
    return findings


def _finding(links: Sequence[Link], mine: Sequence[Link], what: str) -> Finding:
    pairs = {(link.source, link.to) for link in mine}
    means = list(dict.fromkeys(link.means for link in mine))
    message = f"{what}: {'; '.join(means)}"
    closed = {(link.source, link.to) for link in links if not link.reached}
    if len(pairs) == 1:
        source, target = next(iter(pairs))
        if any((link.source, link.to) == (target, source) for link in links):
            is_closed = (target, source) in closed
            message += " (nor the other way round)" if is_closed else " (the other way is open)"
        mixed = [link for link in links if (link.source, link.to) == (source, target) and link.reached]
        if mixed:
            are = "port {} is open" if len(mixed) == 1 else "ports {} are open"
            message += "; " + are.format(", ".join(str(link.port) for link in mixed))
    return Finding(
        check=REACH,
        servers=tuple(dict.fromkeys(name for pair in sorted(pairs) for name in pair)),
        level="error",
        message=message,
        do=REMEDY,
        data={"links": [dataclasses.asdict(link) for link in mine]},
    )


def _places(links: Sequence[Link]) -> str:
    """Return "10.0.0.2:20001 and :40003", or with several addresses those alone."""
    ports: dict[str, list[int]] = defaultdict(list)
    for link in links:
        if link.port not in ports[link.address]:
            ports[link.address].append(link.port)
    if len(ports) > 1:
        return _some(list(ports), "addresses")
    ((address, numbers),) = ports.items()
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{numbers[0]}" + "".join(f" and :{number}" for number in numbers[1:])


def _some(names: Sequence[str], noun: str = "servers") -> str:
    if len(names) > _NAMES_SHOWN:
        return f"{len(names)} {noun} ({', '.join(names[:_NAMES_SHOWN - 1])} …)"
    return ", ".join(names)


def latency_findings(links: Sequence[Link]) -> list[Finding]:
    """Given tries with round trips, return a warning for pairs that are far apart."""
    pairs: dict[tuple[str, str], float] = {}
    for link in links:
        if link.rtt_ms is not None:
            pair = (min(link.source, link.to), max(link.source, link.to))
            pairs[pair] = min(link.rtt_ms, pairs.get(pair, float("inf")))
    if not pairs:
        return []
    import statistics  # 3 ms that a launch saves

    usual = statistics.median(pairs.values())
    slow = {
        pair: rtt
        for pair, rtt in pairs.items()
        if rtt > SLOW_RTT_MS or (len(pairs) > 2 and rtt > 1.0 and rtt > 10 * usual)
    }
    data = {"rtt_ms": {" - ".join(pair): rtt for pair, rtt in pairs.items()}}
    if not slow:
        low, high = min(pairs.values()), max(pairs.values())
        span = f"{low:.2f} ms" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} ms"
        return [_of_all(pairs, LATENCY, "round trips are short", span, data)]
    worst, rtt = max(slow.items(), key=lambda item: item[1])
    return [
        Finding(
            check=LATENCY,
            servers=_servers(slow),
            level="warning",
            message=f"a round trip between {' and '.join(worst)} takes {rtt:.1f} ms"
            + (f", and {len(slow) - 1} more pairs are as far apart" if len(slow) > 1 else ""),
            detail=f"the median of all pairs is {usual:.2f} ms",
            do="every step of data parallel training waits for several of them: use servers of one site, or "
            "address: of a direct network",
            data=data,
        )
    ]


def mtu_findings(links: Sequence[Link]) -> list[Finding]:
    """Given tries, return an error where large packets are lost, and a warning where sizes differ."""
    findings = [
        Finding(
            check=MTU,
            servers=(link.source, link.to),
            level="error",
            message=f"{link.source} reaches {link.to} at {link.address}, but what is longer than a packet "
            "does not arrive",
            detail=f"MTU {link.mtu}" if link.mtu else "",
            do="the network between them passes smaller packets than the servers send, and does not say so: "
            "set the interfaces' MTU to what it passes (ip link set dev … mtu 1400, as root)",
        )
        for link in links
        if link.stalled
    ]
    sizes: dict[int, list[Link]] = defaultdict(list)
    for link in links:
        if link.mtu and link.mtu < _LOOPBACK_MTU:
            sizes[link.mtu].append(link)
    if len(sizes) > 1:
        least = min(sizes)
        pairs = [f"{link.source} to {link.to}" for link in sizes[least]]
        findings.append(
            Finding(
                check=MTU,
                servers=_servers((link.source, link.to) for link in sizes[least]),
                level="warning",
                message=f"packet sizes differ between the servers: MTU {', '.join(map(str, sorted(sizes)))}",
                detail=f"{least}: {_some(list(dict.fromkeys(pairs)), 'pairs')}",
                do="give all interfaces of this network one MTU, as the switch passes it",
            )
        )
    elif not findings and sizes:
        data = {"mtu": next(iter(sizes))}
        ends = [(link.source, link.to) for link in links]
        findings.append(_of_all(ends, MTU, "packets are of one size", f"MTU {data['mtu']}", data))
    return findings


def bandwidth_findings(links: Sequence[Link]) -> list[Finding]:
    """Given tries with bandwidths, return a warning for those far below the others', or slow in any case."""
    found = {(link.source, link.to): link.bytes_per_s for link in links if link.bytes_per_s is not None}
    if not found:
        return []
    import statistics  # 3 ms that a launch saves

    usual = statistics.median(found.values())
    slow = {
        pair: rate for pair, rate in found.items() if rate < SLOW_BYTES_PER_S or rate < min(usual, 1e9) / 5
    }
    data = {"bytes_per_s": {" to ".join(pair): round(rate) for pair, rate in found.items()}}
    if not slow:
        low, high = gbits(min(found.values())), gbits(max(found.values()))
        span = low if low == high else f"{low} to {high}"
        return [_of_all(found, BANDWIDTH, "the network is fast enough", f"{span}, in 0.1 s", data)]
    worst, rate = min(slow.items(), key=lambda item: item[1])
    detail = f"the median of all ways is {gbits(usual)}" if len(slow) < len(found) else ""
    return [
        Finding(
            check=BANDWIDTH,
            servers=_servers(slow),
            level="warning",
            message=f"{worst[0]} sends to {worst[1]} at {gbits(rate)} only"
            + (f", and {len(slow) - 1} more ways are slow" if len(slow) > 1 else ""),
            detail=detail,
            do="one slow way slows down every step of all: look at the cable, the switch port and the other "
            "traffic; is address: on the fast network?",
            data=data,
        )
    ]


def gbits(bytes_per_s: float) -> str:
    """Return a bandwidth as networks are named: "9.4 Gbit/s"."""
    bits = bytes_per_s * 8
    return f"{bits / 1e9:.1f} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:.3g} Mbit/s"


def _servers(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for pair in pairs for name in pair))


def _of_all(
    pairs: Iterable[tuple[str, str]], check: str, message: str, detail: str, data: Mapping[str, object]
) -> Finding:
    names = tuple(sorted(_servers(pairs)))
    return Finding(check=check, servers=names, level="ok", message=message, detail=detail, data=data)

