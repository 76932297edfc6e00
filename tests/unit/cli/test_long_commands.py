"""Commands of any length, on a screen."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from remote_launch.cli import output

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_command_in_a_sentence_is_one_line_and_is_cut() -> None:
    assert output.headline("python  -c 'a\n\x1b[2Jb'") == "python -c 'a b'"
    assert output.headline("echo " + "x" * 100_000) == "echo " + "x" * 395 + " …"


def test_a_table_on_a_terminal_does_not_scroll_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "80")
    rows = output.Rows("key", "command")
    rows.add_row("1", "echo " + "x" * 100_000)
    rows.show()
    assert len(screen.getvalue().splitlines()) < 15
    assert "…" in screen.getvalue()


def test_a_table_elsewhere_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows = output.Rows("key", "command")
    rows.add_row("1", "echo " + "x" * 100_000)
    rows.show()
    assert "x" * 100_000 in capsys.readouterr().out
