"""Tunnels over a paramiko connection: sockets and channels joined by threads that end with the tunnel."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import paramiko

from remote_launch.errors import RemoteLaunchError

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES = 65536
LOOPBACK = "127.0.0.1"
_ENDS = (OSError, EOFError, paramiko.SSHException)


class Joint:
    """A socket and a channel, each one's bytes written to the other; ends when both directions have ended."""

    def __init__(self, sock: socket.socket, channel: paramiko.Channel, done: Callable[[Joint], None]) -> None:
        self._sock = sock
        self._channel = channel
        self._done = done
        self._threads = [
            threading.Thread(target=self._outward, name="rl-tunnel-out", daemon=True),
            threading.Thread(target=self._inward, name="rl-tunnel-in", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Cut it, and wait for its threads."""
        with contextlib.suppress(*_ENDS):
            self._channel.close()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _outward(self) -> None:
        try:
            while chunk := self._sock.recv(CHUNK_BYTES):
                self._channel.sendall(chunk)
            self._channel.shutdown_write()
        except _ENDS:
            with contextlib.suppress(*_ENDS):
                self._channel.close()

    def _inward(self) -> None:
        try:
            while chunk := self._channel.recv(CHUNK_BYTES):
                self._sock.sendall(chunk)
            self._sock.shutdown(socket.SHUT_WR)
            self._threads[0].join()  # the other direction may live on
        except _ENDS:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(*_ENDS):
                self._channel.close()
            self._threads[0].join()
        finally:
            with contextlib.suppress(*_ENDS):
                self._channel.close()
            self._sock.close()
            self._done(self)


class _Joints:
    """The joints of one tunnel that are open now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Joint] = set()
        self._closed = False

    def add(self, sock: socket.socket, channel: paramiko.Channel) -> None:
        joint = Joint(sock, channel, self._remove)
        with self._lock:
            if not self._closed:
                self._open.add(joint)
                joint.start()  # within the lock: close() waits for threads, which must have started
                return
        channel.close()
        sock.close()

    def _remove(self, joint: Joint) -> None:
        with self._lock:
            self._open.discard(joint)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            joints = list(self._open)
        for joint in joints:
            joint.close()


class LocalForward:
    """Listens here; each connection gets a channel from ``open_channel``. Keeps the ``Forward`` protocol."""

    def __init__(self, local_port: int, open_channel: Callable[[], paramiko.Channel]) -> None:
        self._open_channel = open_channel
        self._joints = _Joints()
        self._listener = socket.create_server((LOOPBACK, local_port))
        self.port: int = self._listener.getsockname()[1]
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="rl-forward", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._closed:
                sock.close()
                return
            try:
                self._joints.add(sock, self._open_channel())
            except (RemoteLaunchError, *_ENDS):
                sock.close()  # as ssh: nothing listens there, the connection ends

    def close(self) -> None:
        """Stop listening and cut what is open. May be called twice."""
        if self._closed:
            return
        self._closed = True
        # accept() in another thread doesn't notice a close: a last connection wakes it on every system.
        with contextlib.suppress(OSError):
            socket.create_connection((LOOPBACK, self.port), timeout=1).close()
        self._thread.join(5)
        self._listener.close()
        self._joints.close()


class ReverseForward:
    """The server listens; each connection there is joined to a local port. Keeps the ``Forward`` protocol."""

    def __init__(self, local_port: int) -> None:
        self.port = 0
        self._local_port = local_port
        self._joints = _Joints()
        self._stop: Callable[[], None] | None = None

    def listening(self, port: int, stop: Callable[[], None]) -> None:
        """Note the server's port, and how to make it stop listening."""
        self.port = port
        self._stop = stop

    def connected(self, channel: paramiko.Channel) -> None:
        """Called by paramiko's reading thread, which must not wait."""
        threading.Thread(target=self._join, args=(channel,), name="rl-reverse", daemon=True).start()

    def _join(self, channel: paramiko.Channel) -> None:
        try:
            sock = socket.create_connection((LOOPBACK, self._local_port), timeout=10)
        except OSError:
            with contextlib.suppress(*_ENDS):
                channel.close()
            return
        sock.settimeout(None)
        self._joints.add(sock, channel)

    def close(self) -> None:
        """Make the server stop listening and cut what is open. May be called twice."""
        stop, self._stop = self._stop, None
        if stop is not None:
            with contextlib.suppress(*_ENDS):
                stop()
        self._joints.close()


class ReverseListeners:
    """The ports that one connection's server listens on for us. paramiko knows one handler for all of
    them."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport
        self._lock = threading.Lock()  # paramiko's global requests can't overlap
        self._forwards: dict[int, ReverseForward] = {}

    def open(self, forward: ReverseForward, remote_port: int) -> None:
        """Make the server listen. Raises paramiko.SSHException when it refuses."""
        with self._lock:
            port = self._transport.request_port_forward(LOOPBACK, remote_port, self._handle)
            self._forwards[port] = forward
        forward.listening(port, lambda: self._cancel(port))

    def _handle(self, channel: paramiko.Channel, _origin: Any, server: tuple[str, int]) -> None:
        forward = self._forwards.get(server[1])
        if forward is not None:
            forward.connected(channel)
        else:
            channel.close()

    def _cancel(self, port: int) -> None:
        with self._lock:
            self._forwards.pop(port, None)
            # Not cancel_port_forward, which forgets the handler of all the other ports too.
            if self._transport.is_active():
                self._transport.global_request("cancel-tcpip-forward", (LOOPBACK, port), wait=True)
