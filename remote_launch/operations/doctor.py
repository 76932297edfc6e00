"""Examine the servers: what will not work, how bad it is, what to do. Each is asked for its facts in one
round trip; what they mean is judged here."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from remote_launch.core.findings import Finding, worst
from remote_launch.errors import RemoteLaunchError, TransportError
from remote_launch.operations.checks import Examined, chosen_checks
from remote_launch.transport.command import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet

_TRIP_TIMEOUT_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DoctorRequest:
    """What to examine. ``checks``: only these, none means all."""

    checks: Sequence[str] = ()
    network: bool = True  # each pair of servers
    allreduce: bool = True  # a real one over all of them
    deep: bool = False  # import torch on each server: seconds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found. ``unreachable`` are servers that could not be asked at all."""

    servers: tuple[str, ...]
    findings: tuple[Finding, ...]
    unreachable: Mapping[str, RemoteLaunchError]
    duration_s: float

    @property
    def exit_code(self) -> int:
        """0 all will work, 1 something won't, 3 some servers could not be reached, others could."""
        if self.unreachable:
            return 3 if len(self.unreachable) < len(self.servers) else 1
        return 1 if worst(self.findings) == "error" else 0

    @property
    def status(self) -> str:
        """The word of the ``--json`` envelope."""
        return {0: "ok", 3: "partial", 1: "error"}[self.exit_code]

    def to_dict(self) -> dict[str, Any]:
        levels = [finding.level for finding in self.findings]
        return {
            "servers": list(self.servers),
            "unreachable": list(self.unreachable),
            "worst": worst(self.findings),
            "counts": {level: levels.count(level) for level in dict.fromkeys(levels)},
            "findings": [finding.to_dict() for finding in self.findings],
            "duration_s": round(self.duration_s, 3),
        }


def examine(
    fleet: Fleet, servers: Sequence[Server], request: DoctorRequest, tell: Callable[[str], None]
) -> Diagnosis:
    """Examine the servers, all at once; ``tell`` is called with what is being done. Raises UsageError for a
    check that there isn't; a server that can't be reached is a finding."""
    began = time.monotonic()
    wanted = chosen_checks(request.checks)
    tell(f"asking {len(servers)} server{'' if len(servers) == 1 else 's'}")
    outcomes = fleet.map(servers, lambda server: _examine_server(fleet, server))
    findings = [_unreachable(name, error) for name, error in outcomes.errors.items()]
    for found in outcomes.values.values():
        findings += _judge(found)
    return Diagnosis(
        servers=tuple(server.name for server in servers),
        findings=tuple(finding for finding in findings if finding.check in wanted),
        unreachable=outcomes.errors,
        duration_s=time.monotonic() - began,
    )


def _examine_server(fleet: Fleet, server: Server) -> Examined:
    transport = fleet.transport(server.name)
    began = time.monotonic()
    transport.connect()
    connected = time.monotonic()
    done = transport.run(Command(["true"]), timeout_s=_TRIP_TIMEOUT_S)
    trip_s = time.monotonic() - connected
    return Examined(
        server=server,
        facts={},
        connect_s=connected - began,
        trip_s=trip_s,
        noise=done.text,
        asked_at=0.0,
        answered_at=0.0,
    )


def _judge(found: Examined) -> list[Finding]:
    took = f"{found.connect_s:.2f} s, a round trip {found.trip_s * 1000:.0f} ms"
    return [found.finding("ssh", "ok", "connected", detail=took)]


def _unreachable(name: str, error: RemoteLaunchError) -> Finding:
    """Return the finding for a server that could not be asked."""
    message = error.message.removeprefix(f"{name}: ")
    check = "ssh" if isinstance(error, TransportError) else "login-shell"
    return Finding(check=check, servers=(name,), level="error", message=message, do=error.hint)
