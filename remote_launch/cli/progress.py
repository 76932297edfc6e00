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

    from rich.live import Live
    from rich.table import Table

    from remote_launch.operations.provision import Progress


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What a server is at. ``took_s`` and ``failed`` are known once it has ended."""

    name: str
    text: str
    since: float
    took_s: float | None = None
    failed: bool = False


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
                get_renderable=self._rows,
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
            since = known.since if known and known.name == progress.step else now
            self._now[progress.server] = _Step(
                name=progress.step,
                text=progress.text,
                since=since,
                took_s=now - since if progress.ended else None,
                failed=progress.error,
            )
            if self._live is not None:
                return
            text = output.clean(progress.text, colour=False)
            if progress.ended:
                word = "failed" if progress.error else "done"
                click.echo(
                    f"[{progress.server}] {progress.step}: {word} "
                    f"in {now - since:.1f} s: {text}",
                    err=True,
                )
            elif self._show_output and text:
                click.echo(f"[{progress.server}] {text}", err=True)
            elif not text:
                click.echo(f"[{progress.server}] {progress.step} …", err=True)

    def _rows(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        rows = Table.grid(padding=(0, 1), expand=False)
        for column in ("server", "step", "time"):
            rows.add_column(column, no_wrap=True)
        # The one column that may wrap is the one that rich makes narrower; its lines are cut instead.
        rows.add_column("text")
        now = time.monotonic()
        with self._lock:
            for name in self._servers:
                step = self._now.get(name) or _Step(name="connecting", text="", since=self._started)
                mark = Text("…", "cyan")
                if step.took_s is not None:
                    mark = Text("✗", "red") if step.failed else Text("✓", "green")
                rows.add_row(
                    Text.assemble(mark, " ", (name, "bold")),
                    step.name,
                    output.duration_text(now - step.since if step.took_s is None else step.took_s),
                    Text(output.clean(step.text, colour=False), "dim", no_wrap=True, overflow="ellipsis"),
                )
        return rows
