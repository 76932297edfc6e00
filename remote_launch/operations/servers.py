"""What each server is and has: one round trip a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remote_launch.operations.told import mapping, texts
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

# The server asks its programs one after the other: a driver's, logind's and rsync may each hang for a while.
_TIMEOUT_S = 60.0


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


def check(fleet: Fleet, servers: Sequence[Server], *, brief: bool = False) -> Outcomes[dict[str, Any]]:
    """Ask every server for its facts: python, cores, memory, disk, GPUs, rsync (not when ``brief``). Raises
    nothing; an unreachable one is an outcome."""

    def ask(server: Server) -> dict[str, Any]:
        facts = call(
            fleet,
            server,
            "probe",
            {"job_ids": [], "discover": False, "facts": "brief" if brief else True, "specs": False},
            timeout_s=_TIMEOUT_S,
        )["facts"]
        return dict(facts)

    return fleet.map(servers, ask)


def logout_warning(name: str, facts: Mapping[str, Any]) -> str | None:
    """Given a server's facts (untrusted), return a warning where its jobs end when the user logs out, with
    what to do."""
    logind = mapping(facts.get("logind"))
    if logind.get("kill_user_processes") is not True:
        return None
    ends = f"{name}: jobs there end when rl's connection does (KillUserProcesses=yes in its logind.conf)"
    if logind.get("scopes") is not True:
        return f"{ends}, and there is no systemd-run to prevent it: ask for KillUserProcesses=no"
    if logind.get("linger") is not True:
        return f"{ends}; rl can prevent it after: rl run --server {name} -- loginctl enable-linger"
    return None


def card_warnings(name: str, facts: Mapping[str, Any]) -> list[str]:
    """Given a server's facts (untrusted), return what is wrong with its cards' driver."""
    return [f"{name}: {problem}" for problem in texts(facts.get("gpu_problems"))]


def disconnect(fleet: Fleet, servers: Sequence[Server]) -> Outcomes[bool]:
    """End the kept connections (ssh masters) to the servers."""

    def end(server: Server) -> bool:
        fleet.transport(server.name).disconnect()
        return True

    return fleet.map(servers, end)
