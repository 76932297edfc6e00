"""Lets rsync use a connection that this process holds: no second login, no password in any argv or
environment.

rsync starts ``bridge.py``, which joins rsync's stdin and stdout to a unix socket in a 0700 folder; here each
such connection gets a channel, on which the command that rsync asked for runs.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from remote_launch.errors import RemoteLaunchError
from remote_launch.transport import bridge
from remote_launch.transport.session import BROKEN, ChannelLostError, Watch, drain, lost_when_broken

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import paramiko
    from typing_extensions import Self  # for the type checker alone

MAX_COMMAND_BYTES = 1 << 20


class BridgeServer:
    """The socket, for the length of a ``with``. ``open_channel(watch)`` gives a channel for one command."""

    def __init__(self, open_channel: Callable[[Watch], AbstractContextManager[paramiko.Channel]]) -> None:
        self._open_channel = open_channel
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, Watch] = {}
        self._threads: list[threading.Thread] = []
        self._closed = False

    @property
    def shell(self) -> tuple[str, ...]:
        """What to give rsync as ``-e``."""
        return (sys.executable, "-I", "-S", str(Path(bridge.__file__)), str(self._path))

    def __enter__(self) -> Self:
        # Short: a unix socket's path has 104 bytes at most, and TMPDIR on macOS takes half of them.
        self._folder = tempfile.mkdtemp(prefix="rl-")
        self._path = Path(self._folder, "s")
        try:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(self._path))
            self._listener.listen(16)
        except BaseException:
            self._listener.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._acceptor = threading.Thread(target=self._accept, name="rl-bridge", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self._path))  # wakes accept()
        self._acceptor.join(5)
        self._listener.close()
        with self._lock:
            clients = list(self._clients.items())
        for client, watch in clients:
            watch.cancel()
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._closed:
                client.close()
                return
            watch = Watch(None)
            thread = threading.Thread(target=self._serve, args=(client, watch), name="rl-bridge", daemon=True)
            with self._lock:
                self._clients[client] = watch
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, watch: Watch) -> None:
        """Run one rsync's command. What goes wrong is told to rsync as ssh would tell it: on stderr, with
        255.
        """
        try:
            command = _read_command(client)
            if command is None:
                return
            try:
                code = self._run(client, command, watch)
            except (RemoteLaunchError, ChannelLostError) as error:
                _send(client, bridge.STDERR, f"remote_launch: {error}\n".encode())
                code = bridge.LOST
            _send(client, bridge.EXIT, str(code).encode())
        except (OSError, KeyboardInterrupt):  # the bridge is gone (rsync ended it), or the with is over
            return
        finally:
            with self._lock:
                self._clients.pop(client, None)
            client.close()

    def _run(self, client: socket.socket, command: bytes, watch: Watch) -> int:
        with self._open_channel(watch) as channel:
            with lost_when_broken():
                channel.exec_command(command)
            feeder = threading.Thread(target=_feed, args=(client, channel), name="rl-bridge-in", daemon=True)
            feeder.start()
            try:
                return drain(
                    channel,
                    watch,
                    lambda data: _send(client, bridge.STDOUT, data),
                    lambda data: _send(client, bridge.STDERR, data),
                )
            finally:
                with contextlib.suppress(*BROKEN):
                    channel.close()
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RD)
                feeder.join(5)


def _read_command(client: socket.socket) -> bytes | None:
    header = _read(client, 4)
    if len(header) < 4:
        return None
    (length,) = struct.unpack("!I", header)
    return _read(client, length) if length <= MAX_COMMAND_BYTES else None


def _read(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (chunk := client.recv(count - len(data))):
        data += chunk
    return data


def _feed(client: socket.socket, channel: paramiko.Channel) -> None:
    with contextlib.suppress(*BROKEN):
        while chunk := client.recv(bridge.CHUNK_BYTES):
            channel.sendall(chunk)
        channel.shutdown_write()


def _send(client: socket.socket, kind: int, data: bytes) -> None:
    client.sendall(bridge.HEADER.pack(kind, len(data)) + data)
