"""Log lines on the terminal, with prefixes, until the jobs end; what Ctrl-C means meanwhile; the verdict."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.log_printer import Printer
from remote_launch.cli.notifying import notify_local

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from remote_launch.core.jobs import JobRecord
    from remote_launch.core.verdict import Verdict
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.log_events import Selection


def has_several_sources(jobs: Sequence[JobRecord], ranks: tuple[int, ...] | None) -> bool:
    """True when lines of more than one process may come: then each needs its prefix. One rank is one
    process, wherever it runs."""
    if jobs[0].launch_id is not None and ranks is not None:
        return len(ranks) > 1
    return len(jobs) > 1 or jobs[0].launch_id is not None


def follow_to_end(
    fleet: Fleet,
    jobs: Sequence[JobRecord],
    *,
    as_json: bool,
    selection: Selection,
    watched: Sequence[JobRecord] | None = None,
    grep: re.Pattern[str] | None = None,
    asks: bool = True,
    then: str | None = None,
) -> int:
    """Show the logs of ``watched`` (default: all ``jobs``) until they end, those lines that match ``grep``;
    then the verdict of ``jobs``, of which the command ``then`` is told. Return its exit code.

    With ``asks``, Ctrl-C on a terminal asks: detach, kill or go on; a second one detaches. Else it detaches.
    """
    from remote_launch.operations.follow import Follower
    from remote_launch.operations.kill import kill_jobs
    from remote_launch.operations.wait import wait_jobs

    shown = list(watched or jobs)
    several = has_several_sources(shown, selection.ranks)
    printer = Printer(shown, prefixes=several, err=as_json, grep=grep)
    interrupts = _Interrupts()

    def on_rest() -> None:
        printer.rest()
        interrupts.look()

    shows = (sys.stderr if as_json else sys.stdout).isatty()
    with (
        _terminal_keeps_output() if asks and shows else contextlib.nullcontext(),
        Follower(fleet, shown, selection, on_rest=on_rest) as events,
    ):
        while True:
            try:
                with interrupts:
                    for event in events:
                        printer.show(event)
                        interrupts.look()
                break
            except KeyboardInterrupt:
                answer = _what_now(printer, asks=asks)
            if answer == "kill":
                output.show_failures(one.failure for one in kill_jobs(fleet, jobs) if one.failure)
                break
            if answer == "detach":
                output.say("detached; the jobs go on. rl job-tail takes up again, rl job-kill stops them")
                return 130
    printer.clear()
    current, verdict = wait_jobs(fleet, jobs)
    if as_json:
        told = {"verdict": verdict.to_dict(), "jobs": [job.to_dict() for job in current]}
        output.emit_json("torch-launch", told)
    else:
        show_verdict(current, verdict)
    notify_local(then, current, verdict)
    return verdict.exit_code


class _Interrupts:
    """Ctrl-C within a ``with`` waits until ``look`` raises it: where it comes, it would take an event with it
    that is on its way to the screen. A second one doesn't wait."""

    def __init__(self) -> None:
        self._noted = False

    def __enter__(self) -> Self:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, and stays so
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if kind is None:
            self.look()

    def look(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C came."""
        if self._noted:
            self._noted = False
            raise KeyboardInterrupt

    def _note(self, *_: object) -> None:
        self.look()
        self._noted = True


def _has_terminal() -> bool:
    """True when the terminal is ours to set and to ask on: in the background both would stop us."""
    try:
        is_one = sys.stdin.isatty() and sys.stderr.isatty()
        return is_one and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # a terminal, though not the one we were started from
        return False


@contextlib.contextmanager
def _terminal_keeps_output() -> Iterator[None]:
    """Have the terminal show all it was sent: at a Ctrl-C it would throw away what it has not shown yet, some
    kilobytes on a slow line, and the user may go on."""
    if not _has_terminal():
        yield
        return
    before = _set_keeps_output(True)
    try:
        yield
    finally:
        if _has_terminal():
            _set_keeps_output(before)


def _set_keeps_output(keeps: bool) -> bool:
    """Set that alone of the terminal: the rest may be another program's. Return whether it was so."""
    import termios

    modes = termios.tcgetattr(sys.stdin)
    kept = bool(modes[3] & termios.NOFLSH)
    modes[3] = modes[3] | termios.NOFLSH if keeps else modes[3] & ~termios.NOFLSH
    termios.tcsetattr(sys.stdin, termios.TCSANOW, modes)
    return kept


def _what_now(printer: Printer, *, asks: bool) -> str:
    """Return detach, kill or continue."""
    try:
        printer.clear()
        return _ask_at_interrupt() if asks else "detach"
    except KeyboardInterrupt:  # before there was anything to answer
        return "detach"


def _ask_at_interrupt() -> str:
    if not _has_terminal():
        return "detach"
    import termios

    termios.tcflush(sys.stdin, termios.TCIFLUSH)  # what was typed before is no answer
    try:
        answer = click.prompt(
            "\nthe jobs are running: [d]etach, [k]ill them, [c]ontinue",
            default="d",
            show_default=True,
            err=True,
            type=click.Choice(["d", "k", "c"], case_sensitive=False),
            show_choices=False,
        )
    except (click.Abort, KeyboardInterrupt):
        output.say("")  # the terminal has written ^C
        return "detach"
    return {"d": "detach", "k": "kill", "c": "continue"}[str(answer).lower()]


def show_verdict(jobs: Sequence[JobRecord], verdict: Verdict) -> None:
    """Say in one line on stderr what the jobs came to; after a failure also the last lines of the rank that
    was first."""
    keys = ", ".join(str(job.key) for job in jobs)
    durations = [job.duration_s for job in jobs if job.duration_s is not None]
    noun = "job" if len(jobs) == 1 else "jobs"
    text = f"{noun} {keys}: {verdict.state}"
    if durations:  # else it never ran, or when it ended isn't known
        text += f" after {output.duration_text(max(durations))}"
    if verdict.text.upper() != verdict.state.value:  # "KILLED: killed" says it twice
        text += f": {output.clean(verdict.text, colour=False)}"
    output.say(text, style=output.STATE_STYLES[verdict.state.value])
    for line in output.last_words((verdict.cause or {}).get("tail")):
        output.say(f"    {output.clean(line, colour=False)}")
