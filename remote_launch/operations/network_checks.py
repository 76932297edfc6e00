"""What is between the servers: each one's address for the others, then tries of the ways between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.findings import Finding
from remote_launch.errors import RemoteLaunchError
from remote_launch.operations.allreduce import CHECK, check_allreduce
from remote_launch.operations.networks import choose_addresses
from remote_launch.operations.preflight import node_facts
from remote_launch.operations.reach import check_pairs
from remote_launch.operations.software_checks import versions_of
from remote_launch.operations.told import mapping, mappings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from remote_launch.core.dataplane import Choice, DataPlane
    from remote_launch.operations.checks import Examined
    from remote_launch.operations.fleet import Fleet

PAIRS = frozenset({"reach", "latency", "mtu", "bandwidth"})


def examine_network(
    fleet: Fleet,
    answers: Sequence[Examined],
    wanted: Collection[str],
    tell: Callable[[str], None],
    *,
    allreduce: bool,
    is_alike: bool = True,
) -> list[Finding]:
    """Given the servers that answered, and the checks wanted, return what is found between them. Servers that
    are not alike (another torch) may hang in an all-reduce until its time is up: there it is left out."""
    if not answers:
        return []
    names = tuple(found.server.name for found in answers)
    try:
        plane = _plane(answers)
    except RemoteLaunchError as error:
        return [
            Finding(check="network", servers=names, level="error", message=error.message, do=error.hint)
        ]
    findings = _choices(plane, names) if len(answers) > 1 else []
    addresses = {choice.server: choice.address for choice in plane.choices}
    is_one_machine = all(found.server.target.transport == "local" for found in answers)
    if PAIRS & set(wanted) and len(answers) > 1 and not is_one_machine:
        count = len(answers) * (len(answers) - 1) // 2
        tell(f"trying the ways between {count} pair{'' if count == 1 else 's'} of servers")
        findings += check_pairs(fleet, [found.server for found in answers], addresses)
    if allreduce and CHECK in wanted:
        is_open = not any(found.level == "error" for found in findings)
        findings += why_no_allreduce(answers, is_open=is_open, is_alike=is_alike) or _allreduce(
            fleet, answers, plane, tell
        )
    return findings


def why_no_allreduce(answers: Sequence[Examined], *, is_open: bool, is_alike: bool) -> list[Finding]:
    """Return a note where an all-reduce can't succeed: what is in its way is told of elsewhere."""
    lacking = [found.server.name for found in answers if not versions_of(found)["torch"]]
    if lacking:
        why = "there is no torch"
    elif not is_alike:
        why = "what must be equal differs"
    elif not is_open:
        why = "not all ways between the servers are open"
    else:
        return []
    names = tuple(lacking or [found.server.name for found in answers])
    return [Finding(check=CHECK, servers=names, level="note", message=f"was not tried: {why}")]


def _backends(answers: Sequence[Examined]) -> list[str]:
    """Return gloo, and NCCL where every server has cards that its torch may use."""

    def uses_cards(found: Examined) -> bool:
        built = mapping(found.facts.get("torch"))
        is_for_cpu = bool(built) and not (versions_of(found)["cuda"] or built.get("hip"))
        return bool(mappings(mapping(found.facts.get("gpus")).get("cards"))) and not is_for_cpu

    return ["gloo", "nccl"] if all(uses_cards(found) for found in answers) else ["gloo"]


def _allreduce(
    fleet: Fleet, answers: Sequence[Examined], plane: DataPlane, tell: Callable[[str], None]
) -> list[Finding]:
    """Add up over each backend."""
    findings = []
    for backend in _backends(answers):
        tell(f"adding up over all servers by {backend} (importing torch takes seconds)")
        findings += check_allreduce(
            fleet,
            [found.server for found in answers],
            {choice.server: choice.address for choice in plane.choices},
            {choice.server: choice.interface for choice in plane.choices},
            backend=backend,
        )
    return findings


def _plane(answers: Sequence[Examined]) -> DataPlane:
    told = {found.server.name: mapping(found.facts.get("plane")) for found in answers}
    servers = [found.server for found in answers]
    facts = [node_facts(server, told[server.name]) for server in servers]
    env = {server.name: dict(server.env) for server in servers}
    return choose_addresses(servers, facts, told, env)[1]


def _choices(plane: DataPlane, names: tuple[str, ...]) -> list[Finding]:
    found = [_choice(choice, plane.network) for choice in plane.choices]
    chosen = {f"{choice.server}: {choice.reason}" for choice in plane.choices}
    found += [
        Finding(check="network", servers=names, level="note", message=note)
        for note in plane.notes
        if note not in chosen
    ]
    do = "address: in a server's entry of the inventory sets it"
    return [
        *found,
        *(
            Finding(check="network", servers=names, level="warning", message=text, do=do)
            for text in plane.warnings
        ),
    ]


def _choice(choice: Choice, network: str | None) -> Finding:
    where, _, why = choice.reason.partition(": ")
    message = f"addresses for the others: on {network}" if network else f"addresses for the others: {why}"
    data = choice.to_dict()
    return Finding(
        check="network", servers=(choice.server,), level="ok", message=message, detail=where, data=data
    )
