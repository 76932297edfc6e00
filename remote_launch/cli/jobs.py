"""rl job-list, job-show."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from remote_launch.cli import output
from remote_launch.cli.job_table import (
    attempt_lines,
    exit_text,
    network_text,
    node_text,
    print_jobs,
    rest_text,
)
from remote_launch.cli.options import (
    examples,
    jobs_argument,
    jobs_option,
    json_option,
    load_fleet,
    servers_option,
    tags_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet


_ON_TERMINAL = 200  # rows; 10,000 would take a terminal 15 seconds


@click.command("job-list", epilog=examples("rl job-list --rsync", "rl job-list --all --tag train.py --json"))
@click.option("--rsync", "ask", is_flag=True, help="Ask the servers first, and bring new log lines back.")
@click.option("-a", "--all", "show_all", is_flag=True, help="Ended jobs too.")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Only the newest N; 0: every one [default on a terminal: {_ON_TERMINAL}].",
)
@click.option("--nodes", is_flag=True, help="A row for each node of a launch, not one for the launch.")
@click.option("--stopped", is_flag=True, help="Ended jobs only.")
@click.option("--hidden", is_flag=True, hidden=True, help="Accepted for labml_remote's command lines.")
@tags_option
@servers_option
@json_option
@click.pass_context
def job_list(
    ctx: click.Context,
    ask: bool,
    show_all: bool,
    last: int | None,
    nodes: bool,
    stopped: bool,
    hidden: bool,
    tags: Sequence[str],
    servers: Sequence[str],
    as_json: bool,
) -> int:
    """List jobs, a launch in one row: the running ones, or with --all every one.

    States are as the servers last told; --rsync asks them now.
    """
    del hidden
    fleet = load_fleet(ctx, says_waits=True)
    chosen = fleet.select(servers)
    outcomes = _refresh(fleet, chosen) if ask else None
    jobs = _recorded(fleet, tags, ended=show_all or stopped)
    if fleet.registry.was_set_aside and outcomes is None:  # what it held is on the servers
        outcomes = _refresh(fleet, chosen)
        jobs = _recorded(fleet, tags, ended=show_all or stopped)
    if stopped:
        jobs = [job for job in jobs if job.state.is_terminal]
    if servers:
        jobs = [job for job in jobs if job.server in set(servers)]
    older = 0
    if last is None and sys.stdout.isatty() and not as_json:
        last = _ON_TERMINAL
    if last:
        jobs, older = _newest(jobs, last)
    if as_json:
        data = [job.to_dict() for job in jobs]
        if outcomes is not None:
            return output.emit_outcomes("job-list", outcomes, data)
        output.emit_json("job-list", data)
        return 0
    if jobs:
        if older:
            output.say(f"… {output.plural(older, 'older job')} (-n 0 shows every one)")
        print_jobs(jobs, fleet.inventory.servers, opened=nodes)
    else:
        running_only = not (show_all or stopped or tags)
        click.echo(_no_jobs(fleet, running_only=running_only, asked=outcomes is not None))
    if outcomes is not None:
        output.show_failures(outcomes.errors.values())
        return outcomes.exit_code
    return 0


def _no_jobs(fleet: Fleet, *, running_only: bool, asked: bool) -> str:
    """Return what stands in the place of an empty list, and where jobs may still be. ``asked``: the servers
    were."""
    said, more = ("no running jobs" if running_only else "no jobs"), ""
    if fleet.registry.newest(1):
        more = " (rl job-list --all shows the ended ones)" if running_only else ""
    elif not asked:
        more = " (none are known here; rl job-list --rsync asks the servers)"
    return said + more


def _newest(jobs: Sequence[JobRecord], count: int) -> tuple[list[JobRecord], int]:
    """Return the newest jobs, with all nodes of their launches, and how many are left out."""
    launches = {job.launch_id for job in jobs[-count:] if job.launch_id}
    first = len(jobs) - count
    chosen = [job for number, job in enumerate(jobs) if number >= first or job.launch_id in launches]
    return chosen, len(jobs) - len(chosen)


def _recorded(fleet: Fleet, tags: Sequence[str], *, ended: bool) -> list[JobRecord]:
    from remote_launch.core.registry import select_by_tags

    if not ended:
        return select_by_tags(fleet.registry.unfinished(), tags)
    return fleet.registry.tagged(tags) if tags else fleet.registry.all()


def _refresh(fleet: Fleet, servers: Sequence[Any]) -> Outcomes[Any]:
    from remote_launch.operations.refresh import refresh

    outcomes = refresh(fleet, servers, logs=True)
    for server, told in outcomes.values.items():
        for text in told.bad:
            output.warn(f"{server}: {output.clean(text, colour=False)}")
    return outcomes


def _unreachable(job: JobRecord) -> str:
    """Return ", unreachable for 4m 10s" for a job whose server can't be asked: its state is an old one."""
    from remote_launch.core.jobs import now

    if not job.unreachable_since or job.state.is_terminal:
        return ""
    return f", unreachable for {output.duration_text(max(0.0, now() - job.unreachable_since))}"


@click.command("job-show", epilog=examples("rl job-show 12"))
@jobs_argument
@jobs_option
@click.option("--rsync", "ask", is_flag=True, help="Ask the server first.")
@json_option
@click.pass_context
def job_show(
    ctx: click.Context, keys: Sequence[str], job_options: Sequence[str], ask: bool, as_json: bool
) -> int:
    """Show a job, or the launch it belongs to: what it came to and why, its last lines, its command and
    times. Default: the newest."""
    from remote_launch.core.verdict import verdict_of
    from remote_launch.operations.refresh import refresh_jobs

    fleet = load_fleet(ctx, says_waits=True)
    groups = launch_groups(fleet, [*keys, *job_options])
    shown = []
    for group in groups:
        stale = ask or any(not job.state.is_terminal for job in group)
        current = refresh_jobs(fleet, group) if stale else group
        verdict = verdict_of(current)
        shown.append({"verdict": verdict.to_dict(), "jobs": [job.to_dict() for job in current]})
        if not as_json:
            _show_group(current, verdict, fleet.inventory.jobs_folder_name)
    if as_json:
        output.emit_json("job-show", shown)
    return 0


def launch_groups(fleet: Fleet, keys: Sequence[str]) -> list[list[JobRecord]]:
    """Given keys (none: the newest job), return each job's whole launch, or the job alone."""
    from remote_launch.errors import NO_JOBS_HINT, UnknownJobError

    jobs = [fleet.registry.get(key) for key in keys]
    if not keys:
        jobs = fleet.registry.newest(1)
        if not jobs:
            raise UnknownJobError("there are no jobs yet", hint=NO_JOBS_HINT)
    groups: dict[str, list[JobRecord]] = {}
    for job in jobs:
        groups.setdefault(
            job.launch_id or job.job_id, fleet.registry.launch(job.launch_id) if job.launch_id else [job]
        )
    return list(groups.values())


def _show_group(jobs: Sequence[JobRecord], verdict: Any, jobs_folder: str) -> None:
    from remote_launch.core.places import replacements

    def line(name: str, text: object) -> None:
        click.echo(f"{name:<10} {indented(str(text))}")

    def indented(text: str) -> str:
        return output.clean(text, colour=False).replace("\n", "\n" + " " * 11)

    first = jobs[0]
    click.echo(
        click.style(verdict.state.value, fg=_click_colour(verdict.state.value), bold=True)
        + ("" if verdict.text.upper() == verdict.state.value else f": {indented(verdict.text)}")
    )
    cause = verdict.cause or {}
    for text in output.last_words(cause.get("tail")):
        click.echo(f"    {output.clean(text, colour=False)}")
    line("command", first.command)
    if first.launch_id:
        line("launch", first.launch_id)
    line("tags", ", ".join(first.tags))
    # A node that was lost, and a spare, know of some attempts only.
    attempts = max((attempt_lines(job) for job in jobs), key=len)
    for text in attempts:
        line("attempt", text)
    if attempts:
        line("", f"rl job-tail {first.key} --attempt 0 shows the output of that one")
    for text in [text for job in jobs if (text := rest_text(job))][:1]:
        line("next", text)
    for gone, spare in replacements(jobs).items():
        line("spare", f"{spare} took the place of {gone}")
    for job in jobs:
        node = f" node {node_text(job)}" if job.node_rank is not None else ""
        code = f" {exit_text(job)}" if exit_text(job) else ""
        line(
            f"job {job.key}",
            f"{job.server}{node}: {job.state}{code}{_unreachable(job)}"
            + (f" ({job.reason})" if job.reason else ""),
        )
        line(
            "",
            f"id {job.job_id}, started {output.time_text(job.started_at)}, "
            f"ran {output.duration_text(job.duration_s)}",
        )
        line("", f"folder {job.workdir}/{jobs_folder}/{job.job_id}")
        if network := network_text(job):
            line("", f"network {network}")


def _click_colour(state: str) -> str:
    return output.STATE_STYLES[state]
