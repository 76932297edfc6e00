"""Packages for a server without internet: chosen here for its Python and platform, downloaded and sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remote_launch.core.environments.indexes import with_indexes
from remote_launch.core.environments.platforms import read_platform
from remote_launch.core.environments.wheels import wheel_folder, wheelhouse_inputs
from remote_launch.operations.told import mapping
from remote_launch.operations.wheelhouse import STEP, build_wheelhouse, exported_lock
from remote_launch.transport.rsync import rsync_push

if TYPE_CHECKING:
    from remote_launch.core.environments.sources import Source
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.progress import Tell


def send_wheels(
    fleet: Fleet, server: Server, source: Source, answer: dict[str, Any], tell: Tell, *, refresh: bool
) -> None:
    """Given the server's answer with the versions of its environment, send it the wheels that its recipe
    installs. Raises PrepareError, ConfigError, SyncError."""
    told = {**mapping(answer.get("machine")), "python_version": mapping(answer.get("versions")).get("python")}
    platform = read_platform(server.name, told)
    tell.begin(STEP)
    server = with_indexes(server, source.indexes)
    for number, wheels in enumerate(wheelhouse_inputs(source, server.environment)):
        lines = exported_lock(fleet, server, wheels.export) if wheels.export else ""
        folder = build_wheelhouse(
            fleet,
            server,
            platform,
            lines + wheels.requirements,
            lambda line: tell.line(STEP, line),
            refresh=refresh,
        )
        rsync_push(
            fleet.transport(server.name),
            folder,
            f"{server.workdir}/{wheel_folder(number)}",
            on_progress=lambda sent, percent: tell.line(STEP, f"sending {percent} %, {sent / 1e6:.0f} MB"),
        )
    tell.end(STEP, f"for {platform}")
