"""rl prepare, setup, rsync, update-packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remote_launch.cli import output
from remote_launch.cli.options import dry_run_option, examples, json_option, load_fleet, servers_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.prepare import PreparePlan, PrepareResult
    from remote_launch.operations.provision import StepResult
    from remote_launch.operations.sync import SyncPlan

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
    """Make servers ready: create the Python environment, send the project, install the packages. All servers
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
    if plan.warning and not as_json:
        output.warn(plan.warning)
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
    if plan.warning:
        output.warn(plan.warning)
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
    from remote_launch.cli.progress import ServerProgress
    from remote_launch.operations.prepare import PARTS, plan_prepare
    from remote_launch.operations.prepare import prepare as run_prepare

    fleet = load_fleet(ctx)
    chosen = fleet.select(servers)
    plan = plan_prepare(fleet, chosen, parts or PARTS, force=force)
    if dry_run:
        return _show_plan(command, plan, as_json=as_json)
    if plan.sync.warning and "rsync" in plan.parts and not as_json:
        output.warn(plan.sync.warning)
    with ServerProgress([server.name for server in chosen], show_output=show_output) as progress:
        outcomes = run_prepare(fleet, chosen, plan, progress.on_progress, adopt=adopt)
    if as_json:
        return output.emit_outcomes(
            command, outcomes, [result.to_dict() for result in outcomes.values.values()]
        )
    _show_results(outcomes)
    return outcomes.exit_code


def _show_plan(command: str, plan: PreparePlan, *, as_json: bool) -> int:
    data: dict[str, Any] = plan.to_dict()
    if as_json:
        output.emit_json(command, data)
        return 0
    for server, steps in data["servers"].items():
        click.echo(f"{server}:")
        for number, step in enumerate(steps, 1):
            extra = (
                f"  ({step['files']} files, {output.size_text(step['size_bytes'])})"
                if "files" in step
                else ""
            )
            click.echo(f"  {number}. {step['step']}{extra}")
            if step.get("args"):
                click.echo(f"     with {' '.join(str(word) for word in step['args'])}")
            for line in str(step.get("script", "")).strip().splitlines():
                click.echo(f"     | {line}")
    if plan.sync.warning:
        output.warn(plan.sync.warning)
    return 0


def _step_text(step: StepResult) -> str:
    """Return what is worth a word of a step that went well: that nothing was to do, or what was sent."""
    if step.same:
        return f"{step.name}: unchanged"
    more = f" ({output.clean(step.line, colour=False)})" if step.name in ("rsync", "check python") else ""
    return f"{step.name}: {output.duration_text(step.duration_s)}{more}"


def _show_results(outcomes: Outcomes[PrepareResult]) -> None:
    rows = output.Rows("server", "result", "time", "done")
    for outcome in outcomes:
        if outcome.value is not None:
            done = ", ".join(_step_text(step) for step in outcome.value.steps)
            rows.add_row(outcome.server, "ready", output.duration_text(outcome.duration_s), done)
        else:
            rows.add_row(
                outcome.server,
                "failed",
                output.duration_text(outcome.duration_s),
                getattr(outcome.error, "step", ""),
            )
    rows.show()
    output.show_failures(outcomes.errors.values())
