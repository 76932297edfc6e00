"""Examine the servers: what will not work, how bad it is, what to do. Each is asked for its facts in one
round trip; what they mean is judged here."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.places import environment_python
from remote_launch.core.findings import Finding, worst
from remote_launch.errors import (
    CommandTimeoutError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    MissingProgramError,
    RemoteLaunchError,
    WorkspaceError,
)
from remote_launch.operations.checks import Examined, chosen_checks
from remote_launch.operations.environments import environment_state, question
from remote_launch.operations.equal_checks import judge_equal
from remote_launch.operations.machine_checks import judge_machine
from remote_launch.operations.network_checks import examine_network
from remote_launch.operations.prepare import plan_prepare
from remote_launch.operations.room_checks import judge_room
from remote_launch.operations.software_checks import judge_software
from remote_launch.operations.told import mapping
from remote_launch.operations.verbs import call
from remote_launch.transport.command import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from remote_launch.core.environments.steps import Recipe
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet
    from remote_launch.transport.base import Transport

_TRIP_TIMEOUT_S, _TIMEOUT_S, _DEEP_TIMEOUT_S = 10.0, 60.0, 150.0


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
    recipes, findings = _recipes(fleet, servers)
    deep = request.deep or "import" in request.checks
    ask = functools.partial(_examine_server, fleet, recipes, deep=deep)
    outcomes = fleet.map(servers, ask)
    findings += [_unreachable(name, error) for name, error in outcomes.errors.items()]
    answers = [found for found in outcomes.values.values() if isinstance(found, Examined)]
    findings += [found for found in outcomes.values.values() if isinstance(found, Finding)]
    for found in answers:
        findings += [*judge_machine(found), *judge_room(found), *judge_software(found)]
    unlike = list(judge_equal(answers))
    findings += unlike
    if request.network:
        is_alike = worst(unlike) != "error"
        findings += examine_network(
            fleet, answers, wanted, tell, allreduce=request.allreduce, is_alike=is_alike
        )
    return Diagnosis(
        servers=tuple(server.name for server in servers),
        findings=tuple(finding for finding in findings if finding.check in wanted),
        unreachable=outcomes.errors,
        duration_s=time.monotonic() - began,
    )


def _recipes(fleet: Fleet, servers: Sequence[Server]) -> tuple[Mapping[str, Recipe], list[Finding]]:
    """Return how each environment is to be; where the project's files don't say that, a finding."""
    try:
        return plan_prepare(fleet, servers).recipes, []
    except RemoteLaunchError as error:
        names = tuple(server.name for server in servers)
        finding = Finding(
            check="environment", servers=names, level="error", message=error.message, do=error.hint
        )
        return {}, [finding]


def _examine_server(
    fleet: Fleet, recipes: Mapping[str, Recipe], server: Server, *, deep: bool
) -> Examined | Finding:
    """Ask one server; a finding where it can be reached but can't answer. Raises TransportError where it
    can't be reached."""
    transport = fleet.transport(server.name)
    began = time.monotonic()
    transport.connect()
    connected = time.monotonic()
    noise = _noise(transport, server.name)
    trip_s = time.monotonic() - connected
    recipe = recipes.get(server.name)
    request = {"python": environment_python(server), **(question(recipe) if recipe else {}), "deep": deep}
    request["address"] = server.address
    if deep:
        request["env"] = dict(server.env)
    asked_at = time.time()
    try:
        answer = call(fleet, server, "checkup", request, timeout_s=_DEEP_TIMEOUT_S if deep else _TIMEOUT_S)
    except (ConnectError, ConnectionLostError):
        raise
    except RemoteLaunchError as error:
        return _no_answer(server.name, error)
    told = mapping(answer.get("environment"))
    return Examined(
        server=server,
        facts=answer,
        connect_s=connected - began,
        trip_s=trip_s,
        noise=noise,
        asked_at=asked_at,
        answered_at=time.time(),
        environment=environment_state(told) if recipe and told else None,
    )


def _noise(transport: Transport, name: str) -> str:
    """Run nothing there; return what the login shell prints all the same. Raises ConnectTimeoutError where no
    answer comes."""
    try:
        return transport.run(Command(["true"]), timeout_s=_TRIP_TIMEOUT_S).text
    except CommandTimeoutError:
        raise ConnectTimeoutError(
            name,
            f"it is connected, but a command that does nothing did not end within {_TRIP_TIMEOUT_S:.0f} s",
            hint="is it frozen or overloaded, does a disk of it hang, or its network?",
        ) from None


def _unreachable(name: str, error: RemoteLaunchError) -> Finding:
    """Return the finding for a server that could not be reached."""
    message = error.message.removeprefix(f"{name}: ")
    return Finding(check="ssh", servers=(name,), level="error", message=message, do=error.hint)


def _no_answer(name: str, error: RemoteLaunchError) -> Finding:
    """Return the finding for a server that was reached and whose programs could not answer."""
    message = error.message.removeprefix(f"{name}: ")
    check = "system"
    if isinstance(error, WorkspaceError):
        check = "workdir"
    elif isinstance(error, MissingProgramError):
        check = "python"
    return Finding(check=check, servers=(name,), level="error", message=message, do=error.hint)
