"""Bytes to lines: whatever the cuts, whatever a progress bar does."""

from __future__ import annotations

import pytest

from remote_launch.operations import lines
from remote_launch.operations.lines import PIECE_BYTES, Lines

UP = "\x1b[A"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lines, "time", made)
    return made


class Shown:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.cut: list[bool] = []
        self.drawn: list[str] = []
        self.lines: Lines[str] = Lines(self.show, lambda source, text: self.drawn.append(f"{source}:{text}"))

    def show(self, source: str, text: str, goes_on: bool) -> None:
        self.texts.append(f"{source}:{text}")
        self.cut.append(goes_on)

    def add(self, *texts: str) -> None:
        for text in texts:
            self.lines.add("a", text.encode())

    def end(self) -> list[str]:
        self.lines.flush(lambda _: True)
        return [text.partition(":")[2] for text in self.texts]


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

    def test_a_line_without_an_end_comes_in_pieces(self, shown: Shown) -> None:
        for _ in range(10):
            shown.lines.add("a", "é".encode() * 10_000 + b"x")
        shown.add("\nnext\n")
        assert "".join(text[2:] for text in shown.texts) == ("é" * 10_000 + "x") * 10 + "next"
        assert shown.cut == [True] * (len(shown.texts) - 2) + [False, False]

    def test_fifty_megabytes_without_a_newline_are_not_kept(self, shown: Shown) -> None:
        for _ in range(800):
            shown.lines.add("a", b"x" * 65536)
        assert sum(map(len, shown.texts)) >= 800 * 65536 - PIECE_BYTES
        assert max(map(len, shown.texts)) <= 3 * PIECE_BYTES


class TestUnfinished:
    def test_a_prompt_is_drawn_after_a_while_and_is_a_line_once_it_ends(
        self, shown: Shown, clock: Clock
    ) -> None:
        shown.add("continue? ")
        shown.lines.draw_due()
        assert shown.drawn == []
        clock.now += 1.5
        shown.lines.draw_due()
        shown.lines.draw_due()
        assert shown.drawn == ["a:continue? "]
        shown.add("yes\n")
        assert (shown.texts, shown.drawn[1:]) == (["a:continue? yes"], ["a:"])

    def test_a_character_that_is_still_coming_is_waited_for(self, shown: Shown, clock: Clock) -> None:
        rocket = "🚀".encode()
        for count in (1, 2, 3):
            shown.lines.add("a", b"go " + rocket[:count])
            clock.now += 2
            shown.lines.draw_due()
            shown.lines.add("a", rocket[count:] + b"\n")
        assert shown.drawn == ["a:go ", "a:"] * 3
        assert shown.texts == ["a:go 🚀"] * 3


class TestBars:
    def test_a_bar_is_one_line_its_last_drawing(self, shown: Shown) -> None:
        shown.add(" 10%\r 50%\r100%\r\n", "windows\r\n")
        assert shown.texts == ["a:100%", "a:windows"]

    @pytest.mark.parametrize("form", ["\r{}%", "{}%\r"])
    def test_ten_thousand_redraws_are_some_drawings_and_one_line(
        self, shown: Shown, clock: Clock, form: str
    ) -> None:
        for step in range(10_001):
            shown.add(form.format(step / 100))
            clock.now += 0.01
            shown.lines.draw_due()
        assert shown.texts == []
        assert 200 <= len(shown.drawn) <= 260  # in 100 s
        shown.add("\n")
        assert shown.texts == ["a:100.0%"]

    def test_what_a_bar_has_drawn_is_not_kept(self, shown: Shown) -> None:
        shown.add(*(f"\r{step}" + "#" * 1000 for step in range(1000)))
        assert shown.end() == ["999" + "#" * 1000]

    def test_a_line_written_above_a_bar(self, shown: Shown, clock: Clock) -> None:
        """As tqdm.write does."""
        shown.add("\r 10%")
        clock.now += 1
        shown.lines.draw_due()
        shown.add("\r    \rloss 0.5\n\r 11%")
        assert (shown.texts, shown.drawn) == (["a:loss 0.5"], ["a: 10%", "a: 11%"])
        assert shown.end() == ["loss 0.5", " 11%"]


def nested(outer: int, inner: int) -> str:
    """What tqdm writes at a step of the inner of two bars."""
    return f"\r outer {outer}%\n\r inner {inner}%{UP}"


class TestBarsBelowEachOther:
    def test_redraws_are_no_lines(self, shown: Shown, clock: Clock) -> None:
        for step in range(500):
            shown.add(nested(step // 100, step % 100))
            clock.now += 0.1
            shown.lines.draw_due()
        assert len(shown.texts) <= 1
        assert shown.drawn[-1] == "a: outer 4%\n inner 99%"
        assert shown.end()[-2:] == [" outer 4%", " inner 99%"]

    def test_every_cut_gives_the_same(self, clock: Clock) -> None:
        text = "start\n" + nested(0, 1) + nested(0, 2) + f"\n\r      {UP}\r    \rword é\n" + nested(1, 0)
        stream = (text + "\n\nend\n").encode()
        whole = Shown()
        whole.lines.add("a", stream)
        expected = whole.end()
        assert expected[0] == "start"
        assert "word é" in expected
        assert expected[-1] == "end"
        for cut in range(1, len(stream)):
            parts = Shown()
            parts.lines.add("a", stream[:cut])
            parts.lines.add("a", stream[cut:])
            # The first cursor-up may come after its bar's first line was taken for one.
            assert [line for line in parts.end() if "outer 0" not in line] == [
                line for line in expected if "outer 0" not in line
            ]

    def test_lines_are_lines_again_once_the_cursor_rests(self, shown: Shown, clock: Clock) -> None:
        shown.add(nested(0, 1))
        clock.now += 3
        shown.add("\n\n", "one\n", "two\n")
        assert shown.texts[-2:] == ["a:one", "a:two"]

    @pytest.mark.parametrize("up", ["\x1b[999A", "\x1b[0A", "\x1b[A" * 5000, "\x1b[64F"])
    def test_a_hostile_cursor_takes_no_memory_and_loses_no_line(self, shown: Shown, up: str) -> None:
        for number in range(50):
            shown.add(up, f"line {number}\n")
        assert "line 49" in shown.end()
        assert len(shown.texts) < 200
