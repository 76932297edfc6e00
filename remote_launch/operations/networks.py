"""What a server tells of its networks, checked: names and addresses of it go into other servers' command
lines."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import TYPE_CHECKING, Any

from remote_launch.core.dataplane import rank_planes
from remote_launch.core.networks import Interface, RdmaPort, Route, ServerNetwork, usable
from remote_launch.operations.told import mapping, mappings, number, text, texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from remote_launch.core.dataplane import DataPlane
    from remote_launch.core.inventory import Server
    from remote_launch.core.networks import IPInterface
    from remote_launch.core.topology import NodeFacts

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,14}\Z")  # Linux allows more, nobody uses it
_PLAIN = re.compile(r"[0-9A-Fa-f:.]{2,45}\Z")  # without a zone, which may hold anything
_WORDS = re.compile(r"[A-Za-z0-9_.()/ -]{1,60}\Z")
IFNAMES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def choose_addresses(
    servers: Sequence[Server],
    facts: Sequence[NodeFacts],
    answers: Mapping[str, Mapping[str, Any]],
    env: Mapping[str, Mapping[str, str]],
) -> tuple[list[NodeFacts], DataPlane]:
    """Given the servers of a launch and what ``preflight`` told of each, return the facts with the address
    and interface that were chosen, and the choice. ``env`` is what the user set, by server. Raises
    TopologyError."""
    plane = rank_addresses(servers, facts, answers, env)[0]
    return with_addresses(facts, plane), plane


def rank_addresses(
    servers: Sequence[Server],
    facts: Sequence[NodeFacts],
    answers: Mapping[str, Mapping[str, Any]],
    env: Mapping[str, Mapping[str, str]],
) -> list[DataPlane]:
    """As ``choose_addresses``: return every choice that there is, the best first."""
    return rank_planes(
        [
            server_network(server, fact, answers[server.name], env[server.name])
            for server, fact in zip(servers, facts, strict=True)
        ]
    )


def with_addresses(facts: Sequence[NodeFacts], plane: DataPlane) -> list[NodeFacts]:
    """Return the facts with the address and interface that were chosen for each server."""
    return [
        dataclasses.replace(fact, address=choice.address, interface=choice.interface)
        for fact, choice in zip(facts, plane.choices, strict=True)
    ]


def server_network(
    server: Server, facts: NodeFacts, answer: Mapping[str, Any], env: Mapping[str, str]
) -> ServerNetwork:
    """Given a server's checked facts, its answer to ``preflight`` and what the user set of its environment,
    return what the choice of its address rests on."""
    told = mapping(answer.get("network"))
    wanted = next((env[name] for name in IFNAMES if env.get(name)), None)
    return ServerNetwork(
        server=server.name,
        reached=_plain(told.get("reached")) or facts.address,
        reached_interface=facts.interface,
        interfaces=tuple(_interfaces(told.get("interfaces"))),
        routes=tuple(_routes(told.get("routes"))),
        rdma=tuple(_rdma(told.get("rdma"))),
        stack=text(told.get("stack")),
        local=server.target.transport == "local",
        pinned=server.address,
        wanted=wanted,
        wanted_by=tuple(name for name in IFNAMES if wanted and env.get(name) == wanted),
    )


def _interfaces(told: object) -> Iterator[Interface]:
    for item in mappings(told):
        if not (name := _name(item.get("name"))):
            continue
        found = [
            (address, one.get("temporary") is True)
            for one in mappings(item.get("addresses"))
            if (address := _address(one)) is not None
        ]
        yield Interface(
            name=name,
            kind=_name(item.get("kind")) or "ethernet",
            up=item.get("up") is not False and item.get("carrier") is not False,
            speed_mbps=_positive(item.get("speed_mbps")),
            mtu=_positive(item.get("mtu")),
            default_route=item.get("default_route") is True,
            over=tuple(filter(None, map(_name, texts(item.get("over"))))),
            addresses=tuple(address for address, _temporary in found),
            temporary=tuple(address.ip for address, temporary in found if temporary),
        )


def _routes(told: object) -> Iterator[Route]:
    for item in mappings(told):
        name = _name(item.get("interface"))
        try:
            words = (text(item.get("destination")) or "").partition("/")
            destination = ipaddress.ip_network(f"{_plain(words[0])}/{words[2]}", strict=False)
        except ValueError:
            continue
        if name and destination.prefixlen:
            yield Route(destination=destination, interface=name)


def _rdma(told: object) -> Iterator[RdmaPort]:
    for item in mappings(told):
        if device := _name(item.get("device")):
            layer, rate = (_words(item.get(name)) for name in ("link_layer", "rate"))
            yield RdmaPort(device=device, active=item.get("active") is True, link_layer=layer, rate=rate)


def _address(told: Mapping[str, Any]) -> IPInterface | None:
    try:
        return ipaddress.ip_interface(f"{_plain(told.get('address'))}/{number(told.get('prefix'))}")
    except ValueError:
        return None


def _plain(value: object) -> str | None:
    return value if isinstance(value, str) and _PLAIN.match(value) and usable(value) else None


def _positive(value: object) -> int | None:
    found = number(value)
    return found if found and 0 < found < 1 << 31 else None


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and _NAME.match(value) else None


def _words(value: object) -> str:
    return value if isinstance(value, str) and _WORDS.match(value) else ""
