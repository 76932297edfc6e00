"""Frames out of bytes, and lines out of chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from remote_launch.operations.frames import MAX_BODY_BYTES, Frames

Frame = tuple[dict[str, Any], bytes]


def frame(body: bytes = b"", **header: Any) -> bytes:
    return json.dumps({"job": "j", "length": len(body), **header}).encode() + b"\n" + body


def parse(stream: bytes, *, chunk: int | None = None, cut: int | None = None) -> list[Frame]:
    found: list[Frame] = []
    parser = Frames(lambda header, body: found.append((dict(header), body)))
    if cut is not None:
        parser.feed(stream[:cut])
        parser.feed(stream[cut:])
    else:
        size = chunk or len(stream) or 1
        for at in range(0, len(stream), size):
            parser.feed(stream[at : at + size])
    return found


class TestFrames:
    STREAM = frame("zwölf\nLines\n".encode(), file="a") + frame(ping=1) + frame(b'{"job": "x"}\n\n', file="b")

    def test_a_cut_at_any_byte_changes_nothing(self) -> None:
        whole = parse(self.STREAM)
        assert [body for _, body in whole] == ["zwölf\nLines\n".encode(), b"", b'{"job": "x"}\n\n']
        for cut in range(len(self.STREAM)):
            assert parse(self.STREAM, cut=cut) == whole
        assert parse(self.STREAM, chunk=1) == whole

    @pytest.mark.parametrize(
        "noise",
        [
            b"Welcome to gpu-a\nLast login: never\n",
            b"\n\n\r\n",
            b"{}\n[]\n3\nnull\n",
            b"\xff\xfe\x00\x01\n",
            b'{"motd": "job"}\n',
            b"[" * 15000 + b"\n",
            b"x" * 40000 + b"\n",
        ],
    )
    def test_noise_before_a_frame_is_skipped(self, noise: bytes) -> None:
        for chunk in (None, 7, 4096):
            assert parse(noise + frame(b"hello", file="a"), chunk=chunk)[0][1] == b"hello"

    @pytest.mark.parametrize("length", [-1, "5", 1.5, True, [5], MAX_BODY_BYTES + 1, 10**30])
    def test_a_length_that_is_none_makes_no_frame(self, length: Any) -> None:
        assert parse(frame(length=length) + frame(b"good", file="a"))[-1][1] == b"good"
        assert len(parse(frame(length=length))) == 0

    def test_a_line_that_never_ends_is_not_kept(self) -> None:
        parser = Frames(lambda *_: None)
        for _ in range(100):
            parser.feed(b"x" * 10_000)
        assert len(parser._buffer) < 40_000

    def test_no_length_is_no_body(self) -> None:
        assert parse(b'{"job": "j", "end": true}\n' + b'{"job": "j", "length": null}\n') == [
            ({"job": "j", "end": True}, b""),
            ({"job": "j", "length": None}, b""),
        ]
