"""Ports that stay forwarded when ``rl`` has ended: starting, listing and stopping them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from typing import TYPE_CHECKING

from remote_launch.core.forwards import LOCALHOST, ForwardBook, ForwardRecord
from remote_launch.errors import ConfigError, UsageError
from remote_launch.operations.forward import Ports, check_forward, local_port
from remote_launch.transport.base import KeptForward
from remote_launch.transport.forwards import is_kept, port_is_free, stop_kept

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.core.project import Project
    from remote_launch.operations.fleet import Fleet

FORGET_DEAD_S = 24 * 3600.0
_STOP_S = 30.0  # it looks every second, but may just be connecting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForwardState:
    """A record and what is true of it now. ``alive`` is None for one of another machine."""

    record: ForwardRecord
    alive: bool | None


def keep_forward(
    fleet: Fleet, server: Server, ports: Ports, host: str = LOCALHOST
) -> tuple[ForwardRecord, bool]:
    """Forward a port until it is stopped. Returns its record, and whether it is new: one that is there
    already stays. Raises UsageError, ConnectError."""
    check_forward(server, ports, host)
    book = ForwardBook(fleet.project)
    states = list_forwards(fleet.project)
    same = [state for state in states if _is_same(state.record, server.name, ports, host)]
    for state in same:
        if state.alive:
            return state.record, False
    # The page that is open in a browser finds its server again.
    wish = same[-1].record.local_port if same else None
    port = local_port(ports, wish=wish)
    transport = fleet.transport(server.name)
    owner = str(fleet.project.root)
    kept = transport.keep_forward(ports.remote, local_port=port, remote_host=host, owner=owner)
    record = ForwardRecord(
        server=server.name, local_port=port, remote_port=ports.remote, remote_host=host, socket=kept.socket,
        started_at=time.time(), machine=platform.node(), pid=kept.pid, background=True,
    )  # fmt: skip
    try:
        with book.change() as records:
            gone = [state.record for state in same if state.alive is False]
            records[:] = [one for one in records if not _is_among(one, gone)]
            records.append(record)
    except BaseException as error:  # nobody would find it again
        stop_kept(kept)
        if isinstance(error, OSError):
            raise ConfigError(f"can't be written: {error.strerror}", path=book.path) from None
        raise
    fleet.log(server.name, "forward", local_port=port, remote=record.to, background=True)
    return record, True


def list_forwards(project: Project) -> list[ForwardState]:
    """Return the project's forwards, oldest first. What died in the foreground is forgotten at once, what
    died in the background a day after that was seen."""
    book = ForwardBook(project)
    now = time.time()
    states, gone, ended = [], [], []
    for record in book.read():
        alive = _is_alive(record)
        if alive is False:
            if not record.background or now - (record.ended_at or now) > FORGET_DEAD_S:
                gone.append(record)
                continue
            if record.ended_at is None:
                ended.append(record)
                states.append(ForwardState(record=dataclasses.replace(record, ended_at=now), alive=False))
                continue
        states.append(ForwardState(record=record, alive=alive))
    if gone or ended:
        with contextlib.suppress(OSError), book.change() as records:
            records[:] = [
                dataclasses.replace(one, ended_at=now) if one in ended else one
                for one in records
                if one not in gone
            ]
    return states


def stop_forwards(
    project: Project, server: str | None = None, ports: Ports | None = None, *, everything: bool = False
) -> list[ForwardRecord]:
    """Stop forwards, those in the foreground of other terminals, too, and forget dead ones; return them. With
    ``everything`` none need be there. Raises UsageError when none match, or one does not end."""
    states = [state for state in list_forwards(project) if _matches(state.record, server, ports)]
    found = [state.record for state in states if state.alive is not None]
    if not found and not everything:
        away = next((state.record for state in states), None)
        if away is not None:
            raise UsageError(f"{away.server} {away.to} is forwarded on {away.machine}", hint="stop it there")
        raise UsageError("no such forward", hint="rl forward --list shows what there is")
    _ask_to_end(project, [record for record in found if not record.background])
    kept = [record for record in found if record.background]
    for record in kept:
        stop_kept(KeptForward(socket=record.socket, pid=record.pid))
    if kept:
        with contextlib.suppress(OSError), ForwardBook(project).change() as records:
            records[:] = [one for one in records if not _is_among(one, kept)]
    return found


def _ask_to_end(project: Project, fronts: Sequence[ForwardRecord]) -> None:
    """Have the processes that hold forwards in the foreground end them, and wait for that."""
    if not fronts:
        return
    book = ForwardBook(project)
    try:
        with book.change() as records:
            records[:] = [
                dataclasses.replace(one, stop_asked=True) if _is_among(one, fronts) else one
                for one in records
            ]
    except OSError as error:
        raise ConfigError(f"can't be written: {error.strerror}", path=book.path) from None
    deadline = time.monotonic() + _STOP_S
    while still := [one for one in book.read() if _is_among(one, fronts) and _is_alive(one)]:
        if time.monotonic() > deadline:
            one = still[0]
            what = f"{one.server} {one.to} is forwarded in the foreground, by process {one.pid}"
            raise UsageError(f"{what}, which does not end it", hint="Ctrl-C ends it, where it was started")
        time.sleep(0.05)


def _is_same(record: ForwardRecord, server: str, ports: Ports, host: str) -> bool:
    return (
        record.background
        and (record.server, record.remote_port, record.remote_host) == (server, ports.remote, host)
        and (not ports.local or ports.local == record.local_port)
    )


def _matches(record: ForwardRecord, server: str | None, ports: Ports | None) -> bool:
    if server is not None and record.server != server:
        return False
    if ports is None:
        return True
    if ports.local:
        return (record.local_port, record.remote_port) == (ports.local, ports.remote)
    return ports.remote in (record.local_port, record.remote_port)


def _is_among(record: ForwardRecord, others: Iterable[ForwardRecord]) -> bool:
    return any(record.is_same(other) for other in others)


def _is_alive(record: ForwardRecord) -> bool | None:
    if record.machine != platform.node():
        return None  # a project folder that several machines share
    if record.background:
        return is_kept(KeptForward(socket=record.socket, pid=record.pid), record.local_port)
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's: it is there
    return not port_is_free(record.local_port)
