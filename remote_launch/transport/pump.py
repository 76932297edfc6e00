"""A small TCP forwarder inside this process, for transports that have no ssh to do it."""

from __future__ import annotations

import contextlib
import socket
import threading


class TcpPump:
    """Listens on 127.0.0.1 and hands every connection on to ``host:port``. ``port`` is the listening one."""

    def __init__(self, host: str, port: int, *, local_port: int = 0) -> None:
        self._to = (host, port)
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
            server = socket.create_connection(self._to, timeout=10)
        except OSError:
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
