"""rl queue: who has the slots and cards of the servers, and who waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.options import complete_servers, examples, json_option, load_fleet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.queue import InQueue, Line

_NOUNS = {"slot": "slot", "gpu": "card"}


@click.command("queue", epilog=examples("rl queue", "rl queue gpu-a"))
@click.argument("names", nargs=-1, metavar="[SERVER]...", shell_complete=complete_servers)
@json_option
@click.pass_context
def queue(ctx: click.Context, names: Sequence[str], as_json: bool) -> int:
    """Show who has the slots (or cards) of each server, and which jobs wait for them, in order."""
    from remote_launch.operations.queue import look_at_queues, one_a_machine

    fleet = load_fleet(ctx, says_waits=True)
    outcomes = look_at_queues(fleet, fleet.select(names))
    if as_json:
        data = {name: found.to_list() for name, found in outcomes.values.items()}
        warnings = [f"{name}: {text}" for name, found in outcomes.values.items() for text in found.problems]
        return output.emit_outcomes("queue", outcomes, data, warnings=warnings)
    rows = output.Rows("server", "slot", "state", "job", "for", "command")
    for same, found in one_a_machine(outcomes.values):
        name = ", ".join(same)
        if not found.lines:
            rows.add_row(name, "", "has no slots", "", "", "")
        for line in found.lines:
            _add_line(rows, fleet, name, line)
    rows.show()
    for same, found in one_a_machine(outcomes.values):
        for problem in found.problems:
            output.warn(output.clean(f"{', '.join(same)}: {problem}", colour=False))
    if outcomes.values and not any(found.lines or found.problems for found in outcomes.values.values()):
        output.say("slots: 2 of a server in the inventory lets two jobs run at a time there; docs/gpus.md")
    output.show_failures(outcomes.errors.values())
    return outcomes.exit_code


def _add_line(rows: output.Rows, fleet: Fleet, server: str, line: Line) -> None:
    waits = {job.job_id for job in line.waiting}
    for slot in line.slots:
        name = f"{_NOUNS[line.kind]} {slot.name}"
        if slot.holder is not None:
            # The first in the line keeps what it has got already.
            kept = slot.holder.job_id in waits
            state = output.Cell("kept", "yellow") if kept else output.Cell("taken", "cyan")
            rows.add_row(server, name, state, *_job_cells(fleet, slot.holder))
        elif slot.used_by:
            rows.add_row(server, name, output.Cell("in use", "magenta"), "", "", slot.used_by)
        else:
            rows.add_row(server, name, output.Cell("free", "green"), "", "", "")
    for place, job in enumerate(line.waiting, 1):
        state = output.Cell(f"waits for {_wish(job, line)}", "yellow")
        rows.add_row(server, f"{place}.", state, *_job_cells(fleet, job))


def _wish(job: InQueue, line: Line) -> str:
    """Return what a job waits for: "2 cards", "cards 0, 2", "1 of cards 0, 2"."""
    noun = _NOUNS[line.kind]
    there = [slot.name for slot in line.slots]
    if not job.may_have or not set(there) - set(job.may_have):
        return output.plural(job.need, noun)
    which = f"{noun}{'' if len(job.may_have) == 1 else 's'} {', '.join(job.may_have)}"
    return which if job.need == len(job.may_have) else f"{job.need} of {which}"


def _job_cells(fleet: Fleet, job: InQueue) -> list[str]:
    from remote_launch.core.jobs import now
    from remote_launch.errors import RemoteLaunchError

    try:
        key = str(fleet.registry.get(job.job_id).key)
    except RemoteLaunchError:  # another project's, or started from another computer
        key = f"in {job.workdir}"
    age = output.duration_text(None if job.since is None else max(0.0, now() - job.since))
    return [key, age, output.headline(job.command)]
