"""The checklist that ``rl doctor`` prints: a line a check, in groups; what is wrong comes last, with what to
do."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.core.findings import fold, worst_first

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from remote_launch.core.findings import Check, Finding
    from remote_launch.operations.doctor import Diagnosis

_MARKS = {"ok": ("✓", "green"), "note": ("·", "cyan"), "warning": ("!", "yellow"), "error": ("✗", "red")}
_NARROWEST = 40
_NAMES_SHOWN = 4


def show_diagnosis(diagnosis: Diagnosis, checks: Sequence[Check]) -> None:
    """Print all of it on stdout."""
    findings = fold(diagnosis.findings)
    by_group: dict[str, list[Finding]] = {check.group: [] for check in checks}
    groups = {check.id: check.group for check in checks}
    order = {check.id: number for number, check in enumerate(checks)}
    for finding in sorted(findings, key=lambda finding: order.get(finding.check, len(order))):
        by_group.setdefault(groups.get(finding.check, ""), []).append(finding)
    indent = 5 + max((len(finding.check) for finding in findings), default=0) + 2
    for group, found in by_group.items():
        if found:
            _print(group, style="bold")
            for finding in found:
                _show_line(finding, diagnosis.servers, indent)
    bad = worst_first(findings)
    if bad:
        _print("")
        _print("What to do", style="bold")
        for finding, following in itertools.zip_longest(bad, bad[1:]):
            _show_problem(finding, diagnosis.servers)
            if following is None or following.do != finding.do:  # the same is said once, below all
                _show_remedy(finding)
    _print("")
    _print(summary(diagnosis), style=_MARKS[bad[0].level if bad else "ok"][1])


def summary(diagnosis: Diagnosis) -> str:
    """Return the last line: how many errors and warnings, on how many servers."""
    levels = Counter(finding.level for finding in fold(diagnosis.findings))
    parts = [
        output.plural(levels[level], level) for level in ("error", "warning", "note") if levels[level]
    ]
    nothing = "nothing wrong" if diagnosis.findings else "these checks have nothing to look at here"
    told = ", ".join(parts) or nothing
    servers = output.plural(len(diagnosis.servers), "server")
    return f"{servers}: {told} ({output.duration_text(diagnosis.duration_s)})"


def _show_line(finding: Finding, servers: Sequence[str], indent: int) -> None:
    mark, style = _MARKS[finding.level]
    text = _sentence(finding)
    # Where all have the same, their names say nothing.
    who = "" if set(finding.servers) == set(servers) and len(servers) > 1 else names(finding.servers, servers)
    text = f"{who}: {text}" if who and len(servers) > 1 else text
    _print_wrapped(f"  {mark}  {finding.check}".ljust(indent), text, mark, style)


def _show_problem(finding: Finding, servers: Sequence[str]) -> None:
    mark, style = _MARKS[finding.level]
    text = f"{finding.check}, {names(finding.servers, servers)}: {_sentence(finding)}"
    _print_wrapped(f"  {mark}  ", text, mark, style)


def _show_remedy(finding: Finding) -> None:
    for line in output.clean(finding.do or "", colour=False).splitlines():
        _print_wrapped("     → ", line)


def names(some: Iterable[str], servers: Sequence[str]) -> str:
    """Given servers of a finding, return them for a sentence: "all 8 servers", "a, b", "a, b, c and 5
    more"."""
    chosen = list(some)
    if len(chosen) == len(servers) > _NAMES_SHOWN:
        return f"all {len(servers)} servers"
    more = len(chosen) - _NAMES_SHOWN
    return ", ".join(chosen[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _sentence(finding: Finding) -> str:
    """Return the message with its detail, on one line."""
    message, detail = output.headline(finding.message), output.headline(finding.detail)
    return f"{message}{'; ' if ': ' in message else ': '}{detail}" if detail else message


def _print_wrapped(head: str, text: str, mark: str = "", style: str = "") -> None:
    """Print a line; on a terminal it is wrapped below its beginning, and the mark coloured."""
    if not sys.stdout.isatty():
        click.echo(f"{head}{text}".rstrip())
        return
    width = max(_NARROWEST, shutil.get_terminal_size().columns)
    wrapped = textwrap.fill(
        text, width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )
    if mark and _has_colour():
        wrapped = wrapped.replace(mark, click.style(mark, fg=style), 1)
    click.echo(wrapped)


def _has_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _print(text: str, *, style: str = "") -> None:
    if style and _has_colour():
        text = click.style(text, bold=True) if style == "bold" else click.style(text, fg=style)
    click.echo(text)
