"""A small forwarder inside this process: it listens here, and ends with it however that ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from remote_launch.errors import RemoteLaunchError

if TYPE_CHECKING:
    from collections.abc import Callable


class TcpPump:
    """Listens on 127.0.0.1 and joins every connection to one that ``connect`` makes. ``port`` is the
    listening one. Raises OSError when it can't listen."""

    def __init__(self, connect: Callable[[], socket.socket], *, local_port: int = 0) -> None:
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", local_port))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name=f"pump-{self.port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end the connections that are open."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for each in (self._listener, *self._open):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
            self._listener.close()
        self._thread.join(timeout=5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = self._connect()
        except (OSError, RemoteLaunchError):  # as ssh: nothing listens there, the connection ends
            client.close()
            return
        server.settimeout(None)
        with client, server:
            with self._lock:
                if self._closed:
                    return
                self._open |= {client, server}
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()
            with self._lock:
                self._open -= {client, server}


def _copy(source: socket.socket, to: socket.socket) -> None:
    """Copy until the source ends, then end the other direction too (and only that)."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            to.sendall(chunk)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)
