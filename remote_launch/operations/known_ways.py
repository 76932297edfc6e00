"""The ways of a launch, tried in the same exchange that asks its servers for facts: at the addresses that the
last launch had. It saves a round trip, and the start of a program on every server.

What was tried counts where it turns out to be just what the launch needs, and all of it is open. Else the
ways are tried afterwards, as in a first launch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from remote_launch.dataclass import dataclass
from remote_launch.errors import RegistryError
from remote_launch.operations import told
from remote_launch.operations.preflight import PORTS_ASKED
from remote_launch.operations.reach import EACH_S, Door, read_round, round_requests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.reach import Tries

_PATIENCE_S = 0.5  # what isn't through by then, or whose port was taken, is tried apart
_MEETING_PORTS = range(20000, 31999)  # the first of two that follow; as remote/preflight.py takes them
_PROBE_PORTS = range(32768, 61000)  # Linux's own choices


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownWays:
    """The doors that are tried at once, and what each server is asked for that. Empty: none are known."""

    doors: Mapping[str, Sequence[Door]]
    requests: Mapping[str, Mapping[str, Any]]

    def tried(
        self, doors: Mapping[str, Sequence[Door]], answers: Mapping[str, Mapping[str, Any]]
    ) -> Tries | None:
        """Given the doors of a launch, and its servers' answers, return what came of the tries; None where
        other doors were tried, or not all are open."""
        if not self.doors or dict(self.doors) != dict(doors):
            return None
        tries = read_round({name: told.mapping(answer.get("ways")) for name, answer in answers.items()})
        wanted = sum(len(request["connect"]) for request in self.requests.values())
        return tries if len(tries.links) == wanted and not tries.blocked and not tries.taken else None


NO_WAYS = KnownWays(doors={}, requests={})


def known_ways(fleet: Fleet, servers: Sequence[Server]) -> KnownWays:
    """Given the servers of a launch, rank 0's first, return what to try: nothing where the last launch was on
    others, or all of them are this machine."""
    names = [server.name for server in servers]
    if len(names) < 2 or all(server.target.transport == "local" for server in servers):
        return NO_WAYS
    try:
        last = fleet.registry.last_launch() if fleet.project.registry.exists() else []
    except RegistryError:  # said where the launch is recorded
        return NO_WAYS
    found = {job.server: told.text(told.mapping(job.choices.get("network")).get("address")) for job in last}
    addresses = {name: address for name in names if (address := found.get(name))}
    if len(addresses) < len(names):
        return NO_WAYS
    doors = {name: [Door(address=addresses[name], port=_any_of(_PROBE_PORTS))] for name in names}
    meeting = _any_of(_MEETING_PORTS)
    doors[names[0]] += [Door(address=addresses[names[0]], port=meeting + more) for more in range(PORTS_ASKED)]
    limit_s = _PATIENCE_S + EACH_S * len(names)
    return KnownWays(doors=doors, requests=round_requests(names, doors, limit_s=limit_s))


def _any_of(ports: range) -> int:
    return ports[int.from_bytes(os.urandom(4), "big") % len(ports)]  # (random takes 2 ms to import)
