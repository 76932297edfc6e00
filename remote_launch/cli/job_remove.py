"""rl job-rm, job-prune."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.options import (
    choose_jobs,
    dry_run_option,
    examples,
    jobs_argument,
    jobs_option,
    json_option,
    load_fleet,
    servers_option,
    tags_option,
    yes_option,
)
from remote_launch.cli.times import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.jobs import JobRecord
    from remote_launch.errors import RemoteLaunchError
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.remove import Removal

_ROWS = 50  # of a table that a person reads before saying yes
_ENDED = ("SUCCEEDED", "FAILED", "KILLED", "LOST")


@click.command("job-rm", epilog=examples("rl job-rm 12 13", "rl job-rm --tag sweep --dry-run"))
@jobs_argument
@jobs_option
@tags_option
@servers_option
@click.option(
    "--forget",
    is_flag=True,
    help="Also jobs whose server is no longer in the inventory: what is here of them.",
)
@dry_run_option
@yes_option
@json_option
@click.pass_context
def job_rm(
    ctx: click.Context,
    keys: Sequence[str],
    job_options: Sequence[str],
    tags: Sequence[str],
    servers: Sequence[str],
    forget: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove ended jobs: their folders on the servers, their logs here, their rows in the list. Asks first.

    A node of a launch takes the whole launch with it. What runs or waits stays.
    """
    from remote_launch.errors import UsageError
    from remote_launch.operations.refresh import refresh_jobs

    words = [*keys, *job_options]
    if not words and not tags:
        raise UsageError("which jobs?", hint="name their keys, or --tag; rl job-prune removes old ones")
    _require_an_answer(yes=yes, dry_run=dry_run, as_json=as_json)
    fleet = load_fleet(ctx)
    fleet.select(servers)
    chosen = choose_jobs(fleet, words, tags)
    if words and tags:
        chosen = [job for job in chosen if set(tags) <= set(job.tags)]
    chosen = [job for job in chosen if not servers or job.server in set(servers)]
    members = fleet.registry.launches({job.launch_id for job in chosen if job.launch_id})
    jobs = list({job.job_id: job for job in [*chosen, *members]}.values())
    refresh_jobs(fleet, [job for job in jobs if not job.state.is_terminal])
    jobs = [fleet.registry.get(job.job_id) for job in jobs]
    return _remove(ctx, fleet, jobs, forget=forget, dry_run=dry_run, yes=yes, as_json=as_json)


@click.command(
    "job-prune",
    epilog=examples(
        "rl job-prune --older 30d",
        "rl job-prune --keep 100",
        "rl job-prune --older 7d --state failed --dry-run",
    ),
)
@click.option(
    "--older", "older_s", type=Span(), metavar="AGE", help="Jobs that ended longer ago: 30d, 12h, 2w."
)
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    metavar="N",
    help="The N newest that have ended stay, whatever their age; a launch is one.",
)
@click.option(
    "--state",
    "state_names",
    multiple=True,
    type=click.Choice([name.lower() for name in _ENDED], case_sensitive=False),
    help="Only those that ended so; repeatable.",
)
@servers_option
@dry_run_option
@yes_option
@json_option
@click.pass_context
def job_prune(
    ctx: click.Context,
    older_s: float | None,
    keep: int | None,
    state_names: Sequence[str],
    servers: Sequence[str],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove old jobs, on the servers and here. Asks the servers for their jobs first; what runs or waits
    stays."""
    from remote_launch.core.jobs import JobState
    from remote_launch.errors import UsageError
    from remote_launch.operations.refresh import refresh
    from remote_launch.operations.remove import old_jobs

    if older_s is None and keep is None:
        raise UsageError("which jobs are old?", hint="--older 30d, or --keep 100, or both")
    _require_an_answer(yes=yes, dry_run=dry_run, as_json=as_json)
    fleet = load_fleet(ctx)
    chosen = fleet.select(servers)
    outcomes = refresh(fleet, chosen)
    jobs = old_jobs(
        fleet,
        {server.name for server in chosen},
        older_s=older_s,
        keep=keep or 0,
        states=[JobState(name.upper()) for name in state_names],
    )
    return _remove(
        ctx, fleet, jobs, dry_run=dry_run, yes=yes, as_json=as_json, errors=list(outcomes.errors.values())
    )


def _require_an_answer(*, yes: bool, dry_run: bool, as_json: bool) -> None:
    if not (yes or dry_run or (sys.stdin.isatty() and not as_json)):
        from remote_launch.errors import UsageError

        raise UsageError("this asks before it removes", hint="--yes, or --dry-run to see what would go")


def _remove(
    ctx: click.Context,
    fleet: Fleet,
    jobs: Sequence[JobRecord],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    forget: bool = False,
    errors: Sequence[RemoteLaunchError] = (),
) -> int:
    """Show what there is, ask, remove, tell. ``errors`` are those of servers that could not be asked."""
    from remote_launch.operations.remove import measure, remove

    found = measure(fleet, jobs, forget=forget)
    ready = [removal for removal in found if removal.can_go]
    if not as_json:
        _show(found)
    if not (dry_run or yes or not ready) and not click.confirm(
        f"Remove {output.plural(len(ready), 'job')}?", default=False, err=True
    ):
        output.say("nothing was removed")
        return 1
    results = list(found)
    if not dry_run and ready:
        removed = remove(fleet, [removal.job for removal in ready], forget=forget)
        sizes = {removal.job.job_id: removal for removal in found}
        results = [*(removal for removal in found if not removal.can_go), *removed]
        if not as_json:
            _tell(removed, sizes)
    failed = [removal for removal in results if not removal.can_go]
    told = {str(error): error for error in [*errors, *(r.error for r in failed if r.error is not None)]}
    exit_code = 0 if not failed and not errors else 3 if len(results) > len(failed) else 1
    if as_json:
        status = {0: "ok", 3: "partial", 1: "error"}[exit_code]
        data = [removal.to_dict() for removal in results]
        output.emit_json(str(ctx.info_name), data, status=status, errors=told.values())
    else:
        output.show_failures(told.values())
    return exit_code


def _show(found: Sequence[Removal]) -> None:
    if not found:
        output.say("there is nothing to remove")
        return
    rows = output.Rows("key", "server", "state", "ended", "there", "here", "command", "")
    for removal in sorted(found, key=lambda one: one.can_go)[:_ROWS]:  # what stays first: it is to be seen
        job = removal.job
        rows.add_row(
            str(job.key),
            job.server,
            output.state_cell(job.state),
            output.time_text(job.ended_at),
            output.size_text(removal.remote_bytes if removal.can_go else None),
            output.size_text(removal.local_bytes),
            output.headline(job.command),
            "" if removal.can_go else _why_it_stays(removal),
        )
    rows.show()
    if len(found) > _ROWS:
        output.say(f"… and {len(found) - _ROWS} more (--dry-run --json has them all)")
    ready = [removal for removal in found if removal.can_go]
    output.say(f"{output.plural(len(ready), 'job')} to remove: {_sizes(ready)}")


def _why_it_stays(removal: Removal) -> str:
    if removal.outcome == "unreachable":
        return "stays, here too: its server can't be reached"
    return f"stays: {removal.reason or removal.job.state.value.lower()}"


def _sizes(removals: Sequence[Removal]) -> str:
    servers = {removal.job.server for removal in removals}
    there = output.size_text(sum(removal.remote_bytes for removal in removals))
    here = output.size_text(sum(removal.local_bytes for removal in removals))
    return f"{there} on {output.plural(len(servers), 'server')}, {here} here"


def _tell(removed: Sequence[Removal], measured: dict[str, Removal]) -> None:
    gone = [measured[removal.job.job_id] for removal in removed if removal.outcome == "removed"]
    click.echo(f"removed {output.plural(len(gone), 'job')}: {_sizes(gone)}")
    for removal in removed:
        if removal.reason and removal.error is None:
            stays = "" if removal.outcome == "removed" else "it stays: "
            text = f"job {removal.job.key} on {removal.job.server}: {stays}{removal.reason}"
            output.say(output.clean(text, colour=False))
