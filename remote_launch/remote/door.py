"""Where other nodes of a launch come in: a listening socket (node 0's, and that of each member for the time
when node 0 is lost), and newcomers until they have shown that they know the launch's token. Strangers are
dropped; each reason is logged once, and their number."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket

from .gang import Watched
from .jobdir import Refusal
from .link import HANDSHAKE_S, Link, LinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .gang import GangSettings, Host

PENDING_LIMIT = 64
_AT_ONCE = 64  # newcomers taken in one turn
_REASONS_LOGGED = 8


class Door:
    """``joined(link, lines)`` is called with each node that came, and what it has said already. ``where``: an
    address and a port of ours, 0 for one that is free. Raises Refusal."""

    def __init__(
        self, settings: GangSettings, host: Host, joined: Callable[[Link, list[bytes]], None],
        where: tuple[str, int],
    ) -> None:
        self.refused = 0
        self.joined = joined
        self._settings = settings
        self._host = host
        self._reasons: set[str] = set()
        self._pending: list[Link] = []
        self._watched = Watched(host.selector)
        self._listener = _listen(*where)
        self.port: int = self._listener.getsockname()[1]
        host.selector.register(self._listener, selectors.EVENT_READ, lambda _: self._accept())

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            if len(self._pending) >= PENDING_LIMIT:
                # The oldest: a member needs milliseconds, a stranger sits.
                self._refuse(self._pending[0], "too many connections wait")
            link = Link(sock, self._settings.launch, self._settings.token)
            self._pending.append(link)
            self._watch(link)
            try:
                link.challenge()
            except LinkError as error:
                self._refuse(link, str(error))

    def _watch(self, link: Link) -> None:
        self._watched.watch(link, lambda _: self._on_pending(link))

    def _on_pending(self, link: Link) -> None:
        if link not in self._pending:
            return  # dropped earlier in this very turn
        try:
            lines = link.lines()
            if not lines:
                return
            link.accept_hello(lines[0], self._settings.members)
        except LinkError as error:
            self._refuse(link, str(error))
            return
        self._pending.remove(link)
        self.joined(link, lines[1:])

    def _refuse(self, link: Link, why: str) -> None:
        self.refused += 1
        if why not in self._reasons and len(self._reasons) < _REASONS_LOGGED:
            self._reasons.add(why)
            self._host.log(f"a connection was refused: {why}")
        elif self.refused in (10, 100, 1000) or self.refused % 10000 == 0:
            self._host.log(f"{self.refused} connections were refused so far")
        self._pending.remove(link)
        self._watched.drop(link)

    def tick(self, now: float) -> None:
        for link in list(self._pending):
            if now - link.opened_at > HANDSHAKE_S:
                self._refuse(link, "it said nothing")

    def close(self) -> None:
        if self.refused:
            self._host.log(f"connections that were refused in all: {self.refused}")
        for link in self._pending:
            self._watched.drop(link)
        with contextlib.suppress(KeyError, ValueError):
            self._host.selector.unregister(self._listener)
        self._listener.close()


def _listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens on the address when it is one of ours, else (names, NAT) on all. Raises
    Refusal."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    hosts = [address, ""] if address.replace(".", "").isdigit() or ":" in address else [""]
    for host in hosts:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(128)
            sock.setblocking(False)
            return sock
        except OSError as error:
            sock.close()
            if host and error.errno == errno.EADDRNOTAVAIL:  # an address that is mapped to this machine
                continue
            message = f"port {port} on {address}: {error.strerror}"
            raise Refusal("PortTakenError", message, "try again: another port is chosen") from error
    raise Refusal("PortTakenError", f"port {port} on {address} can't be listened on")
