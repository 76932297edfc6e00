"""Try the way between servers: every server listens, and connects to the others, in one call each.

The laptop asks all servers for free ports first (``{"ask_ports": true}``), then all of them at the same time
to listen on theirs and to connect to the others'. A server ends when its own connections are through and all
that it expects have come, or when its time is up; also when nobody reads its stdout any more. Nothing stays.

A connection, by the token of this try (which is never sent):

    listener -> connector    {"server": name, "nonce": ns}
    connector -> listener    {"server": name, "mode": …, "nonce": nc, "mac": HMAC(token, hello|ns|nc|…)}
    listener -> connector    {"mac": HMAC(token, "welcome"|nc|ns|name)}

then, by its mode: nothing (reach), bytes echoed one by one (ping), or as much as goes in a moment (bulk),
whose receiver says how much came (see ``gauge``). The connector closes first: the listener's port is free at
once.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import select
import socket
import threading
import time

from .gauge import ANSWER_S, NO_LINGER, JsonLines, echo, give_bulk, mtu, ping, take_bulk
from .jobdir import Refusal
from .link import sign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT_S = 60.0  # the most that a request may ask for
_RETRY_S = 0.02
_LATE_TRY_S = 1.0
_FIRST_RETRY_S = 0.002  # the others mostly begin within milliseconds of each other
_NO_ROUTE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EACCES, errno.EPERM)
_MODES = ("reach", "ping", "bulk")


def reach(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"token", "listen": [port], "expect": [[server, port]], "connect": [{"server", "address",
    "port", "mode"}], "in_turn", "limit_s"}, return {"links": [what became of each connection], "taken":
    {port: why it can't be listened on}, "heard": [[server, port]]}; or, given {"ask_ports"}, {"ports"}."""
    if request.get("ask_ports"):
        from .preflight import any_port, free_ports

        return {"ports": [any_port(), *free_ports(1)]}
    attempt = _Attempt(request)
    threading.Thread(target=end_when_unread, daemon=True).start()
    taken = {}
    for port in attempt.ports:
        try:
            listener = _listen(port)
        except OSError as error:
            taken[str(port)] = os.strerror(error.errno) if error.errno else str(error)
            continue
        threading.Thread(target=attempt.welcome, args=(listener, port), daemon=True).start()
    attempt.connect_to_all()
    attempt.wait_for_others(without=[int(port) for port in taken])
    return {"links": attempt.links, "taken": taken, "heard": sorted(attempt.heard)}


def end_when_unread() -> None:
    """A laptop that is gone closes our stdout: what is under way is for nobody then."""
    watcher = select.poll()
    watcher.register(1, 0)  # errors and hang-ups only
    watcher.poll()
    os._exit(1)


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=256, dualstack_ipv6=True)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise
        return socket.create_server(("", port), backlog=256)


class _Attempt:
    """What was asked for, and what came of it. Filled by threads, each with connections of its own."""

    def __init__(self, request: dict[str, Any]) -> None:
        try:
            self.token = str(request["token"]).encode()
            self.name = str(request["server"])
            self.ports = [int(port) for port in request.get("listen") or ()]
            self.expected = {(str(name), int(port)) for name, port in request.get("expect") or ()}
            self.targets = [
                {
                    "to": str(one["server"]), "address": str(one["address"]), "port": int(one["port"]),
                    "mode": _MODES[_MODES.index(one["mode"])],
                }
                for one in request.get("connect") or ()
            ]
            self.in_turn = bool(request.get("in_turn"))
            limit_s = float(request["limit_s"])
        except (KeyError, TypeError, ValueError) as error:
            raise Refusal("RequestError", f"the request makes no sense: {error!r}") from None
        if len(self.token) < 16 or not 0 < limit_s <= LIMIT_S:
            raise Refusal("RequestError", f"a token and a limit of at most {LIMIT_S:g} s are needed")
        self.deadline = time.monotonic() + limit_s
        self.links: list[dict[str, Any]] = []
        self.heard: set[tuple[str, int]] = set()
        self._change = threading.Condition()

    # -- coming in

    def welcome(self, listener: socket.socket, port: int) -> None:
        """Take all who come on one port. Ends with the process."""
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # too many at once
                time.sleep(_RETRY_S)
                continue
            threading.Thread(target=self._serve, args=(sock, port), daemon=True).start()

    def _serve(self, sock: socket.socket, port: int) -> None:
        # A port that was tried must be free at once: nothing of ours may linger on it.
        with sock, contextlib.suppress(OSError, ValueError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            line = JsonLines(sock)
            nonce = os.urandom(16).hex()
            line.put({"server": self.name, "nonce": nonce})
            hello = line.get(ANSWER_S)
            other, mode, theirs = (str(hello.get(key)) for key in ("server", "mode", "nonce"))
            expected = sign(self.token, "hello", nonce, theirs, other, self.name, mode)
            if not hmac.compare_digest(str(hello.get("mac")).encode(), expected.encode()):
                return
            line.put({"mac": sign(self.token, "welcome", theirs, nonce, self.name)})
            try:
                if mode == "bulk":
                    take_bulk(sock, line)
                else:
                    echo(sock)
            finally:
                with self._change:
                    self.heard.add((other, port))
                    self._change.notify_all()

    def wait_for_others(self, *, without: list[int]) -> None:
        """Return when all who are expected have come and gone, or the time is up."""
        wanted = {(name, port) for name, port in self.expected if port not in without}
        with self._change:
            self._change.wait_for(
                lambda: wanted <= self.heard, max(0.0, self.deadline - time.monotonic())
            )

    # -- going out

    def connect_to_all(self) -> None:
        """Try every target, all at once or in turn."""
        if self.in_turn:
            self.links = [self._connect(target) for target in self.targets]
            return
        results: list[dict[str, Any] | None] = [None] * len(self.targets)

        def work(number: int, target: dict[str, Any]) -> None:
            results[number] = self._connect(target)

        threads = [
            threading.Thread(target=work, args=one, daemon=True) for one in enumerate(self.targets)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.links = [result for result in results if result is not None]

    def _connect(self, target: dict[str, Any]) -> dict[str, Any]:
        """Return the target with its "outcome" and what was measured. A port where nobody listens yet is
        tried until the time is up, and once where it is up before the first try: then this machine was too
        busy, and that says nothing of the way."""
        link = {**target, "outcome": "", "said": ""}
        pause_s = _FIRST_RETRY_S
        while True:
            left_s = self.deadline - time.monotonic()
            if left_s <= 0:
                if link["outcome"]:
                    return link
                left_s = _LATE_TRY_S
            try:
                started = time.monotonic()
                # As bytes where it can be: of text, Python imports the tables of international names (8 ms).
                address = target["address"].encode() if target["address"].isascii() else target["address"]
                sock = socket.create_connection((address, target["port"]), timeout=left_s)
            except OSError as error:
                link["outcome"], link["said"] = _outcome(error)
                if link["outcome"] != "refused":
                    return link
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_S)
                continue
            link["connect_ms"] = round((time.monotonic() - started) * 1000, 3)
            with sock:
                self._meet(sock, link)
            return link

    def _meet(self, sock: socket.socket, link: dict[str, Any]) -> None:
        """Greet the listener, and measure. Writes "outcome" and figures into ``link``."""
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = JsonLines(sock)
            nonce = os.urandom(16).hex()
            patience_s = min(ANSWER_S, max(1.0, self.deadline - time.monotonic()))
            hello = line.get(patience_s)
            theirs, name = str(hello.get("nonce")), str(hello.get("server"))
            if name != link["to"]:
                link["outcome"], link["said"] = "other", name[:100]
                return
            mac = sign(self.token, "hello", theirs, nonce, self.name, name, link["mode"])
            line.put({"server": self.name, "mode": link["mode"], "nonce": nonce, "mac": mac})
            welcome = sign(self.token, "welcome", nonce, theirs, name)
            if not hmac.compare_digest(str(line.get(patience_s).get("mac")).encode(), welcome.encode()):
                link["outcome"] = "other"
                return
        except (OSError, ValueError) as error:
            # It was accepted, and then nothing of use came: another program, or a path that eats data.
            link["outcome"] = "silent" if isinstance(error, socket.timeout) else "other"
            link["said"] = str(error)[:200]
            return
        link["outcome"], link["said"] = "reached", ""
        try:
            if link["mode"] == "ping":
                link["rtt_ms"] = ping(sock)
            elif link["mode"] == "bulk":
                link.update(give_bulk(sock, line))
        except (OSError, ValueError) as error:
            # Who does not answer a byte in time may stand still: that says nothing of long packets.
            link["stalled"], link["said"] = link["mode"] == "bulk", str(error)[:200]
        link["mtu"] = mtu(sock)


def _outcome(error: OSError) -> tuple[str, str]:
    said = error.strerror or str(error)
    if isinstance(error, socket.timeout) or error.errno == errno.ETIMEDOUT:
        return "timed_out", said
    if isinstance(error, socket.gaierror):
        return "unresolved", said
    if error.errno == errno.ECONNREFUSED:
        return "refused", said
    return ("no_route" if error.errno in _NO_ROUTE else "failed"), said
