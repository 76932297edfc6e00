"""A server on loopback that sends back what comes: what a tunnel must carry both ways, to the last byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def echo_once() -> Iterator[int]:
    """For the length of a ``with``: the port of a server that serves one connection until its other end has
    sent all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(60)


def _serve(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        while chunk := connection.recv(65536):
            connection.sendall(chunk)


def sent_back(port: int, content: bytes) -> bytes:
    """Send to a port of this machine, close that direction, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        sender = threading.Thread(target=_send, args=(connection, content))
        sender.start()
        with connection.makefile("rb") as file:
            back = file.read()
        sender.join(60)
    return back


def _send(connection: socket.socket, content: bytes) -> None:
    connection.sendall(content)
    connection.shutdown(socket.SHUT_WR)
