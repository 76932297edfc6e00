"""Live rows, one a server, while something long runs; plain lines where stderr is no terminal."""

from __future__ import annotations

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

    from remote_launch.operations.prepare import Progress


class ServerProgress:
    """Shows the step, its time and the last line of every server. ``on_progress`` may be called from any
    thread."""

    def __init__(self, servers: Sequence[str], *, show_output: bool = False) -> None:
        self._servers = list(servers)
        self._show_output = show_output
        self._now: dict[
            str, tuple[str, str, float, bool | None]
        ] = {}  # step, text, since, None running / True failed / False done
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
            known = self._now.get(progress.server)
            since = known[2] if known and known[0] == progress.step else time.monotonic()
            ended = progress.error if progress.ended else None
            self._now[progress.server] = (progress.step, progress.text, since, ended)
            if self._live is not None:
                return
            text = output.clean(progress.text, colour=False)
            if progress.ended:
                word = "failed" if progress.error else "done"
                click.echo(
                    f"[{progress.server}] {progress.step}: {word} "
                    f"in {time.monotonic() - since:.1f} s: {text}",
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
        rows.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
        with self._lock:
            for name in self._servers:
                step, text, since, ended = self._now.get(name, ("connecting", "", time.monotonic(), None))
                mark = {None: Text("…", "cyan"), False: Text("✓", "green"), True: Text("✗", "red")}[ended]
                line = Text(output.clean(text, colour=False), "dim")
                rows.add_row(
                    Text.assemble(mark, " ", (name, "bold")),
                    step,
                    output.duration_text(time.monotonic() - since),
                    line,
                )
        return rows
