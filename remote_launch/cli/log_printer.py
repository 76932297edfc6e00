"""Log lines as people read them: prefixes, colours, bars below them, and nothing that steers the terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.bars import Bars, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.log_events import Event, LogLine, Rest, Unfinished

_LONGEST_ON_TERMINAL = 10_000  # characters of one line: some screens
_RANKS_A_NODE = 8  # as far as the width of a prefix goes
_RESET = "\x1b[0m"
_CUT_COLOUR = re.compile(r"\x1b[^m]*\Z")


class Printer:
    """Prints events: a line with its ``server:rank`` prefix when there is more than one source, notices on
    stderr; with ``err`` all of it, for stdout is the JSON's. With ``grep``, only the lines that match."""

    def __init__(
        self,
        jobs: Sequence[JobRecord],
        *,
        prefixes: bool,
        err: bool = False,
        grep: re.Pattern[str] | None = None,
    ) -> None:
        self._servers = list(dict.fromkeys(job.server for job in jobs))
        self._server_width = max(map(len, self._servers), default=0)
        self._rank_width = len(str(len(jobs) * _RANKS_A_NODE - 1))
        self._prefixes = prefixes
        self._err = err
        self._grep = grep
        self._terminal = (sys.stderr if err else sys.stdout).isatty()
        self._draws = self._terminal and grep is None and os.environ.get("TERM") != "dumb"
        self._bars = Bars()
        self._continued: set[tuple[int | str, ...]] = set()
        self._attempt: int | None = None
        self._rested_for = 0  # the attempt that a rest was told for
        self.failed = False

    def show(self, event: Event) -> None:
        """Print one event; ends are left to the verdict."""
        from remote_launch.operations.log_events import LogLine, Notice, Rest, Unfinished

        if isinstance(event, LogLine):
            self._show_line(event)
        elif isinstance(event, Unfinished):
            if self._draws:
                self._bars.set(self._source(event), self._rows(event))
                self._write(self._bars.draw())
        elif isinstance(event, Rest):
            self._say_rest(event)
        elif isinstance(event, Notice):
            self.failed = self.failed or event.error is not None
            self.clear()
            output.warn(output.clean(event.text, colour=False))

    def rest(self) -> None:
        """Nothing is coming just now: bring the bars up to date."""
        self._write(self._bars.draw(now=True))

    def clear(self) -> None:
        """Take the bars off the screen: something else is about to be printed."""
        self._write(self._bars.erase())

    def _show_line(self, line: LogLine) -> None:
        self._say_attempt(line)
        source = self._source(line)
        is_rest = source in self._continued
        (self._continued.add if line.goes_on else self._continued.discard)(source)
        if is_rest and self._terminal:
            return  # of a line that doesn't end: its beginning was shown
        text = output.clean(line.text, colour=self._terminal)
        if self._grep is not None and not self._grep.search(output.clean(line.text, colour=False)):
            return
        if self._terminal:
            text = _for_terminal(text, goes_on=line.goes_on)
        prefix = self._prefix(line)
        if self._prefixes and self._terminal:
            prefix = click.style(prefix, fg=self._colour(line), dim=line.stream == "stderr")
        end = "" if line.goes_on and not self._terminal and not self._prefixes else "\n"
        self._bars.set(source, ())
        self._write(self._bars.erase() + prefix + text + end + self._bars.draw())

    def _say_attempt(self, line: LogLine) -> None:
        if self._attempt is not None and line.attempt > self._attempt:
            self.clear()
            output.say(f"attempt {line.attempt}: its log begins", style="yellow")
        self._attempt = max(line.attempt, self._attempt or 0)

    def _say_rest(self, rest: Rest) -> None:
        from remote_launch.cli.job_table import restart_words

        if rest.attempt > self._rested_for:  # all nodes of a launch tell
            self._rested_for = rest.attempt
            self.clear()
            why = f"{output.clean(rest.why, colour=False)}; " if rest.why else ""
            output.say(why + restart_words(rest.in_s, rest.words), style="yellow")

    def _rows(self, event: Unfinished) -> list[Row]:
        text = output.clean(event.text, colour=False)
        prefix, colour = self._prefix(event), self._colour(event)
        return [Row(prefix, row, colour) for row in text.split("\n") if row.strip()]

    def _prefix(self, event: LogLine | Unfinished) -> str:
        """Name and rank in columns that stay where they are; stderr has a broken rule."""
        if not self._prefixes:
            return ""
        rank = "·" if event.rank is None else str(event.rank)
        self._rank_width = max(self._rank_width, len(rank))
        name = f"{event.job.server}:{rank}".ljust(self._server_width + 1 + self._rank_width)
        return f"{name} {'╎' if event.stream == 'stderr' else '│'} "

    def _source(self, event: LogLine | Unfinished) -> tuple[int | str, ...]:
        rank = -1 if event.rank is None else event.rank
        return self._servers.index(event.job.server), rank, event.stream, event.job.job_id

    def _colour(self, event: LogLine | Unfinished) -> str:
        rank = self._servers.index(event.job.server) if event.rank is None else event.rank
        return output.prefix_style(rank) if self._prefixes else ""

    def _write(self, text: str) -> None:
        if text:
            click.echo(text, nl=False, err=self._err, color=self._terminal or None)


def _for_terminal(text: str, *, goes_on: bool) -> str:
    """Given a cleaned line, return it with an end to its colours, and to its length."""
    left = len(text) - _LONGEST_ON_TERMINAL
    if left > 0 or goes_on:
        more = "the line goes on" if goes_on else f"{left} more characters"
        beginning = _CUT_COLOUR.sub("", text[:_LONGEST_ON_TERMINAL])
        text = f"{beginning}{_RESET} … ({more}: rl job-rsync, or write to a file)"
    return text + _RESET if "\x1b" in text else text
