"""What each server is and has: one round trip a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet


def describe(servers: Sequence[Server]) -> list[dict[str, Any]]:
    """Return what the inventory says of the servers; asks no server anything."""
    return [
        {
            "name": server.name,
            "hostname": server.hostname,
            "username": server.username,
            "port": server.port,
            "transport": server.target.transport,
            "address": server.address,
            "workdir": server.workdir,
            "nproc_per_node": server.nproc_per_node,
            "env": sorted(server.env),
        }
        for server in servers
    ]


def check(fleet: Fleet, servers: Sequence[Server]) -> Outcomes[dict[str, Any]]:
    """Ask every server for its facts: python, cores, memory, disk, GPUs, rsync. Raises nothing; an
    unreachable one is an outcome."""

    def ask(server: Server) -> dict[str, Any]:
        facts = call(
            fleet,
            server,
            "probe",
            {"job_ids": [], "discover": False, "facts": True, "specs": False},
            timeout_s=30,
        )["facts"]
        return dict(facts)

    return fleet.map(servers, ask)


def disconnect(fleet: Fleet, servers: Sequence[Server]) -> Outcomes[bool]:
    """End the kept connections (ssh masters) to the servers."""

    def end(server: Server) -> bool:
        fleet.transport(server.name).disconnect()
        return True

    return fleet.map(servers, end)
