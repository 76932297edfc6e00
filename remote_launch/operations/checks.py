"""The checks of ``rl doctor``: their names, in the order in which they are shown."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from remote_launch.core.findings import Check, Finding, Level
from remote_launch.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from remote_launch.core.inventory import Server

_LINES = """
Connection | ssh | the login, and how long it and a command take
Connection | login-shell | start-up files that print on stdout: they break rsync
Connection | clock | its clock against this computer's
Machine | system | the system, its kernel, the cores
Machine | memory | what is free, and the cgroup's limit
Machine | shm | room in /dev/shm, which DataLoader workers and NCCL need
Machine | disk | space and inodes of the workdir and the temporary folder
Machine | limits | open files, processes, locked memory, core files (ulimit)
Machine | logout | whether jobs live on after it (KillUserProcesses)
Machine | hostname | what its own name leads to
Machine | proxy | proxies that logins have set
Machine | leftovers | processes of rl's jobs that have ended
Software | workdir | whether it can be written
Software | rsync | there, and how old
Software | environment | prepared, and as the project asks for
Software | python | its version
Software | torch | its version, what it is built for, NCCL's version
Software | import | torch imported for real (with --deep alone)
Software | driver | NVIDIA's driver: can it run torch's CUDA?
Software | gpus | the cards: their health, who uses them
All together | equal | versions, architectures and cards, equal on all; homes that are shared
Network | network | each one's address for the others, and why that
Network | reach | whether each reaches each other, on ports of any number
Network | latency | how long a small message takes there and back
Network | mtu | packets of full size: do they come through?
Network | bandwidth | how fast bytes go, in a short try
Network | allreduce | a real all-reduce of torch over all of them
"""
CHECKS = tuple(
    Check(group=group, id=name, what=what)
    for group, name, what in (line.split(" | ") for line in _LINES.strip().splitlines())
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What is known of one server: its answer (untrusted), and how that came."""

    server: Server
    facts: Mapping[str, Any]
    connect_s: float
    trip_s: float  # a command there and back
    noise: str  # what the login shell printed on stdout
    asked_at: float  # on this computer's clock
    answered_at: float
    environment: str | None = None  # its state, as EnvironmentReport has it

    def finding(
        self,
        check: str,
        level: Level,
        message: str,
        *,
        detail: str = "",
        do: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Finding:
        """Return a finding about this server alone."""
        return Finding(
            check=check,
            servers=(self.server.name,),
            level=level,
            message=message,
            do=do,
            detail=detail,
            data=data or {},
        )


def chosen_checks(only: Iterable[str]) -> frozenset[str]:
    """Given the names of checks (none: all), return them. Raises UsageError for one that there isn't."""
    known = [check.id for check in CHECKS]
    names = frozenset(only)
    for name in sorted(names - set(known)):
        raise UsageError(
            f"no check {name!r}{did_you_mean(name, known)}", hint=f"rl doctor --list: {', '.join(known)}"
        )
    return names or frozenset(known)
