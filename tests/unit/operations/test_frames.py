"""Frames out of bytes, and lines out of chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from remote_launch.operations import frames
from remote_launch.operations.frames import MAX_BODY_BYTES, Frames, Lines

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


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(frames, "time", made)
    return made


class Shown:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.lines: Lines[str] = Lines(lambda source, text: self.texts.append(f"{source}:{text}"))


@pytest.fixture
def shown(clock: Clock) -> Shown:
    return Shown()


class TestLines:
    def test_chunks_become_lines_whatever_their_cuts(self, shown: Shown) -> None:
        text = "eins\nzwölf €\n\n🚀 go\n".encode()
        for at in range(len(text)):
            shown.lines.add("a", text[at : at + 1])
        assert shown.texts == ["a:eins", "a:zwölf €", "a:", "a:🚀 go"]

    def test_sources_do_not_mix(self, shown: Shown) -> None:
        shown.lines.add("a", b"one ")
        shown.lines.add("b", b"two ")
        shown.lines.add("a", b"three\n")
        shown.lines.flush(lambda source: source == "b")
        assert shown.texts == ["a:one three", "b:two "]

    def test_bytes_that_are_no_utf8_are_replaced(self, shown: Shown) -> None:
        shown.lines.add("a", b"\xff\xfe ok \xe2\x82\n")
        assert shown.texts == ["a:�� ok �"]

    def test_a_progress_bar_is_its_last_drawing(self, shown: Shown) -> None:
        shown.lines.add("a", b" 10%\r 50%\r100%\r\n")
        shown.lines.add("a", b"windows\r\n")
        assert shown.texts == ["a:100%", "a:windows"]

    def test_a_prompt_is_shown_after_a_while_and_not_again(self, shown: Shown, clock: Clock) -> None:
        shown.lines.add("a", b"continue? ")
        shown.lines.show_old_partials()
        assert shown.texts == []
        clock.now += 1.5
        shown.lines.show_old_partials()
        shown.lines.show_old_partials()
        assert shown.texts == ["a:continue? "]
        shown.lines.add("a", b"yes\n")
        assert shown.texts[1:] == ["a:yes"]

    def test_a_bar_that_never_rests_is_shown_too(self, shown: Shown, clock: Clock) -> None:
        for step in range(20):
            shown.lines.add("a", f"\r{step}".encode())
            clock.now += 0.1
            shown.lines.show_old_partials()
        assert shown.texts == ["a:10"]

    def test_a_character_that_is_still_coming_is_waited_for(self, shown: Shown, clock: Clock) -> None:
        for count in (1, 2, 3):
            shown.texts.clear()
            rocket = "🚀".encode()
            shown.lines.add("a", b"go " + rocket[:count])
            clock.now += 2
            shown.lines.show_old_partials()
            shown.lines.add("a", rocket[count:] + b"\n")
            assert shown.texts == ["a:go ", "a:🚀"]

    def test_a_line_without_an_end_is_shown_in_pieces(self, shown: Shown) -> None:
        for _ in range(10):
            shown.lines.add("a", "é".encode() * 10_000 + b"x")
        shown.lines.flush(lambda _: True)
        assert "".join(text[2:] for text in shown.texts) == ("é" * 10_000 + "x") * 10
        assert len(shown.texts) > 1
