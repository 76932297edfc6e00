"""Live rows, one a server, while something long runs; plain lines where stderr is no terminal."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.text import Text

    from remote_launch.operations.progress import Progress

WHOLE = "prepare"  # the step that stands for all of a server's: it has ended
WAITING = "waiting"
_NAME_LIMIT = 24
_STEP_LIMIT = 26
_TIME_WIDTH = 7
_ECHO = 2  # columns of the "^C" that a terminal adds: wrapped, it would move the rows that are to go
# What is looked at first when the terminal has fewer lines than there are servers.
_ORDER = ("working", "waiting", "failed", "connecting", "ready")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What a server is at. ``took_s`` and ``failed`` are known once it has ended."""

    name: str
    text: str
    since: float
    took_s: float | None = None
    failed: bool = False

    @property
    def state(self) -> str:
        """Return one of ``_ORDER``."""
        if self.failed:
            return "failed"
        if self.name == WHOLE and self.took_s is not None:
            return "ready"
        return self.name if self.name in (WAITING, "connecting") else "working"


_MARKS = {
    "working": ("…", "cyan"),
    "waiting": ("…", "yellow"),
    "failed": ("✗", "red"),
    "connecting": ("…", "dim"),
    "ready": ("✓", "green"),
}


class ServerProgress:
    """Shows the step, its time and the last line of every server. ``on_progress`` may be called from any
    thread."""

    def __init__(self, servers: Sequence[str], *, show_output: bool = False) -> None:
        self._servers = list(servers)
        self._show_output = show_output
        self._now: dict[str, _Step] = {}
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._live: Live | None = None

    def __enter__(self) -> ServerProgress:
        if sys.stderr.isatty() and not self._show_output:
            from rich.live import Live

            self._live = Live(
                console=output.console(err=True),
                refresh_per_second=8,
                get_renderable=lambda: _Rows(self),
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def on_progress(self, progress: Progress) -> None:
        """Take in one event."""
        with self._lock:
            known, now = self._now.get(progress.server), time.monotonic()
            if progress.step == WHOLE and known is not None and known.failed:
                return  # the step that failed says more
            since = self._started if progress.step == WHOLE else now
            if known is not None and known.name == progress.step:
                since = known.since
            self._now[progress.server] = step = _Step(
                name=progress.step,
                text=progress.text,
                since=since,
                took_s=now - since if progress.ended else None,
                failed=progress.error,
            )
            if self._live is None:
                same = known is not None and (known.name, known.text) == (step.name, step.text)
                line = self._line(progress.server, step, same=same)
                if line:
                    click.echo(f"[{progress.server}] {line}", err=True)

    def _line(self, server: str, step: _Step, *, same: bool) -> str:
        """Return what is worth a line where there is no terminal; "" for what is not."""
        text = _one_line(server, step.text)
        if step.took_s is None:
            if step.name == WAITING:
                return "" if same else f"waiting {text}"
            return (text if self._show_output else "") if text else f"{step.name} …"
        took = output.duration_text(step.took_s)
        name = "" if step.name == WHOLE else f"{step.name}: "
        if step.failed:
            return f"{name}failed in {took}: {text}"
        if step.name == WHOLE:
            return f"ready in {took}" if text == "ready" else ""  # nothing was to do: the table says so
        return f"{name}done in {took}" + (f": {text}" if text and step.name == "rsync" else "")

    def _rows(self, width: int, height: int) -> list[Text]:
        """Return the lines for a terminal of that size."""
        now = time.monotonic()
        with self._lock:
            steps = {
                name: self._now.get(name) or _Step(name="connecting", text="", since=self._started)
                for name in self._servers
            }
        names, rest = self._shown(steps, height)
        widths = (
            min(_NAME_LIMIT, max(len(name) for name in steps)),
            min(_STEP_LIMIT, max(len(_title(steps[name])) for name in names)),
        )
        lines = [_row(name, steps[name], now, widths, width) for name in names]
        if rest:
            from rich.text import Text

            lines.append(Text(f"  and {rest}", "dim"))
        return lines

    def _shown(self, steps: dict[str, _Step], height: int) -> tuple[list[str], str]:
        """Return the servers that get a line, and what is said of the others."""
        room = max(1, height - 2)
        if len(steps) <= room:
            return list(steps), ""
        first = sorted(steps, key=lambda name: _ORDER.index(steps[name].state))[: room - 1]
        left = [steps[name].state for name in steps if name not in first]
        counts = [f"{left.count(state)} {state}" for state in _ORDER if state in left]
        return [name for name in steps if name in first], ", ".join(counts)


@dataclasses.dataclass(frozen=True, slots=True)
class _Rows:
    """The rows as they are at the moment of drawing, in the terminal as it is then."""

    progress: ServerProgress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.progress._rows(console.width, console.height)


def _title(step: _Step) -> str:
    if step.name == WHOLE and step.took_s is not None:
        return "failed" if step.failed else step.text
    return step.name


def _row(name: str, step: _Step, now: float, widths: tuple[int, int], width: int) -> Text:
    """Return one line, no wider than the terminal: never wrapped, so that the rows stand still."""
    from rich.text import Text

    mark, colour = _MARKS[step.state]
    took = output.duration_text(now - step.since if step.took_s is None else step.took_s)
    text = "" if step.state == "ready" else _one_line(name, step.text)
    quiet = "dim" if step.state in ("ready", "connecting") else ""
    line = Text.assemble(
        (mark, colour), " ", (_fit(name, widths[0]), "bold"), "  ", (_fit(_title(step), widths[1]), quiet),
        took.rjust(_TIME_WIDTH), "  ", (text, "red" if step.failed else "dim"),
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    line.rstrip()
    line.truncate(max(1, width - _ECHO), overflow="ellipsis")
    return line


def _one_line(server: str, text: str) -> str:
    """Return what a server said (untrusted) on one line, without its name, which stands before it."""
    return " ".join(output.clean(text, colour=False).split()).removeprefix(f"{server}: ")


def _fit(text: str, width: int) -> str:
    """Return text of exactly this width, cut if need be."""
    from rich.cells import cell_len, set_cell_size

    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
