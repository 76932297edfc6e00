"""rl push-outputs, and what torch-launch --clean-outputs says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.options import (
    complete_servers,
    dry_run_option,
    examples,
    json_option,
    load_fleet,
    servers_option,
)
from remote_launch.cli.pull import transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.push_outputs import PushPlan


@click.command("push-outputs", epilog=examples("rl push-outputs gpu-a", "rl push-outputs gpu-a --dry-run"))
@click.argument("source", required=False, metavar="[SERVER]", shell_complete=complete_servers)
@servers_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask, where newer files would be replaced.")
@dry_run_option
@json_option
@click.pass_context
def push_outputs(
    ctx: click.Context, source: str | None, servers: Sequence[str], yes: bool, dry_run: bool, as_json: bool
) -> int:
    """Copy one server's outputs (outputs: in the inventory) to the others, so that all ranks go on from the
    same files.

    SERVER may be left out where only one has what others lack. They come here first, as by rl pull. What only
    the others have stays there; it asks before newer files are replaced.
    """
    from remote_launch.operations.push_outputs import fetch_for_push, plan_push, push

    fleet = load_fleet(ctx)
    plan = plan_push(fleet, source, servers)
    todo = [name for name, files in plan.targets.items() if files]
    if not as_json:
        _show(plan)
    if dry_run or not todo:
        if as_json:
            output.emit_json("push-outputs", plan.to_dict())
        return 0
    if any(plan.newer.values()) and not yes and not _is_meant(plan, as_json=as_json):
        output.say("nothing was copied")
        return 1
    with transfer("pull", [plan.source], quiet=as_json) as on_bytes:
        fetch_for_push(fleet, plan, on_bytes=on_bytes)
    with transfer("push", todo, quiet=as_json) as on_bytes:
        outcomes = push(fleet, plan, on_bytes=on_bytes)
    if as_json:
        data = [pushed.to_dict() for pushed in outcomes.values.values()]
        return output.emit_outcomes("push-outputs", outcomes, {"source": plan.source, "targets": data})
    for pushed in outcomes.values.values():
        files, size = output.plural(pushed.files, "file"), output.size_text(pushed.size_bytes)
        click.echo(f"{pushed.server}: {files}, {size}")
    output.show_failures(outcomes.errors.values())
    return outcomes.exit_code


def _show(plan: PushPlan) -> None:
    for name, files in plan.targets.items():
        if not files:
            output.say(f"{name} has all that {plan.source} has")
            continue
        some = ", ".join(output.clean(file.path, colour=False) for file in files[:4])
        more = ", …" if len(files) > 4 else ""
        newer = f", {plan.newer[name]} of them newer there" if plan.newer[name] else ""
        size = output.size_text(plan.size_bytes[name])
        output.say(
            f"{plan.source} → {name}: {output.plural(len(files), 'file')}, {size}{newer}: {some}{more}"
        )


def _is_meant(plan: PushPlan, *, as_json: bool) -> bool:
    newer = [name for name, count in plan.newer.items() if count]
    there = ", ".join(newer)
    if as_json or not sys.stdin.isatty():
        from remote_launch.errors import UsageError

        raise UsageError(
            f"this asks before it replaces newer files on {there} with those of {plan.source}",
            hint="--yes; or rl push-outputs with the server that has the newer ones",
        )
    return click.confirm(f"Replace newer files on {there} with those of {plan.source}?", err=True)


def clean_first(fleet: Fleet, servers: Sequence[Server], *, dry_run: bool) -> None:
    """Say how much of the outputs is on the servers of a launch, and remove it."""
    from remote_launch.errors import RemoteLaunchError
    from remote_launch.operations.clean_outputs import measure_outputs, remove_outputs

    found = measure_outputs(fleet, servers)
    found.raise_on_error("nothing was removed, nothing was started")
    there = [amount for amount in found.values.values() if amount.files]
    names = ", ".join(fleet.inventory.outputs)
    if not there:
        output.say(f"outputs ({names}): there are none")
        return
    amounts = ", ".join(
        f"{output.plural(amount.files, 'file')} ({output.size_text(amount.size_bytes)}) on {amount.server}"
        for amount in there
    )
    asks = sys.stdin.isatty()
    output.say(f"{'would remove' if dry_run or asks else 'removing'} outputs ({names}): {amounts}")
    if dry_run:
        return
    if asks and not click.confirm("Remove them?", default=False, err=True):
        raise RemoteLaunchError("nothing was removed, nothing was started")
    remove_outputs(fleet, servers).raise_on_error("nothing was started")
