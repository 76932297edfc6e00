"""Log lines on the terminal, with prefixes, until the jobs end; what Ctrl-C means meanwhile; the verdict."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.jobs import JobRecord
    from remote_launch.core.verdict import Verdict
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.follow import Event, LogLine


class Printer:
    """Prints events: a line with its ``server:rank`` prefix when there is more than one source, notices on
    stderr; with ``err`` all of it, for stdout is the JSON's."""

    def __init__(self, jobs: Sequence[JobRecord], *, prefixes: bool, err: bool = False) -> None:
        self._servers = list(dict.fromkeys(job.server for job in jobs))
        self._prefixes = prefixes
        self._err = err
        self._colour = (sys.stderr if err else sys.stdout).isatty()
        self.failed = False

    def show(self, event: Event) -> None:
        """Print one event; ends are left to the verdict."""
        from remote_launch.operations.follow import LogLine, Notice

        if isinstance(event, LogLine):
            text = self._prefix(event) + output.clean(event.text, colour=self._colour)
            click.echo(text, err=self._err, color=self._colour or None)
        elif isinstance(event, Notice):
            self.failed = self.failed or event.error is not None
            output.warn(output.clean(event.text, colour=False))

    def _prefix(self, line: LogLine) -> str:
        if not self._prefixes:
            return ""
        text = f"{line.job.server}:{'·' if line.rank is None else line.rank}"
        if self._colour:
            text = click.style(
                text,
                fg=output.prefix_style(self._servers.index(line.job.server)),
                dim=line.stream == "stderr",
            )
        return f"{text} │ "


def has_several_sources(jobs: Sequence[JobRecord], ranks: tuple[int, ...] | None) -> bool:
    """True when lines of more than one process may come: then each needs its prefix."""
    return len(jobs) > 1 or (jobs[0].launch_id is not None and (ranks is None or len(ranks) > 1))


def follow_to_end(
    fleet: Fleet,
    jobs: Sequence[JobRecord],
    *,
    as_json: bool,
    ranks: tuple[int, ...] | None,
    lines: int,
    launcher: bool = True,
    watched: Sequence[JobRecord] | None = None,
    asks: bool = True,
) -> int:
    """Show the logs of ``watched`` (default: all ``jobs``) until they end, then the verdict of ``jobs``;
    return its exit code.

    With ``asks``, Ctrl-C on a terminal asks: detach, kill or go on; a second one detaches. Else it detaches.
    """
    from remote_launch.operations.follow import Follower, Selection
    from remote_launch.operations.kill import kill_jobs
    from remote_launch.operations.wait import wait_jobs

    shown = list(watched or jobs)
    printer = Printer(shown, prefixes=has_several_sources(shown, ranks), err=as_json)
    with Follower(fleet, shown, Selection(ranks=ranks, launcher=launcher, lines=lines)) as events:
        while True:
            try:
                for event in events:
                    printer.show(event)
                break
            except KeyboardInterrupt:
                answer = _ask_at_interrupt() if asks else "detach"
            if answer == "kill":
                output.show_failures(one.failure for one in kill_jobs(fleet, jobs) if one.failure)
                break
            if answer == "detach":
                output.say("detached; the jobs go on. rl job-tail takes up again, rl job-kill stops them")
                return 130
    current, verdict = wait_jobs(fleet, jobs)
    if as_json:
        told = {"verdict": verdict.to_dict(), "jobs": [job.to_dict() for job in current]}
        output.emit_json("torch-launch", told)
    else:
        show_verdict(current, verdict)
    return verdict.exit_code


def _ask_at_interrupt() -> str:
    """Return detach, kill or continue."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "detach"
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
        return "detach"
    return {"d": "detach", "k": "kill", "c": "continue"}[str(answer).lower()]


def show_verdict(jobs: Sequence[JobRecord], verdict: Verdict) -> None:
    """Say in one line on stderr what the jobs came to; after a failure also the last lines of the rank that
    was first."""
    keys = ", ".join(str(job.key) for job in jobs)
    duration = max((job.duration_s or 0.0 for job in jobs), default=0.0)
    noun = "job" if len(jobs) == 1 else "jobs"
    text = f"{noun} {keys}: {verdict.state} after {output.duration_text(duration)}"
    if verdict.state.value != "SUCCEEDED":
        text += f": {output.clean(verdict.text, colour=False)}"
    output.say(text, style=output.STATE_STYLES[verdict.state.value])
    for line in output.last_words((verdict.cause or {}).get("tail")):
        output.say(f"    {output.clean(line, colour=False)}")
