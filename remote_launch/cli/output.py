"""What people and programs read: tables and sentences, or one JSON envelope. The only home of rich, and of
``print``.

Data goes to stdout; progress, messages and errors go to stderr. Without a terminal there is no colour and no
line is cut."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from remote_launch.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.table import Table

    from remote_launch.core.jobs import JobState
    from remote_launch.errors import RemoteLaunchError
    from remote_launch.operations.fanout import Outcomes

ENVELOPE_VERSION = 1
_READABLE = 400  # characters of one line of a failed rank, or of a command
_SHORT = 12  # a column of at most so many characters is not wrapped
_GAP = 2  # between two columns of a table on a terminal
_WIDE = 100_000  # without a terminal nothing is wrapped or cut
# Control characters, and escape sequences other than colours: what a server sends must not steer the user's
# terminal.
_ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[PX^_][^\x1b]*(?:\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b.?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    # What makes a terminal show text in another order than it has; halves of characters can't be written.
    r"|[\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_C1 = re.compile(r"[\x7f-\x9f\ud800-\udfff]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]{0,80}m\Z")
STATE_STYLES = {
    "CREATED": "yellow",
    "QUEUED": "yellow",
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "FAILED": "red",
    "KILLED": "magenta",
    "LOST": "red",
}


def console(*, err: bool = False) -> Console:
    """Return a console for stdout (or stderr)."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(
        file=stream, width=width, highlight=False, soft_wrap=width is not None, markup=False, emoji=False
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """Text in a colour, for a table."""

    text: str
    style: str = ""


class Rows:
    """A table: by rich on a terminal; elsewhere aligned plain text, nothing cut, and rich isn't even
    imported."""

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._rows: list[list[Cell]] = []

    def add_row(self, *cells: str | Cell) -> None:
        """Add one row, a cell for each column. Cells may be untrusted."""
        styled = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
        self._rows.append([Cell(clean(cell.text, colour=False), cell.style) for cell in styled])

    def show(self) -> None:
        """Print it on stdout."""
        if sys.stdout.isatty():
            terminal = console()
            terminal.print(self.table(terminal.width))
            return
        lines = [list(self._columns), *self._texts()]
        widths = [max(len(line[number]) for line in lines) for number in range(len(self._columns))]
        for line in lines:
            click.echo(
                "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            )

    def _texts(self) -> list[list[str]]:
        return [[" ".join(cell.text.split()) for cell in row] for row in self._rows]

    def table(self, width: int = _WIDE) -> Table:
        """Return it as rich draws it in so many columns: where it is too wide, long texts are wrapped, and
        numbers, times and the like are not, if that leaves room for the others."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        needed = [max(map(len, cells)) for cells in zip(self._columns, *self._texts(), strict=True)]
        is_short = [width <= _SHORT for width in needed]
        least = sum(own if short else _SHORT for own, short in zip(needed, is_short, strict=True))
        fits = least + _GAP * (len(needed) - 1) <= width
        for column, short in zip(self._columns, is_short, strict=True):
            table.add_column(column, overflow="fold", no_wrap=short and fits)
        for row in self._rows:
            table.add_row(*(Text(_cut(cell.text), cell.style) for cell in row))
        return table


def clean(text: str, *, colour: bool | None = None) -> str:
    """Given untrusted text, return it safe for a terminal: colours stay (where stdout shows them), everything
    else that steers goes."""
    if text.isprintable():
        return text
    keep = sys.stdout.isatty() if colour is None else colour
    return _ESCAPES.sub(lambda match: match[0] if keep and _COLOUR.match(match[0]) else "", text)


def say(text: str, *, style: str | None = None) -> None:
    """Tell the user something on stderr."""
    if style and sys.stderr.isatty():
        from rich.text import Text

        console(err=True).print(Text(text, style=style))
    else:
        click.echo(text, err=True)


def warn(text: str) -> None:
    """Warn the user on stderr. The text may be untrusted."""
    say(f"warning: {clean(text, colour=False)}", style="yellow")


def emit_json(
    command: str,
    data: Any,
    *,
    status: str = "ok",
    errors: Iterable[RemoteLaunchError] = (),
    warnings: Sequence[str] | None = None,
) -> None:
    """Print the one envelope of ``--json``. Commands that may warn give ``warnings``, if only an empty
    list."""
    envelope = {
        "version": ENVELOPE_VERSION,
        "command": command,
        "status": status,
        "data": data,
        "errors": [error.to_dict() for error in errors],
        **({} if warnings is None else {"warnings": list(warnings)}),
    }
    text = json.dumps(envelope, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False)
    # C1 controls are legal in JSON as they are, and steer some terminals. Halves of characters can't be
    # written.
    click.echo(_C1.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def emit_outcomes(
    command: str, outcomes: Outcomes[Any], data: Any, *, warnings: Sequence[str] | None = None
) -> int:
    """Print the envelope of an operation over servers; return the exit code."""
    emit_json(command, data, status=outcomes.status, errors=outcomes.errors.values(), warnings=warnings)
    return outcomes.exit_code


def show_error(error: RemoteLaunchError, *, as_json: bool = False, command: str = "rl") -> None:
    """Show an error with its next step on stderr (and its envelope on stdout when JSON was asked for)."""
    from remote_launch.errors import ServersFailedError

    several = isinstance(error, ServersFailedError)
    failed = (
        [one for one in error.outcomes.values() if one is not None]
        if isinstance(error, ServersFailedError)
        else [error]
    )
    if as_json:
        emit_json(command, None, status="partial" if error.exit_code == 3 else "error", errors=failed)
        return
    say(f"error: {clean(error.message, colour=False)}", style="bold red")
    if several:
        show_failures(failed)
    else:
        _show_hint(error.hint)


def show_failures(errors: Iterable[RemoteLaunchError]) -> None:
    """Show one block a failed server, or for several that failed alike, each with its next step."""
    from remote_launch.cli.alike import fold

    for message, hint in fold(errors):
        first, *rest = clean(message, colour=False).splitlines() or [""]
        say(f"✗ {first}", style="red")
        for line in rest:
            say(f"    {line}")
        _show_hint(hint)


def _show_hint(hint: str | None) -> None:
    for line in clean(hint or "", colour=False).splitlines():
        say(f"  → {line}")


def state_cell(state: JobState, more: str = "") -> Cell:
    """Return a state in its colour, with ``more`` after it."""
    return Cell(state.value + more, STATE_STYLES[state.value])


def size_text(size_bytes: float | None) -> str:
    """Given bytes, return "1.2 GB"."""
    if size_bytes is None:
        return "–"
    for unit, digits in (("B", 0), ("kB", 0), ("MB", 1), ("GB", 1)):
        if round(abs(size_bytes), digits) < 1000:
            return f"{size_bytes:.{digits}f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def duration_text(seconds: float | None) -> str:
    """Given seconds, return "3.2 s", "22 s", "4:05" or "2d 03:10"."""
    if seconds is None:
        return "–"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_text(epoch_s: float | None) -> str:
    """Given epoch seconds, return the local time; with the date when it isn't today's."""
    if not epoch_s:
        return "–"
    import datetime as dt

    local = dt.datetime.fromtimestamp(epoch_s).astimezone()
    today = dt.datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M")


def last_words(tail: object) -> list[str]:
    """Given the last lines of a rank, return at most 20, each cut where it stops being readable."""
    lines = str(tail or "").splitlines()[-20:]
    return [_cut(line) for line in lines]


def headline(command: str) -> str:
    """Given a command (untrusted), return it for a sentence: on one line, cut where it gets unreadable."""
    return _cut(" ".join(clean(command, colour=False).split()))


def _cut(text: str) -> str:
    return text if len(text) <= _READABLE else text[:_READABLE] + " …"


def plural(count: int, noun: str) -> str:
    """Return "1 server", "2 servers"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def prefix_style(index: int) -> str:
    """Return the colour of a server's prefix: the same for the length of a command."""
    styles: Sequence[str] = (
        "cyan",
        "green",
        "yellow",
        "magenta",
        "blue",
        "bright_cyan",
        "bright_green",
        "bright_magenta",
    )
    return styles[index % len(styles)]
