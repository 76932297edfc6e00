"""rl servers --gpus: the cards of all servers, once or again and again."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from remote_launch.cli import output
from remote_launch.operations.gpus import CardWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group

    from remote_launch.core.cards import Card, Survey
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

_BAR_CELLS = 8
_BAR_FROM_COLUMNS = 100
_NARROW_COLUMNS = 84  # below it a card has one line all the same: less is told
_NARROW_MARGIN = 13  # between the columns there, and at the sides
_LEAST_CELLS = 6
_MOST_PROCESSES = 4
_STYLES = {"free": "green", "yours": "cyan", "held": "yellow", "broken": "red"}


def show_cards(fleet: Fleet, servers: Sequence[Server], *, as_json: bool) -> int:
    """Show the cards once; return the exit code."""
    outcomes = CardWatch(fleet, servers).look()
    if as_json:
        return output.emit_outcomes("servers", outcomes, _data(outcomes), warnings=_problems(outcomes))
    _show(outcomes)
    return outcomes.exit_code


def watch_cards(fleet: Fleet, servers: Sequence[Server], *, every_s: float, as_json: bool) -> int:
    """Show the cards every so many seconds, until Ctrl-C: in place on a terminal, else one after the other
    (with --json one envelope a line)."""
    watch = CardWatch(fleet, servers)
    if sys.stdout.isatty() and not as_json:
        return _watch_in_place(watch, every_s)
    code = 0
    try:
        while True:
            outcomes = watch.look()
            code = outcomes.exit_code
            if as_json:
                output.emit_outcomes("servers", outcomes, _data(outcomes), warnings=_problems(outcomes))
            else:
                _show(outcomes, heading=f"{time.strftime('%H:%M:%S')}")
            sys.stdout.flush()
            time.sleep(every_s)
    except KeyboardInterrupt:
        return code


def _watch_in_place(watch: CardWatch, every_s: float) -> int:
    from rich.live import Live

    outcomes = watch.look()
    try:
        with Live(console=output.console(), screen=True, auto_refresh=False) as live:
            while True:
                live.update(_screen(outcomes, every_s), refresh=True)
                time.sleep(every_s)
                outcomes = watch.look()
    except KeyboardInterrupt:
        pass
    _show(outcomes)
    return outcomes.exit_code


def _screen(outcomes: Outcomes[Survey], every_s: float) -> Group:
    from rich.console import Group
    from rich.text import Text

    def line(text: str, style: str = "") -> Text:
        return Text(output.clean(text, colour=False).partition("\n")[0], style=style)

    return Group(
        line(f"{time.strftime('%H:%M:%S')}  every {every_s:g} s, Ctrl-C ends", "dim"),
        line(_summary(outcomes)),  # above the table: of one that is too long the end is cut
        _rows(outcomes).table(output.console().width),
        *(line(f"warning: {text}", "yellow") for text in _problems(outcomes)),
        *(line(f"✗ {error}", "red") for error in outcomes.errors.values()),
    )


def _show(outcomes: Outcomes[Survey], *, heading: str = "") -> None:
    import click

    if heading:
        click.echo(heading)
    _rows(outcomes).show()
    click.echo(_summary(outcomes))
    for text in _problems(outcomes):
        output.warn(output.clean(text, colour=False))
    output.show_failures(outcomes.errors.values())


def _data(outcomes: Outcomes[Survey]) -> list[dict[str, Any]]:
    return [
        {
            "name": outcome.server,
            "reachable": outcome.error is None,
            "cards": [card.to_dict() for card in outcome.value.cards] if outcome.value else [],
            "problems": list(outcome.value.problems) if outcome.value else [],
            "visible": dict(outcome.value.visible) if outcome.value else {},
        }
        for outcome in outcomes
    ]


def _problems(outcomes: Outcomes[Survey]) -> list[str]:
    return [f"{name}: {text}" for name, survey in outcomes.values.items() for text in survey.problems]


def _rows(outcomes: Outcomes[Survey]) -> output.Rows:
    if sys.stdout.isatty() and (columns := shutil.get_terminal_size().columns) < _NARROW_COLUMNS:
        return narrow_rows(outcomes, columns)
    rows = output.Rows("server", "card", "model", "memory", "use", "temp", "state", "processes")
    for outcome in outcomes:
        if outcome.value is None:
            rows.add_row(outcome.server, "", "", "", "", "", output.Cell("failed", "red"), "")
            continue
        for number, card in enumerate(outcome.value.cards):
            state = _state(card)
            rows.add_row(
                outcome.server if number == 0 or not sys.stdout.isatty() else "",
                str(card.index),
                card.name.removeprefix("NVIDIA "),
                _memory(card),
                "–" if card.utilization_percent is None else f"{card.utilization_percent} %",
                "–" if card.temperature_c is None else f"{card.temperature_c} °C",
                output.Cell(state, _STYLES[state]),
                _processes(card),
            )
        if not outcome.value.cards:
            rows.add_row(outcome.server, "none", "", "", "", "", "", "")
    return rows


def narrow_rows(outcomes: Outcomes[Survey], columns: int) -> output.Rows:
    """Return the table for a narrow terminal: no model, no temperature, of the processes what has room."""
    headers = ("server", "card", "GiB", "use", "state", "who")
    rows = output.Rows(*headers)
    lines: list[tuple[str, str, str, str, str, str]] = []
    for outcome in outcomes:
        name = outcome.server
        if outcome.value is None:
            lines.append((name, "", "", "", "failed", ""))
            continue
        for number, card in enumerate(outcome.value.cards):
            used = "?" if card.memory_used_mb is None else f"{card.memory_used_mb / 1024:.0f}"
            total = "?" if card.memory_total_mb is None else f"{card.memory_total_mb / 1024:.0f}"
            use = "–" if card.utilization_percent is None else f"{card.utilization_percent} %"
            who = " ".join(_processes(card).split())
            lines.append(
                (name if number == 0 else "", str(card.index), f"{used}/{total}", use, _state(card), who)
            )
        if not outcome.value.cards:
            lines.append((name, "none", "", "", "", ""))
    taken = sum(max(len(line[place]) for line in (headers, *lines)) for place in range(5))
    room = max(_LEAST_CELLS, columns - _NARROW_MARGIN - taken)
    for *cells, state, who in lines:
        shown = who if len(who) <= room else f"{who[: room - 1]}…"
        rows.add_row(*cells, output.Cell(state, _STYLES.get(state, "red")), shown)
    return rows


def _state(card: Card) -> str:
    if card.trouble:
        return "broken"
    if card.busy:
        return "held"
    return "yours" if any(process.is_own for process in card.processes) else "free"


def _memory(card: Card) -> str:
    used, total = card.memory_used_mb, card.memory_total_mb
    if used is None or not total:
        return "–" if not total else f"? of {total / 1024:.1f} GiB"
    text = f"{used / 1024:.1f} of {total / 1024:.1f} GiB"
    if not sys.stdout.isatty() or shutil.get_terminal_size().columns < _BAR_FROM_COLUMNS:
        return text
    full = min(_BAR_CELLS, round(_BAR_CELLS * used / total))
    return f"{'█' * full}{'░' * (_BAR_CELLS - full)} {text}"


def _processes(card: Card) -> str:
    """Return who is on a card, one a line on a terminal; or what else holds it."""
    lines = [
        f"{'you' if process.is_own else process.user}: {process.command or '?'} (pid {process.pid}"
        + (f", {process.memory_mb / 1024:.1f} GiB)" if process.memory_mb is not None else ")")
        for process in card.processes[:_MOST_PROCESSES]
    ]
    if len(card.processes) > _MOST_PROCESSES:
        lines.append(f"and {len(card.processes) - _MOST_PROCESSES} more")
    if card.trouble:
        lines.append(card.trouble.partition(" (")[0])
    elif card.busy and not card.processes:
        lines.append(card.busy)
    if card.devices:
        lines.append("split (MIG): " + ", ".join(name for name, _ in card.devices))
    return ("\n" if sys.stdout.isatty() else ", ").join(lines)


def _summary(outcomes: Outcomes[Survey]) -> str:
    """Return "6 cards on 2 servers: 3 free, 2 held by others, 1 yours; 40.1 of 240.0 GiB in use"."""
    cards = [card for survey in outcomes.values.values() for card in survey.cards]
    having = sum(bool(survey.cards) for survey in outcomes.values.values())
    states = [_state(card) for card in cards]
    words = {"free": "free", "yours": "yours", "held": "held by others", "broken": "broken"}
    counts = [f"{states.count(state)} {word}" for state, word in words.items() if state in states]
    used = sum(card.memory_used_mb or 0 for card in cards) / 1024
    total = sum(card.memory_total_mb or 0 for card in cards) / 1024
    text = f"{output.plural(len(cards), 'card')} on {output.plural(having, 'server')}"
    if cards:
        text += f": {', '.join(counts)}; {used:.1f} of {total:.1f} GiB in use"
    return text
