"""Remove the outputs that the inventory names from the servers of a launch: all begin afresh."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from remote_launch.errors import UsageError, WorkspaceError
from remote_launch.operations.looking import look
from remote_launch.operations.outputs import output_globs
from remote_launch.operations.told import mappings, number, text
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.globs import PathGlob
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

_REMOVAL_S = 600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much of the outputs a server has, or had."""

    server: str
    files: int
    size_bytes: int


def measure_outputs(fleet: Fleet, servers: Sequence[Server]) -> Outcomes[Amount]:
    """Say how much there is on each server. An error where a job runs: nothing may go there."""
    globs = _globs_to_remove(fleet)

    def ask(server: Server) -> Amount:
        seen = look(fleet, server, globs)
        if seen.running:
            raise WorkspaceError(
                server.name, "a job still runs there: no outputs were removed", hint="rl job-list --rsync"
            )
        return Amount(
            server=server.name,
            files=sum(found.count for found in seen.found),
            size_bytes=sum(found.size_bytes for found in seen.found),
        )

    return fleet.map(servers, ask)


def remove_outputs(fleet: Fleet, servers: Sequence[Server]) -> Outcomes[Amount]:
    """Remove the outputs on these servers; links are not followed. An error where something of them stays."""
    globs = [glob.to_wire() for glob in _globs_to_remove(fleet)]

    def clear(server: Server) -> Amount:
        ours = {"project_id": fleet.project.project_id, "project": fleet.inventory.name}
        answer = call(
            fleet, server, "outputs", {"op": "remove", "globs": globs, **ours}, timeout_s=_REMOVAL_S
        )
        found = mappings(answer.get("found"))
        files = sum(number(one.get("files")) or 0 for one in found)
        fleet.log(server.name, "clean outputs", files=files)
        kept = [item for one in found for item in mappings(one.get("kept"))]
        if kept:
            raise WorkspaceError(
                server.name,
                f"{text(kept[0].get('name'))} of outputs: was left: {text(kept[0].get('why'))}",
                hint="remove it there yourself: rl ssh",
            )
        sizes = sum(number(one.get("size_bytes")) or 0 for one in found)
        return Amount(server=server.name, files=files, size_bytes=sizes)

    return fleet.map(servers, clear)


def _globs_to_remove(fleet: Fleet) -> list[PathGlob]:
    globs = output_globs(fleet)
    if not globs:
        raise UsageError("--clean-outputs: the inventory names no outputs:", hint="outputs: [checkpoints/]")
    return globs
