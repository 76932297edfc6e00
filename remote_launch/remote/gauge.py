"""What a connection between two servers is worth: its round trip, its bandwidth, the size of its packets.
Both ends measure together: ``ping`` and ``echo``, ``give_bulk`` and ``take_bulk``."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ANSWER_S = 10.0  # the most that a machine which is busy takes for a line: it may stand still for seconds
PINGS = 10
BULK_S, BULK_BYTES = 0.1, 8 << 20
STALL_S = 3.0  # after that, what was sent is not on its way any more
NO_LINGER = struct.pack("ii", 1, 0)  # SO_LINGER: on close, forget what is unsent and free the port at once
_LINE_LIMIT = 4096
_CHUNK = b"\0" * 65536
_IP_MTU, _IPV6_MTU = 14, 24  # linux/in.h, in6.h; the socket module doesn't name them


class JsonLines:
    """A connection's lines of JSON, read no further than asked."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._in = b""

    def put(self, message: dict[str, Any]) -> None:
        self._sock.sendall(json.dumps(message).encode() + b"\n")

    def get(self, limit_s: float) -> dict[str, Any]:
        """Return the next line. Raises OSError (socket.timeout), ValueError."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._in:
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._sock.recv(_LINE_LIMIT)
            if not data or len(self._in) > _LINE_LIMIT:
                raise ValueError("closed by the other side")
            self._in += data
        line, _, self._in = self._in.partition(b"\n")
        try:
            message = json.loads(line)
        except RecursionError:
            message = None
        if not isinstance(message, dict):
            raise ValueError("not an object")
        return message


def echo(sock: socket.socket) -> None:
    """Send back what comes, until the other side closes."""
    sock.settimeout(ANSWER_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for data in iter(lambda: sock.recv(64), b""):
        sock.sendall(data)


def ping(sock: socket.socket) -> float:
    """Return the shortest round trip of one byte, in ms: the longer ones tell of busy machines."""
    sock.settimeout(ANSWER_S)
    best, deadline = float("inf"), time.monotonic() + ANSWER_S  # of all: slow ones add up
    for _ in range(PINGS):
        started = time.monotonic()
        if started > deadline:
            break
        sock.sendall(b".")
        if not sock.recv(1):
            raise ValueError("closed by the other side")
        best = min(best, time.monotonic() - started)
    return round(best * 1000, 3)


def take_bulk(sock: socket.socket, line: JsonLines) -> None:
    """Count what comes in BULK_S from the first byte on, and say it; then wait for the other side to
    close."""
    sock.settimeout(STALL_S)
    count = len(sock.recv(len(_CHUNK)))
    started = time.monotonic()
    first, seconds = count, 0.0
    while count and count < BULK_BYTES and seconds < BULK_S:
        more = len(sock.recv(len(_CHUNK)))
        count += more
        seconds = time.monotonic() - started
        if not more:
            return
    line.put({"bytes": count - first, "seconds": seconds})
    for _ in iter(lambda: sock.recv(len(_CHUNK)), b""):
        pass


def give_bulk(sock: socket.socket, line: JsonLines) -> dict[str, Any]:
    """Send until the other side says how much it got. Raises OSError, ValueError when it never does."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)  # what is still unsent is for nobody
    left = BULK_BYTES + len(_CHUNK)
    deadline = time.monotonic() + STALL_S
    while True:
        rest_s = deadline - time.monotonic()
        readable, writable, _ = select.select([sock], [sock] if left > 0 else [], [], max(0.0, rest_s))
        if readable:
            told = line.get(ANSWER_S)
            seconds = max(float(told["seconds"]), 1e-5)
            return {"bytes_per_s": round(int(told["bytes"]) / seconds)}
        if writable:
            with contextlib.suppress(BlockingIOError):
                left -= sock.send(_CHUNK)
        if rest_s <= 0:
            raise ValueError("what was sent did not arrive")


def mtu(sock: socket.socket) -> int | None:
    """Return the largest packet of the connection's path, as far as the kernel knows."""
    try:
        if sock.family == socket.AF_INET6 and not sock.getpeername()[0].startswith("::ffff:"):
            return sock.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
        return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    except OSError:
        return None
