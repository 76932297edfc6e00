"""What goes to the terminal: cleaned of what servers might send, and written alike everywhere."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from remote_launch.cli import output
from remote_launch.cli.output import clean, duration_text, plural, size_text, time_text
from remote_launch.errors import ConnectTimeoutError
from remote_launch.operations.fanout import Outcome, Outcomes

ESC = "\x1b"


class TestClean:
    @pytest.mark.parametrize(
        ("text", "safe"),
        [
            ("plain zwölf 🚀\ttab\nline", "plain zwölf 🚀\ttab\nline"),
            (f"{ESC}]0;new title\x07after", "after"),
            (f"{ESC}]0;new title{ESC}\\after", "after"),
            (f"{ESC}]8;;http://x\x07link{ESC}]8;;\x07", "link"),
            (f"{ESC}]52;c;cm0gLXJm\x07", ""),
            (f"{ESC}]0;unterminated", ""),
            (f"a{ESC}[2Jb{ESC}[10;10Hc{ESC}[?1049hd{ESC}[6ne", "abcde"),
            (f"{ESC}[>4;1mx{ESC}[1;2 qy{ESC}[!p", "xy"),
            (f"{ESC}P1$r0m{ESC}\\after", "after"),
            (f"{ESC}_apc{ESC}\\{ESC}^pm{ESC}\\{ESC}Xsos{ESC}\\x", "x"),
            (f"{ESC}cx", "x"),
            (f"x{ESC}", "x"),
            (f"{ESC}{ESC}[2Jx", "[2Jx"),
            ("a\x9b2Jb\x9d0;t\x9cc\x90d", "a2Jb0;tcd"),
            ("bell\x07 back\x08 nul\x00 del\x7f vt\x0b ff\x0c cr\r", "bell back nul del vt ff cr"),
        ],
    )
    @pytest.mark.parametrize("colour", [True, False])
    def test_what_steers_a_terminal_goes(self, text: str, safe: str, colour: bool) -> None:
        assert clean(text, colour=colour) == safe

    def test_colours_stay_when_asked(self) -> None:
        text = f"{ESC}[1;31mred{ESC}[0m {ESC}[38;2;1;2;3mrgb{ESC}[38:5:1mx{ESC}[m"
        assert clean(text, colour=True) == text
        assert clean(text, colour=False) == "red rgbx"

    def test_without_a_terminal_they_go(self) -> None:
        assert clean(f"{ESC}[31mred") == "red"

    @pytest.mark.parametrize(
        "hidden", [f"{ESC}[3\x001m", f"{ESC}\x1b]0;x\x07", f"{ESC}[{ESC}[2J", f"{ESC}[31"]
    )
    def test_what_is_left_is_no_sequence(self, hidden: str) -> None:
        for colour in (True, False):
            assert ESC not in clean(hidden, colour=colour)

    def test_cleaning_twice_changes_nothing(self) -> None:
        text = f"{ESC}{ESC}]{ESC}[2J]0;x\x07\x9b{ESC}[31m"
        assert clean(clean(text, colour=True), colour=True) == clean(text, colour=True)

    def test_a_warning_may_have_a_servers_words_in_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.warn(f"port 20000 can't be listened on: {ESC}]52;c;eA==\x07in use")
        assert capsys.readouterr().err == "warning: port 20000 can't be listened on: in use\n"


class TestTexts:
    @pytest.mark.parametrize(
        ("size", "text"),
        [
            (None, "–"), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_500_000, "1.5 MB"), (2.5e9, "2.5 GB"),
            (3e12, "3.0 TB"), (4e15, "4000.0 TB"), (999_600, "1.0 MB"), (999.7, "1 kB"),
            (999_960_000, "1.0 GB"),
        ],
    )  # fmt: skip
    def test_sizes(self, size: float | None, text: str) -> None:
        assert size_text(size) == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (None, "–"), (0, "0.0 s"), (3.24, "3.2 s"), (9.94, "9.9 s"), (9.96, "10 s"), (10, "10 s"),
            (59.7, "1:00"),
            (245, "4:05"), (3600, "1:00:00"), (86399, "23:59:59"), (2 * 86400 + 3 * 3600 + 600, "2d 03:10"),
        ],
    )  # fmt: skip
    def test_durations(self, seconds: float | None, text: str) -> None:
        assert duration_text(seconds) == text

    def test_times_have_a_date_unless_they_are_todays(self) -> None:
        now = dt.datetime.now().astimezone()
        assert time_text(now.timestamp()) == now.strftime("%H:%M:%S")
        assert time_text(86400.0 * 365).startswith("1971-01-0")
        assert time_text(None) == time_text(0) == "–"

    def test_plural(self) -> None:
        assert [plural(n, "server") for n in (0, 1, 2)] == ["0 servers", "1 server", "2 servers"]


class TestEnvelope:
    def test_keys(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.emit_json("servers", [{"name": "zwölf"}])
        text = capsys.readouterr().out
        assert text.count("\n") == 1
        assert "zwölf" in text
        expected = {
            "version": 1,
            "command": "servers",
            "status": "ok",
            "data": [{"name": "zwölf"}],
            "errors": [],
        }
        assert json.loads(text) == expected
        assert list(json.loads(text)) == ["version", "command", "status", "data", "errors"]

    def test_outcomes(self, capsys: pytest.CaptureFixture[str]) -> None:
        error = ConnectTimeoutError("b", "no answer", hint="is it on?")
        assert output.emit_outcomes("rsync", Outcomes([Outcome("a", 1), Outcome("b", error=error)]), [1]) == 3
        envelope = json.loads(capsys.readouterr().out)
        assert (envelope["status"], envelope["data"]) == ("partial", [1])
        assert envelope["errors"][0]["server"] == "b"


def test_tables_without_a_terminal_are_neither_cut_nor_coloured(capsys: pytest.CaptureFixture[str]) -> None:
    rows = output.Rows("name", "command")
    rows.add_row("x", "word " * 200)
    rows.show()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].count("word") == 200
    assert ESC not in "".join(lines)


def test_no_cell_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = output.Rows("a", "b")
    rows.add_row("x\x1b[2J", output.Cell("\x1b]0;title\x07y"))
    rows.show()
    assert capsys.readouterr().out.splitlines()[1] == "x  y"


class TestTables:
    ROW = ("12", "gpu-a +2", "RUNNING (attempt 1)", "18:50:39", "train.py, distributed, torch", "x" * 30)

    def lines(self, width: int) -> list[str]:
        from rich.console import Console

        rows = output.Rows("key", "server", "state", "started", "tags", "command")
        rows.add_row(*self.ROW)
        console = Console(width=width)
        with console.capture() as capture:
            console.print(rows.table(width))
        return capture.get().splitlines()

    def test_what_is_short_is_not_wrapped_for_what_is_long(self) -> None:
        shown = self.lines(75)
        assert all(len(line) <= 75 for line in shown)
        assert any("gpu-a +2" in line and "18:50:39" in line for line in shown)

    @pytest.mark.parametrize("width", [20, 40, 60, 200])
    def test_nothing_is_cut_however_narrow_it_is(self, width: int) -> None:
        shown = "".join("".join(self.lines(width)).split())
        for character in "12RUNNINGx":
            assert character in shown
        assert shown.count("x") == 30
