"""What strangers can have a supervisor hold in memory, and that they keep nobody out."""

from __future__ import annotations

import contextlib
import selectors
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from remote_launch.remote.door import PENDING_LIMIT, Door
from remote_launch.remote.gang import GangSettings
from remote_launch.remote.link import HELLO_LIMIT_BYTES, Link, LinkError
from tests.support.served import until

TOKEN = "t" * 32


def test_a_stranger_is_dropped_once_its_hello_has_no_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(ours, "x", TOKEN)
        theirs.sendall(b"x" * HELLO_LIMIT_BYTES)
        assert link.lines() == []
        theirs.sendall(b"x")
        with pytest.raises(LinkError, match="without an end"):
            link.lines()


def test_who_knows_the_token_may_say_more() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        door, caller = Link(ours, "x", TOKEN), Link(theirs, "x", TOKEN)
        door.challenge()
        caller.answer(caller.lines()[0], 1)
        door.accept_hello(door.lines()[0], 2)
        caller.accept_welcome(caller.lines()[0], 1)
        text = "x" * 10 * HELLO_LIMIT_BYTES
        caller.send("ended", {"tail": text})
        lines: list[bytes] = []
        while not lines:
            caller.flush()
            lines = door.lines()
        assert door.open(lines[0])["tail"] == text


def test_hundreds_of_strangers_keep_no_member_out() -> None:
    said: list[str] = []
    came: list[Any] = []
    host = SimpleNamespace(selector=selectors.DefaultSelector(), log=said.append)
    gang = {"nnodes": 2, "address": "127.0.0.1", "port": 40000, "token": TOKEN}
    settings = GangSettings({"gang": gang, "node_rank": 1, "launch_id": "x"})
    door = Door(settings, host, lambda link, lines: came.append(link), ("127.0.0.1", 0))  # type: ignore[arg-type]

    def turn() -> None:
        for key, events in host.selector.select(0.01):
            key.data(events)

    with contextlib.ExitStack() as stack:
        for number in range(5 * PENDING_LIMIT):
            stranger = stack.enter_context(socket.create_connection(("127.0.0.1", door.port)))
            if number % 2:
                stranger.sendall(b"x" * (HELLO_LIMIT_BYTES // 2))  # others sit and are silent
            turn()
        until(lambda: turn() or door.refused >= 4 * PENDING_LIMIT, "the oldest are dropped")
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", door.port)))
        member = Link(sock, "x", TOKEN)
        member.answer(until(lambda: turn() or member.lines(), "the challenge")[0], 1)
        until(lambda: turn() or came, "it joins")
        assert came[0].node == 1
        assert len(door._pending) <= PENDING_LIMIT
        assert len(said) < 20
        came[0].close()
    door.close()
    host.selector.close()
