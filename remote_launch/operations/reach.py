"""Try the ways between servers: every one listens, every one connects to all others, at the same time.

Two calls for any number of servers: one for free ports (a launch has asked for them already), one for the
tries. What failed is tried a second time before it is called closed: on busy machines programs start late.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from remote_launch.core.findings import Finding
from remote_launch.core.ways import (
    REACH,
    Link,
    bandwidth_findings,
    blocked,
    blocked_findings,
    latency_findings,
    mtu_findings,
)
from remote_launch.dataclass import dataclass
from remote_launch.operations import told
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.errors import RemoteLaunchError
    from remote_launch.operations.fleet import Fleet

FIRST_S, SECOND_S, SECOND_SHORT_S = 1.5, 5.0, 1.5
EACH_S = 0.1  # more for each server: this computer starts them all, and some may share a machine
MEASURE_S = 10.0
CALL_SLACK_S = 25.0
_SHIFTS = 8  # with more servers each one's bandwidth is measured to so many others
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A port of a server, and where the others are to find it."""

    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """What became of one round. ``errors``: servers that could not be asked to try."""

    links: tuple[Link, ...]
    errors: Mapping[str, RemoteLaunchError] = dataclasses.field(default_factory=dict)
    taken: Mapping[str, str] = dataclasses.field(default_factory=dict)  # "server:port": why not

    @property
    def blocked(self) -> list[Link]:
        return blocked(self.links)


def try_ways(
    fleet: Fleet,
    servers: Sequence[Server],
    doors: Mapping[str, Sequence[Door]],
    *,
    mode: str = "reach",
    limit_s: float = FIRST_S,
    only: Collection[Pair] | None = None,
    in_turn: bool = False,
) -> Tries:
    """Have every server listen on its doors' ports and connect to all others' doors (``only``: these pairs).
    A try that says nothing of the way (its port was taken, a server could not be asked) is left out."""
    requests = round_requests([server.name for server in servers], doors, mode, limit_s, only, in_turn)

    def ask(server: Server) -> dict[str, Any]:
        return call(fleet, server, "reach", requests[server.name], timeout_s=limit_s + CALL_SLACK_S)

    outcomes = fleet.map([s for s in servers if s.name in requests], ask, limit=len(servers) or 1)
    return read_round(outcomes.values, outcomes.errors)


def round_requests(
    names: Sequence[str],
    doors: Mapping[str, Sequence[Door]],
    mode: str = "reach",
    limit_s: float = FIRST_S,
    only: Collection[Pair] | None = None,
    in_turn: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return what each server that takes part in a round is asked; see ``try_ways``."""
    token = os.urandom(32).hex()
    pairs = [
        (names[place], names[(place + shift) % len(names)])
        for shift in range(1, len(names))
        for place in range(len(names))
    ]
    pairs = [pair for pair in pairs if only is None or pair in only]

    def request(name: str) -> dict[str, Any]:
        mine = [door.port for door in doors[name]] if any(to == name for _, to in pairs) else []
        return {
            "token": token,
            "listen": mine,
            "expect": [[source, port] for source, to in pairs if to == name for port in mine],
            "connect": [
                {"server": to, "address": door.address, "port": door.port, "mode": mode}
                for source, to in pairs
                if source == name
                for door in doors[to]
            ],
            "in_turn": in_turn,
            "limit_s": limit_s,
        }

    taking_part = {name for pair in pairs for name in pair}
    return {name: request(name) for name in names if name in taking_part}


def read_round(
    answers: Mapping[str, Mapping[str, Any]], errors: Mapping[str, RemoteLaunchError] | None = None
) -> Tries:
    """Given the servers' answers in a round, return what became of it."""
    errors = errors or {}
    taken = {
        f"{name}:{port}": str(why)[:200]
        for name, answer in answers.items()
        for port, why in told.mapping(answer.get("taken")).items()
    }
    links = [
        link
        for name, answer in answers.items()
        for link in _links(name, answer)
        if link.to not in errors and f"{link.to}:{link.port}" not in taken
    ]
    return Tries(links=tuple(links), errors=errors, taken=taken)


def try_twice(
    fleet: Fleet, servers: Sequence[Server], doors: Mapping[str, Sequence[Door]], *, mode: str = "reach"
) -> Tries:
    """As ``try_ways``, and what failed once more, with more time."""
    more_s = EACH_S * len(servers)
    first = try_ways(fleet, servers, doors, mode=mode, limit_s=FIRST_S + more_s)
    failed = first.blocked
    if not failed:
        return first
    pairs = {(link.source, link.to) for link in failed}
    may_be_late = any(_may_be_late(link, first.links) for link in failed)
    limit_s = SECOND_S + 2 * more_s if may_be_late else SECOND_SHORT_S
    second = try_ways(fleet, servers, doors, mode=mode, limit_s=limit_s, only=pairs)
    kept = [link for link in first.links if (link.source, link.to) not in pairs]
    return Tries(
        links=(*kept, *second.links),
        errors={**first.errors, **second.errors},
        taken={**first.taken, **second.taken},
    )


def _may_be_late(link: Link, links: Sequence[Link]) -> bool:
    """True where a program that started late, or a busy machine, may have looked like a closed way."""
    if link.outcome != "refused":
        return link.outcome in ("silent", "other")  # the rest is the network's word
    # Who has reached us was listening before, while we tried.
    return not any((other.source, other.to) == (link.to, link.source) and other.reached for other in links)


def _links(source: str, answer: Mapping[str, Any]) -> list[Link]:
    found = []
    for item in told.mappings(answer.get("links")):
        to, address, outcome = (told.text(item.get(key)) for key in ("to", "address", "outcome"))
        port = told.port(item.get("port"))
        if to is None or address is None or outcome is None or port is None:
            continue
        found.append(
            Link(
                source=source,
                to=to,
                address=address,
                port=port,
                outcome=outcome,
                said=(told.text(item.get("said")) or "")[:200],
                rtt_ms=_measure(item.get("rtt_ms")),
                mtu=told.number(item.get("mtu")),
                bytes_per_s=_measure(item.get("bytes_per_s")),
                stalled=item.get("stalled") is True,
            )
        )
    return found


def _measure(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
    return float(value) if number else None  # type: ignore[arg-type]


def check_pairs(fleet: Fleet, servers: Sequence[Server], addresses: Mapping[str, str]) -> list[Finding]:
    """Given servers and each one's address for the others, return what is found between them: who can't reach
    whom, distances, packet sizes, bandwidths. Raises nothing for a server that can't be asked."""
    if len(servers) < 2:
        return []
    asked = fleet.map(servers, lambda server: call(fleet, server, "reach", {"ask_ports": True}, timeout_s=30))
    findings = [_not_tried(name, error) for name, error in asked.errors.items()]
    doors: dict[str, list[Door]] = {}
    for name, answer in asked.values.items():
        ports = answer.get("ports")
        numbers = [told.port(port) for port in ports] if isinstance(ports, list) else []
        doors[name] = [Door(address=addresses[name], port=port) for port in numbers if port]
    able = [server for server in servers if doors.get(server.name)]
    tries = try_twice(fleet, able, doors, mode="ping")
    findings += [_not_tried(name, error) for name, error in tries.errors.items()]
    closed = {(link.source, link.to) for link in tries.blocked}
    opened = {(link.source, link.to) for link in tries.links} - closed
    findings += blocked_findings(tries.links) or _all_open(able, opened)
    findings += latency_findings(tries.links)
    measured = _measure_bandwidth(fleet, able, doors, opened)
    return [*findings, *mtu_findings([*tries.links, *measured]), *bandwidth_findings(measured)]


def _measure_bandwidth(
    fleet: Fleet, servers: Sequence[Server], doors: Mapping[str, Sequence[Door]], opened: set[Pair]
) -> list[Link]:
    """Each server sends to the next, all at the same time, then to the one after it … What did not arrive is
    sent once more: a server may have stood still just then."""
    names = [server.name for server in servers]
    near = {
        (names[place], names[(place + shift) % len(names)])
        for shift in range(1, min(len(names), _SHIFTS + 1))
        for place in range(len(names))
    }
    one_door = {name: doors[name][:1] for name in names}
    pairs = near & opened
    if not pairs:
        return []
    links: list[Link] = []
    for _ in range(2):
        tries = try_ways(
            fleet, servers, one_door, mode="bulk", limit_s=MEASURE_S, only=pairs, in_turn=True
        )
        links = [link for link in links if (link.source, link.to) not in pairs] + [*tries.links]
        pairs = {(link.source, link.to) for link in links if link.stalled or not link.reached}
        if not pairs:
            break
    return [link for link in links if link.reached]


def _all_open(servers: Sequence[Server], opened: Collection[Pair]) -> list[Finding]:
    if not opened:
        return []
    names = tuple(server.name for server in servers)
    pairs = f"{len(opened)} ways tried"
    message = "each server reaches each other"
    return [Finding(check=REACH, servers=names, level="ok", message=message, detail=pairs)]


def _not_tried(name: str, error: RemoteLaunchError) -> Finding:
    return Finding(
        check=REACH,
        servers=(name,),
        level="warning",
        message=f"the ways to and from it could not be tried: {error.message.removeprefix(f'{name}: ')}",
        do=error.hint,
    )

