"""rl job-tail: the lines of a job, as they come or as they were."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.options import (
    choose_jobs,
    examples,
    jobs_argument,
    jobs_option,
    load_fleet,
    tags_option,
)
from remote_launch.cli.times import Since

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet


@click.command(
    "job-tail",
    epilog=examples(
        "rl job-tail",
        "rl job-tail 12 --all-ranks",
        "rl job-tail --rank 3 --since 10m --grep 'loss|lr'",
        "rl job-tail --tag train.py --lines 100",
    ),
)
@jobs_argument
@jobs_option
@tags_option
@click.option(
    "--rank",
    "ranks",
    multiple=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="This rank of the launch, on whichever node it is; repeatable.",
)
@click.option("--all-ranks", is_flag=True, help="Every rank of every node of the launch.")
@click.option("--launcher", "show_launcher", is_flag=True, help="Also what torchrun itself prints.")
@click.option("--grep", metavar="PATTERN", help="Only lines in which this regular expression is found.")
@click.option("-F", "--fixed-strings", is_flag=True, help="The pattern of --grep is plain text.")
@click.option(
    "-n",
    "--lines",
    default=20,
    show_default=True,
    help="Begin with this many last lines of each log; -1: from the start.",
)
@click.option(
    "--since",
    "since_age_s",
    type=Since(),
    metavar="TIME",
    help="Begin with what was written since: 30s, 10m, 2h, 1d ago, or a time as 2026-11-21T10:00.",
)
@click.option(
    "--attempt",
    type=click.IntRange(min=0),
    metavar="K",
    help="This attempt of a job that was restarted; 0 is the first [default: the newest and what follows].",
)
@click.option("--no-follow", is_flag=True, help="Print what is there and end.")
@click.option("--delay", type=int, default=5, hidden=True, help="labml_remote's; 0 is --no-follow.")
@click.pass_context
def job_tail(
    ctx: click.Context,
    keys: Sequence[str],
    job_options: Sequence[str],
    tags: Sequence[str],
    ranks: tuple[int, ...],
    all_ranks: bool,
    show_launcher: bool,
    grep: str | None,
    fixed_strings: bool,
    lines: int,
    since_age_s: float | None,
    attempt: int | None,
    no_follow: bool,
    delay: int,
) -> int:
    """Show a job's output as it is written, until it ends. Default: the newest launch's master; of it, the
    first rank.

    The connection may be lost and come back: no line is lost or repeated. Ctrl-C leaves the job running.
    """
    from remote_launch.cli.following import follow_to_end, has_several_sources
    from remote_launch.cli.log_printer import Printer
    from remote_launch.operations.follow import Follower
    from remote_launch.operations.log_events import Selection

    pattern = _pattern(grep, plain=fixed_strings)
    fleet = load_fleet(ctx)
    job, of_several = job_to_show(fleet, [*keys, *job_options], tags)
    launch = fleet.registry.launch(job.launch_id) if job.launch_id else [job]
    is_over = attempt is not None and attempt < job.attempt
    is_live = not (no_follow or delay <= 0 or is_over)
    watched, chosen = _watched(fleet, job, launch, ranks, all_ranks=all_ranks)
    is_named = bool(keys or job_options or attempt is not None)
    if job.is_master and chosen == (0,) and not ranks and not is_named:
        watched = _first_rank(fleet, job, launch, is_live=is_live)
    if of_several:
        more = f" +{len(watched) - 1}" if len(watched) > 1 else ""
        output.say(f"job {watched[0].key} on {watched[0].server}{more}: {output.headline(job.command)}")
    selection = Selection(
        ranks=chosen,
        # torchrun's own words bury the ranks'; the verdict has them when they matter
        launcher=show_launcher or job.launch_id is None,
        lines=lines,
        since_age_s=since_age_s,
        attempt=attempt,
    )
    if not is_live:
        printer = Printer(watched, prefixes=has_several_sources(watched, chosen), grep=pattern)
        with Follower(fleet, watched, selection, until_end=False) as events:
            for event in events:
                printer.show(event)
        printer.clear()
        return 1 if printer.failed else 0
    return follow_to_end(
        fleet,
        launch,
        as_json=False,
        selection=selection,
        watched=watched,
        grep=pattern,
        asks=False,  # who only looked on leaves at once
    )


def _watched(
    fleet: Fleet, job: JobRecord, launch: Sequence[JobRecord], ranks: tuple[int, ...], *, all_ranks: bool
) -> tuple[Sequence[JobRecord], tuple[int, ...] | None]:
    """Return the jobs to follow, and which global ranks of theirs (None: all)."""
    from remote_launch.errors import UsageError
    from remote_launch.operations.rank_places import jobs_with_ranks

    if ranks and all_ranks:
        raise UsageError("--rank and --all-ranks exclude each other", hint="leave one out")
    if ranks and job.launch_id is None:
        raise UsageError(f"job {job.key} has no ranks", hint="ranks are torch-launch's; leave --rank out")
    if ranks:
        return jobs_with_ranks(fleet, launch, ranks), tuple(sorted(set(ranks)))
    return (launch, None) if all_ranks else ([job], (0,) if job.is_master else None)


def _first_rank(
    fleet: Fleet, job: JobRecord, launch: Sequence[JobRecord], *, is_live: bool
) -> Sequence[JobRecord]:
    """Given a launch's master, return the jobs that are rank 0, or may come to be it: a spare may have taken
    the master's place, or take it yet."""
    from remote_launch.core.places import is_spare, now_in_place_of
    from remote_launch.operations.refresh import refresh_jobs

    spares = [one for one in launch if is_spare(one)]
    if spares and not all(one.state.is_terminal for one in launch):
        launch = refresh_jobs(fleet, launch)
    now = now_in_place_of(job, launch)
    if not is_live or now.state.is_terminal:
        return [now]
    return [now, *(one for one in launch if is_spare(one) and one.job_id != now.job_id)]


def _pattern(grep: str | None, *, plain: bool) -> re.Pattern[str] | None:
    from remote_launch.errors import UsageError

    if grep is None:
        if plain:
            raise UsageError("-F says how --grep's pattern is meant, and there is no --grep", hint="--grep")
        return None
    try:
        return re.compile(re.escape(grep) if plain else grep)
    except re.error as error:
        raise UsageError(f"--grep {grep!r}: {error}", hint="-F takes the pattern as plain text") from None


def job_to_show(fleet: Fleet, keys: Sequence[str], tags: Sequence[str]) -> tuple[JobRecord, bool]:
    """Given keys or tags, return the one job to show: running before ended, master before others, newest
    first; and whether there was a choice."""
    from remote_launch.errors import NO_JOBS_HINT, UnknownJobError, UsageError

    jobs = choose_jobs(fleet, keys, tags)
    if keys and len(jobs) > 1:
        raise UsageError(
            f"one job or launch is shown at a time, and {len(jobs)} are named",
            hint="--all-ranks shows all nodes of a launch; several jobs, a terminal each",
        )
    if not jobs:
        raise UnknownJobError("there are no jobs yet", hint=NO_JOBS_HINT)
    best = max(
        jobs,
        key=lambda job: (not job.state.is_terminal, job.created_at, job.is_master, -(job.node_rank or 0)),
    )
    # Jobs of one launch are created together; the newest launch's master is meant, not its last node.
    if not keys and best.launch_id and not best.is_master:
        masters = [job for job in jobs if job.launch_id == best.launch_id and job.is_master]
        best = masters[0] if masters else best
    return best, len(jobs) > 1
