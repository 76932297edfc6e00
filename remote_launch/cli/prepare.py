"""rl prepare, setup, rsync, update-packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.options import dry_run_option, examples, json_option, load_fleet, servers_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.operations.sync import SyncPlan

INTERRUPTED = 130

adopt_option = click.option(
    "--adopt", is_flag=True, help="Take over a non-empty folder on a server that rl did not make."
)
force_option = click.option(
    "--force", is_flag=True, help="Do everything anew, also what is done already."
)
show_output_option = click.option(
    "--show-output", is_flag=True, help="Print every line of the remote commands."
)


@click.command(epilog=examples("rl prepare --server gpu-a --show-output"))
@servers_option
@adopt_option
@force_option
@show_output_option
@dry_run_option
@json_option
@click.pass_context
def prepare(ctx: click.Context, /, servers: Sequence[str], **flags: bool) -> int:
    """Make servers ready: send the project, create the Python environment, install the packages. All servers
    at once.

    Safe to repeat: what is done already is seen, and only what changed is done again.
    """
    return _prepare(ctx, "prepare", None, servers, **flags)


@click.command(epilog=examples("rl setup --dry-run"))
@servers_option
@adopt_option
@force_option
@show_output_option
@dry_run_option
@json_option
@click.pass_context
def setup(ctx: click.Context, /, servers: Sequence[str], **flags: bool) -> int:
    """Create the Python environment on the servers."""
    return _prepare(ctx, "setup", ("setup",), servers, **flags)


@click.command("update-packages", epilog=examples("rl update-packages --server gpu-a"))
@servers_option
@force_option
@show_output_option
@dry_run_option
@json_option
@click.pass_context
def update_packages(ctx: click.Context, /, servers: Sequence[str], **flags: bool) -> int:
    """Install the project's packages, as its files name them now, into the servers' environments."""
    return _prepare(ctx, "update-packages", ("update-packages",), servers, **flags)


@click.command(epilog=examples("rl rsync --dry-run"))
@servers_option
@adopt_option
@click.option("--show-output", is_flag=True, help="List the files.")
@dry_run_option
@json_option
@click.pass_context
def rsync(
    ctx: click.Context, servers: Sequence[str], adopt: bool, show_output: bool, dry_run: bool, as_json: bool
) -> int:
    """Send the project to the servers.

    Leaves out what .remote/exclude.txt says, .git and .remote/. A file that an earlier sync sent and that is
    gone here is deleted there; what jobs wrote never is."""
    from remote_launch.operations.sync import plan_sync, sync

    fleet = load_fleet(ctx)
    chosen = fleet.select(servers)
    plan = plan_sync(fleet)
    if dry_run:
        return _show_sync_plan(plan, [server.name for server in chosen], as_json=as_json)
    for warning in () if as_json else plan.warnings:
        output.warn(warning)
    outcomes = sync(fleet, chosen, plan, adopt=adopt)
    if as_json:
        return output.emit_outcomes(
            "rsync", outcomes, [result.to_dict() for result in outcomes.values.values()]
        )
    rows = output.Rows("server", "folder", "files sent", "size", "deleted", "time")
    for outcome in outcomes:
        if outcome.value:
            value = outcome.value
            rows.add_row(
                value.server,
                value.workdir,
                str(value.files_sent),
                output.size_text(value.bytes_sent),
                str(value.deleted),
                output.duration_text(outcome.duration_s),
            )
    if outcomes.values:
        rows.show()
    if show_output:
        for file in plan.files:
            click.echo(output.clean(file.path))
    output.show_failures(outcomes.errors.values())
    return outcomes.exit_code


def _show_sync_plan(plan: SyncPlan, servers: Sequence[str], *, as_json: bool) -> int:
    if as_json:
        output.emit_json("rsync", {**plan.to_dict(), "servers": list(servers)})
        return 0
    for file in plan.files:
        click.echo(f"{output.size_text(file.size_bytes):>10}  {output.clean(file.path)}")
    output.say(
        f"{output.plural(len(plan.files), 'file')}, {output.size_text(plan.size_bytes)}, "
        f"to {', '.join(servers)}"
    )
    output.say("no server was asked: what is there already, and has not changed, is not sent again")
    for warning in plan.warnings:
        output.warn(warning)
    return 0


def _prepare(
    ctx: click.Context,
    command: str,
    parts: Sequence[str] | None,
    servers: Sequence[str],
    *,
    force: bool,
    show_output: bool,
    dry_run: bool,
    as_json: bool,
    adopt: bool = False,
) -> int:
    from remote_launch.cli import prepared
    from remote_launch.cli.progress import ServerProgress
    from remote_launch.core.environments.differences import find_differences
    from remote_launch.operations.prepare import PARTS, plan_prepare
    from remote_launch.operations.prepare import prepare as run_prepare

    fleet = load_fleet(ctx)
    chosen = fleet.select(servers)
    plan = plan_prepare(fleet, chosen, parts or PARTS, force=force)
    if dry_run:
        if as_json:
            output.emit_json(command, plan.to_dict())
        else:
            prepared.show_plan(plan, {server.name: server.workdir for server in chosen})
        return 0
    warnings = list(plan.sync.warnings) if "rsync" in plan.parts else []
    for warning in () if as_json else warnings:
        output.warn(warning)
    try:
        with ServerProgress([server.name for server in chosen], show_output=show_output) as progress:
            outcomes = run_prepare(fleet, chosen, plan, progress.on_progress, adopt=adopt)
    except KeyboardInterrupt:
        output.say(f"stopped, on the servers too; the next rl {command} goes on from there")
        return INTERRUPTED
    differences = find_differences({name: result.versions for name, result in outcomes.values.items()})
    if as_json:
        data = [result.to_dict() for result in outcomes.values.values()]
        warnings += prepared.difference_texts(differences)
        return output.emit_outcomes(command, outcomes, data, warnings=warnings)
    prepared.show_results(plan, outcomes)
    prepared.show_differences(differences)
    return outcomes.exit_code
