"""What a stranger can have a connection hold in memory."""

from __future__ import annotations

import socket

import pytest

from remote_launch.remote.link import HELLO_LIMIT_BYTES, Link, LinkError


def test_a_stranger_is_dropped_once_its_hello_has_no_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(ours, "x", "t" * 32)
        theirs.sendall(b"x" * HELLO_LIMIT_BYTES)
        assert link.lines() == []
        theirs.sendall(b"x")
        with pytest.raises(LinkError, match="without an end"):
            link.lines()


def test_who_knows_the_token_may_say_more() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        door, caller = Link(ours, "x", "t" * 32), Link(theirs, "x", "t" * 32)
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
