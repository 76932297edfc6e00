"""Ctrl-C while the logs are shown."""

from __future__ import annotations

import os
import pty
import signal
import termios
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.cli import following
from remote_launch.core.jobs import JobRecord
from remote_launch.operations.log_events import LogLine, Selection

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = JobRecord(job_id="0" * 32, server="a", command="c")


class Interrupted:
    """A follower in whose first wait the user presses Ctrl-C."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __enter__(self) -> Interrupted:
        return self

    def __exit__(self, *_: object) -> None: ...
    def __iter__(self) -> Interrupted:
        return self

    def __next__(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("asks", "asked"), [(True, 1), (False, 0)])
def test_who_launched_is_asked_and_who_looked_on_leaves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asks: bool, asked: int
) -> None:
    questions: list[int] = []
    monkeypatch.setattr("remote_launch.operations.follow.Follower", Interrupted)
    monkeypatch.setattr(following, "_ask_at_interrupt", lambda: questions.append(1) or "detach")
    code = following.follow_to_end(None, [JOB], as_json=False, selection=Selection(lines=0), asks=asks)  # type: ignore[arg-type]
    assert (code, len(questions)) == (130, asked)
    assert "the jobs go on" in capsys.readouterr().err


class InterruptedOnTheWay(Interrupted):
    """A follower of three lines; the user presses Ctrl-C when one has been taken and is not shown yet."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.left = ["0", "1", "2"]

    def __next__(self) -> LogLine:  # type: ignore[override]
        if not self.left:
            raise StopIteration
        text = self.left.pop(0)
        if text != "2":
            os.kill(os.getpid(), signal.SIGINT)
        return LogLine(job=JOB, rank=None, stream="stdout", text=text)


def test_a_line_on_its_way_to_the_screen_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = ["continue", "detach"]
    monkeypatch.setattr("remote_launch.operations.follow.Follower", InterruptedOnTheWay)
    monkeypatch.setattr(following, "_ask_at_interrupt", lambda: answers.pop(0))
    assert following.follow_to_end(None, [JOB], as_json=False, selection=Selection(lines=0)) == 130  # type: ignore[arg-type]
    assert capsys.readouterr().out.split() == ["0", "1"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_that_comes_before_the_question_detaches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("remote_launch.operations.follow.Follower", Interrupted)
    monkeypatch.setattr(following, "_ask_at_interrupt", interrupted)
    assert following.follow_to_end(None, [JOB], as_json=False, selection=Selection(lines=0)) == 130  # type: ignore[arg-type]
    assert "detached; the jobs go on" in capsys.readouterr().err


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A terminal that is ours to set."""
    master, slave = pty.openpty()
    with open(slave) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr(following, "_has_terminal", lambda: True)
        yield slave
    os.close(master)


def test_the_terminal_keeps_output_as_long_as_it_is_followed(terminal: int) -> None:
    """What another program has set meanwhile (a pager, behind a pipe) stays."""
    with following._terminal_keeps_output():
        during = termios.tcgetattr(terminal)
        assert during[3] & termios.NOFLSH
        during[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSANOW, during)
    assert not termios.tcgetattr(terminal)[3] & (termios.NOFLSH | termios.ECHO)


def test_a_terminal_that_is_set_so_stays_so(terminal: int) -> None:
    before = termios.tcgetattr(terminal)
    before[3] |= termios.NOFLSH
    termios.tcsetattr(terminal, termios.TCSANOW, before)
    with following._terminal_keeps_output():
        pass
    assert termios.tcgetattr(terminal) == before


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), following._Interrupts():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")
