"""A port of a server on this machine, for as long as this process runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import re
import time
from typing import TYPE_CHECKING

from remote_launch.core.forwards import LOCALHOST, ForwardBook, ForwardRecord
from remote_launch.errors import HostKeyError, RemoteLaunchError, TransportError, UsageError
from remote_launch.transport.command import Command
from remote_launch.transport.forwards import free_port, port_is_free

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet

LOOK_EVERY_S = 1.0
_SLEPT_S = 20.0  # so much longer than asked for: the machine was suspended
_RETRY_LOOKS = (1, 2, 4, 8, 15)  # so many of LOOK_EVERY_S between two tries
_TRIED_PORTS = 20
_UNPRIVILEGED = 1024
_PORTS = re.compile(r"(?:(\d*):)?(\d+)\Z", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]*\Z", re.ASCII)
_LISTENING = 'grep -hs ":$1 [0-9A-F]*:0000 0A " /proc/net/tcp /proc/net/tcp6; test -r /proc/net/tcp'
_SOCKET = re.compile(r"^\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):[0-9A-F]{4} ", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What was asked for. ``local`` None: as on the server, or the next one that is free; 0: any."""

    local: int | None
    remote: int


def parse_ports(text: str) -> Ports:
    """Given "PORT", "LOCAL:REMOTE" (as ssh -L, kubectl and docker have it) or ":REMOTE", return the ports."""
    found = _PORTS.match(text)
    if found is None:
        hint = "PORT, or LOCAL:REMOTE; another host that the server reaches: --to HOST"
        raise UsageError(f"{text!r} is not a port", hint=hint)
    local = None if found[1] is None else int(found[1] or 0)
    remote = int(found[2])
    for port in (remote, *([local] if local else [])):
        if not 0 < port < 65536:
            raise UsageError(f"{port} is not a port: 1 to 65535")
    return Ports(local=local, remote=remote)


def check_forward(server: Server, ports: Ports, host: str) -> None:
    """Raise UsageError where nothing needs forwarding, or the host is none."""
    if not _HOST.match(host):
        raise UsageError(f"{host!r} is not a host's name or address")
    if server.target.transport == "local":
        raise UsageError(
            f"{server.name} is this machine (connection: local): nothing needs forwarding",
            hint=f"open http://{'127.0.0.1' if host == LOCALHOST else host}:{ports.remote} here",
        )


def local_port(ports: Ports, *, wish: int | None = None) -> int:
    """Return the port to listen on: the one asked for, or one that is free (``wish`` if it is). Raises
    UsageError when the one asked for is taken."""
    if ports.local:
        if not port_is_free(ports.local):
            what = "taken" if ports.local >= _UNPRIVILEGED else "taken, or not allowed to you,"
            hint = f"another one, or :{ports.remote} for any that is free"
            raise UsageError(f"port {ports.local} is {what} on this machine", hint=hint)
        return ports.local
    if ports.local == 0:
        return free_port()
    first = ports.remote if ports.remote >= _UNPRIVILEGED else ports.remote + 8000  # 80 becomes 8080
    tries = [wish] if wish else []
    tries += [ports.remote, *range(first, min(first + _TRIED_PORTS, 65536))]
    return next((port for port in tries if port_is_free(port)), None) or free_port()


@contextlib.contextmanager
def open_forward(
    fleet: Fleet, server: Server, ports: Ports, host: str = LOCALHOST
) -> Iterator[ForwardRecord]:
    """For the length of a ``with``: the port is here. Raises UsageError, ConnectError."""
    check_forward(server, ports, host)
    port = local_port(ports)
    forward = fleet.transport(server.name).forward(ports.remote, local_port=port, remote_host=host)
    record = ForwardRecord(
        server=server.name, local_port=forward.port, remote_port=ports.remote, remote_host=host,
        started_at=time.time(), machine=platform.node(), pid=os.getpid(), background=False,
    )  # fmt: skip
    book = ForwardBook(fleet.project)
    try:
        with contextlib.suppress(OSError), book.change() as records:  # it only tells --list
            records.append(record)
        fleet.log(server.name, "forward", local_port=forward.port, remote=record.to)
        yield record
    finally:
        forward.close()
        with contextlib.suppress(OSError), book.change() as records:
            records[:] = [one for one in records if not one.is_same(record)]


def hold(fleet: Fleet, record: ForwardRecord, say: Callable[[str], None]) -> None:
    """Watch the connection of an open forward until Ctrl-C, or until ``stop_forwards`` of another process
    asks for its end; where it is lost, make it again. Raises HostKeyError where the server is no longer the
    same."""
    transport = fleet.transport(record.server)
    while not _is_to_end(fleet, record):
        before = time.time()
        time.sleep(LOOK_EVERY_S)
        lost = not transport.is_open()
        if lost:
            say(f"the connection to {record.server} is lost; trying again until Ctrl-C")
        elif time.time() - before < LOOK_EVERY_S + _SLEPT_S:
            continue
        # After a sleep the connection may look alive and be dead: connect asks the server.
        if _connect_again(fleet, record, say) and lost:
            say(f"connected again: {record.url}")
    say("stopped by rl forward --stop")


def _is_to_end(fleet: Fleet, record: ForwardRecord) -> bool:
    return any(one.stop_asked and one.is_same(record) for one in ForwardBook(fleet.project).read())


def _connect_again(fleet: Fleet, record: ForwardRecord, say: Callable[[str], None]) -> bool:
    """Try until it is there; False when the forward is to end meanwhile."""
    said = ""
    for turn in range(1_000_000_000):
        try:
            fleet.transport(record.server).connect()
        except HostKeyError:
            raise
        except TransportError as error:
            if str(error) != said:
                said = str(error)
                say(said)
            for _ in range(_RETRY_LOOKS[min(turn, len(_RETRY_LOOKS) - 1)]):
                time.sleep(LOOK_EVERY_S)
                if _is_to_end(fleet, record):
                    return False
        else:
            return True
    return False


def listening_notice(fleet: Fleet, record: ForwardRecord) -> str | None:
    """Ask the server, without connecting to the port (a debugger takes one guest only): return a sentence
    when nothing listens there."""
    if record.remote_host != LOCALHOST:
        return None
    command = Command([f"{record.remote_port:04X}"], shell=_LISTENING, label="who listens")
    try:
        done = fleet.transport(record.server).run(command, timeout_s=15)
    except RemoteLaunchError:
        return None
    if not done.ok:  # no /proc there
        return None
    addresses = listening_addresses(done.text)
    where = f"port {record.remote_port} of {record.server}"
    if not addresses:
        return f"nothing listens on {where} yet; the forward stays, for when something does"
    if not any(_is_local(address) for address in addresses):
        here = ", ".join(addresses[:3])
        return f"on {where} something listens, but on {here} only: --to {addresses[0]} leads there"
    return None


def listening_addresses(text: str) -> list[str]:
    """Given lines of Linux's /proc/net/tcp and tcp6, return the addresses in them."""
    import ipaddress

    found = []
    for word in _SOCKET.findall(text):
        raw = b"".join(bytes.fromhex(word[at : at + 8])[::-1] for at in range(0, len(word), 8))
        address = ipaddress.ip_address(raw)
        found.append(str(getattr(address, "ipv4_mapped", None) or address))
    return list(dict.fromkeys(found))


def _is_local(address: str) -> bool:
    """Whether "localhost" leads to it: 127.0.1.1, as a server's own name may read, is not where it goes."""
    return address in ("127.0.0.1", "0.0.0.0", "::1", "::")  # noqa: S104 - not bound
