"""Log lines and bars on a terminal and elsewhere, also from servers that mean harm."""

from __future__ import annotations

import re
import types
from typing import Any

import pytest

from remote_launch.cli import bars as bars_module
from remote_launch.cli import log_printer, output
from remote_launch.cli.bars import Bars, Row, columns_of, cut_to_columns
from remote_launch.cli.log_printer import Printer
from remote_launch.core.jobs import JobRecord
from remote_launch.operations.log_events import LogLine, Notice, Rest, Unfinished

ESC = "\x1b"
A = JobRecord(job_id="a" * 32, server="gpu-a", command="c")
B = JobRecord(job_id="b" * 32, server="long-name", command="c")


def line(text: str, job: JobRecord = A, rank: int | None = 0, stream: str = "stdout", **more: Any) -> LogLine:
    return LogLine(job=job, rank=rank, stream=stream, text=text, **more)


def bar(text: str, job: JobRecord = A, rank: int | None = 0) -> Unfinished:
    return Unfinished(job=job, rank=rank, stream="stderr", text=text)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    is_one = types.SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(log_printer, "sys", types.SimpleNamespace(stdout=is_one, stderr=is_one))
    monkeypatch.setattr(bars_module, "_DRAW_EVERY_S", 0.0)
    monkeypatch.setattr(bars_module, "_DRAW_AGAIN_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "24")


def screen(written: str) -> list[str]:
    """What a terminal shows of what was written: the few things that are used here."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\n|\r|[^\x1b\n\r]+|\x1b", written):
        if part == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part.startswith(ESC):
            row -= int(part[2:-1])
        elif part == f"{ESC}[J":
            rows[row] = rows[row][:column]
            del rows[row + 1 :]
        elif part.startswith(ESC):
            assert part.endswith("m"), part
        else:
            rows[row] = rows[row][:column] + part + rows[row][column + len(part) :]
            column += len(part)
    return rows


class TestPlain:
    def test_one_source_has_no_prefix(self, capsys: pytest.CaptureFixture[str]) -> None:
        printer = Printer([A], prefixes=False)
        for event in (line("one"), bar("50%"), line("two", stream="stderr"), bar("")):
            printer.show(event)
        assert capsys.readouterr().out == "one\ntwo\n"

    def test_prefixes_keep_their_columns(self, capsys: pytest.CaptureFixture[str]) -> None:
        printer = Printer([A, B], prefixes=True)
        for event in (line("x"), line("y", B, 15, "stderr"), line("z", B, None)):
            printer.show(event)
        assert capsys.readouterr().out.splitlines() == [
            "gpu-a:0      │ x", "long-name:15 ╎ y", "long-name:·  │ z"
        ]  # fmt: skip

    def test_only_what_matches_after_cleaning(self, capsys: pytest.CaptureFixture[str]) -> None:
        printer = Printer([A], prefixes=False, grep=re.compile("loss 0"))
        for text in (f"lo{ESC}[31mss 0.5", "lr 1", f"{ESC}]0;loss 0\x07lr 2", "loss 0.4"):
            printer.show(line(text))
        assert capsys.readouterr().out == "loss 0.5\nloss 0.4\n"

    def test_a_very_long_line_is_whole(self, capsys: pytest.CaptureFixture[str]) -> None:
        printer = Printer([A], prefixes=False)
        for text, goes_on in (("x" * 50_000, True), ("y" * 50_000, True), ("z", False), ("next", False)):
            printer.show(line(text, goes_on=goes_on))
        assert capsys.readouterr().out == "x" * 50_000 + "y" * 50_000 + "z\nnext\n"

    def test_a_restart_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        printer = Printer([A], prefixes=False)
        for event in (line("a"), line("b"), line("c", attempt=1), line("late"), line("d", attempt=1)):
            printer.show(event)
        shown = capsys.readouterr()
        assert shown.out == "a\nb\nc\nlate\nd\n"
        assert shown.err == "attempt 1: its log begins\n"

    def test_a_rest_that_all_nodes_tell_is_said_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        printer = Printer([A, B], prefixes=True)
        for job, attempt, why in ((A, 1, ""), (B, 1, ""), (A, 2, "rank 3 on gpu-b exited with 1\x1b[2J")):
            words = f"restart {attempt} of 3"
            printer.show(Rest(job=job, attempt=attempt, words=words, in_s=12.2, why=why))
        assert capsys.readouterr().err.splitlines() == [
            "restarting in 12 s: restart 1 of 3",
            "rank 3 on gpu-b exited with 1; restarting in 12 s: restart 2 of 3",
        ]


@pytest.mark.usefixtures("terminal")
class TestOnATerminal:
    def show(self, capsys: pytest.CaptureFixture[str], *events: Any, prefixes: bool = False) -> list[str]:
        printer = Printer([A, B], prefixes=prefixes)
        for event in events:
            printer.show(event)
        return screen(capsys.readouterr().out)

    def test_a_bar_stands_below_the_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        events = [bar("10%"), line("one", stream="stdout"), bar("20%"), line("two"), bar("30%")]
        assert self.show(capsys, *events) == ["one", "two", "30%"]

    def test_bars_of_several_ranks_are_below_each_other(self, capsys: pytest.CaptureFixture[str]) -> None:
        events = [bar("2%", B, 1), bar("1%", A, 0), bar("3%", A, 0), line("x", A, 0), bar("", B, 1)]
        shown = self.show(capsys, *events[:4], prefixes=True)
        assert shown == ["gpu-a:0      │ x", "gpu-a:0      ╎ 3%", "long-name:1  ╎ 2%"]
        assert self.show(capsys, *events, prefixes=True)[1:] == ["gpu-a:0      ╎ 3%"]

    def test_a_dumb_terminal_gets_lines_alone(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "dumb")
        printer = Printer([A], prefixes=False)
        for event in (bar("1%"), line("one"), bar("2%")):
            printer.show(event)
        assert capsys.readouterr().out == "one\n"

    def test_a_bar_becomes_its_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.show(capsys, bar("99%"), line("100%", stream="stderr"), bar("")) == ["100%", ""]

    def test_rows_are_cut_to_the_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        shown = self.show(capsys, bar("x" * 500), bar("中" * 500, B), line("end"))
        assert shown[0] == "end"
        assert all(columns_of(row) <= 39 for row in shown)

    def test_a_hundred_bars_do_not_fill_the_screen(self, capsys: pytest.CaptureFixture[str]) -> None:
        shown = self.show(capsys, *(bar(f"{rank}%", A, rank) for rank in range(100)))
        assert len(shown) == 8
        assert shown[-1] == "… and 93 more"

    def test_a_notice_takes_the_bars_away_first(self, capsys: pytest.CaptureFixture[str]) -> None:
        printer = Printer([A], prefixes=False)
        for event in (bar("1%"), Notice(server="gpu-a", text=f"lost{ESC}[2J")):
            printer.show(event)
        shown = capsys.readouterr()
        assert screen(shown.out) == [""]
        assert shown.err == "warning: lost\n"

    def test_a_line_of_fifty_megabytes_is_cut(self, capsys: pytest.CaptureFixture[str]) -> None:
        printer = Printer([A], prefixes=False)
        for _ in range(800):
            printer.show(line("x" * 65536, goes_on=True))
        printer.show(line("the rest"))
        printer.show(line("y" * 20_000))
        printer.show(line("next"))
        first, second, last, _ = screen(capsys.readouterr().out)
        assert first == "x" * 10_000 + " … (the line goes on: rl job-rsync, or write to a file)"
        assert second.startswith("y" * 10_000 + " … (10000 more characters")
        assert last == "next"

    def test_colours_end_with_their_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        Printer([A], prefixes=False).show(line(f"{ESC}[31mred"))
        assert capsys.readouterr().out == f"{ESC}[31mred{ESC}[0m\n"

    @pytest.mark.parametrize(
        "evil",
        [
            f"{ESC}]52;c;cm0gLXJm\x07", f"{ESC}]0;title\x07", f"{ESC}P$q\"p{ESC}\\", f"{ESC}[2J{ESC}[H",
            f"{ESC}[6n{ESC}[c{ESC}[5i", f"{ESC}[?1049h", f"{ESC}c", f"{ESC}(0", "\x9b2J", "\x9d0;t\x9c",
            f"{ESC}[9999A", f"{ESC}[31;{ESC}]0;x\x07m", "\x00\x7f\x85\u202eevil\u2066", "\x0e\x07\x08",
            f"{ESC}[38;2;{'1' * 9000}m",
        ],
    )  # fmt: skip
    def test_what_steers_a_terminal_never_comes_through(
        self, capsys: pytest.CaptureFixture[str], evil: str
    ) -> None:
        printer = Printer([A], prefixes=True)
        for event in (line(f"a{evil}b"), bar(f"a{evil}b"), line(evil * 3), bar(evil)):
            printer.show(event)
        written = capsys.readouterr().out
        ours = re.sub(r"\x1b\[(?:[0-9;:]*m|J|[1-8]A)", "", written)
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", ours)


class TestBars:
    def test_it_draws_no_more_often_than_it_should(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bars_module, "_DRAW_EVERY_S", 1000.0)
        bars = Bars()
        bars.set((0, 0), [Row("", "1%")])
        assert bars.draw() == "1%"
        bars.set((0, 0), [Row("", "2%")])
        assert bars.draw() == ""
        assert bars.draw(now=True).endswith("2%")
        assert bars.draw(now=True) == ""

    @pytest.mark.parametrize(
        ("text", "columns", "cut"),
        [("abc", 2, "ab"), ("中文字", 4, "中文"), ("中文字", 5, "中文"), ("e\u0301x", 1, "e\u0301"),
         ("a\tb", 9, "a   b"), ("x", 0, ""), ("x", -3, "")],
    )  # fmt: skip
    def test_cutting(self, text: str, columns: int, cut: str) -> None:
        assert cut_to_columns(text, columns) == cut


def test_halves_of_characters_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON from a server may hold them; stdout can't."""
    assert output.clean("a\ud800b\udfffc") == "abc"
    output.emit_json("x", {"text": "a\ud800b"})
    assert '"a\\ud800b"' in capsys.readouterr().out
