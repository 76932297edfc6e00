"""One authenticated connection between two supervisors: lines of JSON over TCP, each signed, none ever
blocking.

Handshake, by the launch's token (which is never sent):

    the door -> node i    {"nonce": ns}
    node i -> the door    {"node": i, "nonce": nc, "mac": HMAC(token, "hello"|launch|ns|nc|i)}
    the door -> node i    {"mac": HMAC(token, "welcome"|launch|nc|ns|i)}

Then both sign with key = HMAC(token, "key"|ns|nc); each line is ``HMAC(key, direction|sequence|json) json``,
so that nothing can be forged, replayed, reordered or reflected. It is signed, not encrypted: nothing secret
is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LINE_LIMIT_BYTES = 1 << 20
HELLO_LIMIT_BYTES = 4096  # of who has not shown yet that it knows the token
HANDSHAKE_S = 5.0


class LinkError(Exception):
    """The connection is of no more use: closed, or the other side is not who it should be."""


def sign(key: bytes, *parts: object) -> str:
    """Given a key and parts, return their HMAC in hex."""
    words = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return hmac.new(key, b"|".join(words), hashlib.sha256).hexdigest()


class Link:
    """A socket with its buffers. ``node`` is None until the handshake is through; then, for the door, the
    caller's number."""

    def __init__(self, sock: socket.socket, launch: str, token: str) -> None:
        self.sock = sock
        self.node: int | None = None
        self.opened_at = time.monotonic()
        self.heard_at = self.opened_at
        self._launch = launch
        self._token = token.encode()
        self._nonce = os.urandom(16).hex()
        self._other_nonce = ""
        self._key = b""
        self._says, self._hears = "", ""
        self._sent = self._received = 0
        self._in = b""
        self._out = b""
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # -- bytes

    def lines(self) -> list[bytes]:
        """Return the complete lines that have come. Raises LinkError at the end of the connection, or when a
        line is too long."""
        try:
            data = self.sock.recv(65536)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise LinkError(str(error)) from error
        if not data:
            raise LinkError("closed by the other side")
        self._in += data
        *lines, self._in = self._in.split(b"\n")
        if len(self._in) > (LINE_LIMIT_BYTES if self._key else HELLO_LIMIT_BYTES):
            raise LinkError("a line without an end")
        return lines

    def _put(self, line: bytes) -> None:
        if len(self._out) > LINE_LIMIT_BYTES:
            raise LinkError("the other side does not read")
        self._out += line + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it. Raises LinkError."""
        try:
            while self._out:
                self._out = self._out[self.sock.send(self._out):]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise LinkError(str(error)) from error

    @property
    def wants_to_write(self) -> bool:
        return bool(self._out)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    # -- the handshake, the side of the door (node 0's, mostly)

    def challenge(self) -> None:
        self._put(json.dumps({"nonce": self._nonce}).encode())

    def accept_hello(self, line: bytes, members: int) -> int:
        """Given the first line of a newcomer, return its number and welcome it. Raises LinkError for a
        stranger."""
        hello = _parse(line)
        node, nonce = hello.get("node"), hello.get("nonce")
        if type(node) is not int or not 0 <= node < members or not isinstance(nonce, str):
            raise LinkError("not a hello")
        self._check(hello, sign(self._token, "hello", self._launch, self._nonce, nonce, node))
        self._put(
            json.dumps({"mac": sign(self._token, "welcome", self._launch, nonce, self._nonce, node)}).encode()
        )
        self._key = sign(self._token, "key", self._nonce, nonce).encode()
        self._says, self._hears = "S", "C"
        self.node = node
        self.heard_at = time.monotonic()
        return node

    # -- the handshake, the caller's side

    def answer(self, line: bytes, node: int) -> None:
        """Given the door's challenge, say who we are."""
        nonce = _parse(line).get("nonce")
        if not isinstance(nonce, str):
            raise LinkError("not a challenge")
        self._other_nonce = nonce
        mac = sign(self._token, "hello", self._launch, nonce, self._nonce, node)
        self._put(json.dumps({"node": node, "nonce": self._nonce, "mac": mac}).encode())

    @property
    def has_answered(self) -> bool:
        return bool(self._other_nonce)

    def accept_welcome(self, line: bytes, node: int) -> None:
        """Given the door's welcome, check that it knows the token too. Raises LinkError."""
        self._check(
            _parse(line), sign(self._token, "welcome", self._launch, self._nonce, self._other_nonce, node)
        )
        self._key = sign(self._token, "key", self._other_nonce, self._nonce).encode()
        self._says, self._hears = "C", "S"
        self.node = 0
        self.heard_at = time.monotonic()

    def _check(self, message: dict[str, Any], expected: str) -> None:
        if not hmac.compare_digest(str(message.get("mac")).encode(), expected.encode()):
            raise LinkError("wrong token")

    # -- messages

    def send(self, kind: str, message: dict[str, Any] | None = None) -> None:
        """Sign and send one message. Raises LinkError."""
        body = json.dumps({"kind": kind, **(message or {})}).encode()
        self._sent += 1
        self._put(sign(self._key, self._says, self._sent, body).encode() + b" " + body)

    def open(self, line: bytes) -> dict[str, Any]:
        """Given a received line, return its message. Raises LinkError when it was not signed by the other
        side, next in order."""
        mac, _, body = line.partition(b" ")
        self._received += 1
        if not hmac.compare_digest(mac, sign(self._key, self._hears, self._received, body).encode()):
            raise LinkError("wrong signature")
        self.heard_at = time.monotonic()
        return _parse(body)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LinkError("not JSON") from error
    if not isinstance(data, dict):
        raise LinkError("not an object")
    return data
