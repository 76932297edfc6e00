"""A connection to another supervisor's door, made again whenever it is lost."""

from __future__ import annotations

import errno
import selectors
import socket
import time

from .gang import Watched
from .link import HANDSHAKE_S, Link, LinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .gang import GangSettings, Host

RETRY_S = 0.5


class Call:
    """``came(call)`` is called at each connection, once both sides have shown that they know the token;
    ``said(call, message)`` with each message; ``lost(call, error)`` at the end of a connection that had
    come."""

    def __init__(
        self, settings: GangSettings, host: Host, member: int, where: tuple[str, int],
        came: Callable[[Call], None], said: Callable[[Call, dict[str, Any]], None],
        lost: Callable[[Call, LinkError], None],
    ) -> None:
        self.member = member
        self.next_try = time.monotonic()
        self._settings = settings
        self._host = host
        self._where = where
        self._came, self._said, self._lost = came, said, lost
        self._watched = Watched(host.selector)
        self._link: Link | None = None
        self._closed = False

    def hand_over(
        self, came: Callable[[Call], None], said: Callable[[Call, dict[str, Any]], None],
        lost: Callable[[Call, LinkError], None],
    ) -> None:
        """From now on others are called with what happens."""
        self._came, self._said, self._lost = came, said, lost

    @property
    def is_up(self) -> bool:
        return self._link is not None and self._link.node is not None

    @property
    def is_down(self) -> bool:
        """True while there is not even an attempt at a connection, and another one will come."""
        return self._link is None and not self._closed

    @property
    def heard_at(self) -> float:
        return self._link.heard_at if self._link is not None else 0.0

    def tick(self, now: float) -> None:
        link = self._link
        if link is not None and link.node is None and now - link.opened_at > HANDSHAKE_S:
            self._lose(link, LinkError("no handshake"))
        if self._link is None and now >= self.next_try and not self._closed:
            self._connect(now)

    def _connect(self, now: float) -> None:
        self.next_try = now + RETRY_S
        try:
            family, kind, proto, _, address = socket.getaddrinfo(*self._where, type=socket.SOCK_STREAM)[0]
            sock = socket.socket(family, kind, proto)
        except OSError as error:
            self._host.log(f"node {self.member}: {error}")
            return
        link = Link(sock, self._settings.launch, self._settings.token)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            link.close()
            return
        self._link = link
        self._watched.watch(link, lambda events: self._on_link(link, events))

    def _on_link(self, link: Link, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                link.flush()
                self._watched.update(link)
            if events & selectors.EVENT_READ:
                for line in link.lines():
                    self._on_line(link, line)
        except LinkError as error:
            self._lose(link, error)

    def _on_line(self, link: Link, line: bytes) -> None:
        if self._link is not link:
            return  # it was dropped in the middle of what it said
        node = self._settings.node
        if link.node is None and not link.has_answered:
            link.answer(line, node)
            self._watched.update(link)
        elif link.node is None:
            link.accept_welcome(line, node)
            self._came(self)
        else:
            self._said(self, link.open(line))

    def _lose(self, link: Link, error: LinkError) -> None:
        self._watched.drop(link)
        if self._link is not link:
            return
        self._link = None
        if link.node is not None:
            self._lost(self, error)

    def send(self, kind: str, message: dict[str, Any]) -> None:
        """Send a message, when there is a connection."""
        link = self._link
        if link is None or link.node is None:
            return
        try:
            link.send(kind, {"attempt": self._host.attempt, **message})
            self._watched.update(link)
        except LinkError as error:
            self._lose(link, error)

    def drop(self, why: str) -> None:
        """End the connection; another one is made."""
        if self._link is not None:
            self._lose(self._link, LinkError(why))

    def close(self) -> None:
        """End it for good."""
        self._closed = True
        if self._link is not None:
            self._watched.drop(self._link)
            self._link = None
