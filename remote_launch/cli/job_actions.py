"""rl job-wait, job-kill, job-rsync."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from remote_launch.cli import notifying, output
from remote_launch.cli.job_table import exit_text
from remote_launch.cli.jobs import launch_groups
from remote_launch.cli.options import (
    choose_jobs,
    examples,
    grace_option,
    jobs_argument,
    jobs_option,
    json_option,
    load_fleet,
    notify_local_option,
    servers_option,
    tags_option,
    yes_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.kill import KillResult
    from remote_launch.operations.pull import Pulled


@click.command("job-wait", epilog=examples("rl job-wait && echo trained"))
@jobs_argument
@jobs_option
@tags_option
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    metavar="SECONDS",
    help="Give up after this long (exit code 124); the jobs go on.",
)
@notify_local_option
@json_option
@click.pass_context
def job_wait(
    ctx: click.Context,
    keys: Sequence[str],
    job_options: Sequence[str],
    tags: Sequence[str],
    timeout_s: float | None,
    notify_local: str | None,
    as_json: bool,
) -> int:
    """Wait until jobs have ended; exit with their exit code (of the rank that failed first). Default: the
    newest launch or job."""
    import time

    from remote_launch.cli.following import show_verdict
    from remote_launch.errors import RemoteLaunchError
    from remote_launch.operations.wait import wait_jobs

    fleet = load_fleet(ctx)
    words = [*keys, *job_options]
    if tags and not words:
        tagged = choose_jobs(fleet, words, tags)
        running = [job for job in tagged if not job.state.is_terminal]
        words = [job.job_id for job in running or tagged[-1:]]
    exit_code, shown = 0, []
    errors: list[RemoteLaunchError] = []
    groups, began_at = launch_groups(fleet, words), time.monotonic()
    for group in groups:
        try:
            current, verdict = wait_jobs(fleet, group, timeout_s=timeout_s, began_at=began_at)
        except RemoteLaunchError as error:
            if len(groups) == 1:
                raise
            errors.append(error)  # it says nothing of the others
            continue
        exit_code = exit_code or verdict.exit_code
        shown.append({"verdict": verdict.to_dict(), "jobs": [job.to_dict() for job in current]})
        if not as_json:
            show_verdict(current, verdict)
        notifying.notify_local(notify_local, current, verdict)
    if as_json:
        status = "ok" if not errors else "partial" if shown else "error"
        output.emit_json("job-wait", shown, status=status, errors=errors)
    else:
        output.show_failures(errors)
    return errors[0].exit_code if errors else exit_code


@click.command(
    "job-kill", epilog=examples("rl job-kill 12", "rl job-kill --tag train.py", "rl job-kill --yes")
)
@jobs_argument
@jobs_option
@tags_option
@servers_option
@click.option("--signal", "signal_word", default="TERM", show_default=True, help="What the job gets first.")
@grace_option
@yes_option
@json_option
@click.pass_context
def job_kill(
    ctx: click.Context,
    keys: Sequence[str],
    job_options: Sequence[str],
    tags: Sequence[str],
    servers: Sequence[str],
    signal_word: str,
    grace_s: float,
    yes: bool,
    as_json: bool,
) -> int:
    """Stop jobs with all their processes, and make sure that they are gone. With no job and no tag: asks,
    then all.

    A node of a launch takes the whole launch with it.
    """
    from remote_launch.errors import UsageError
    from remote_launch.operations.kill import kill_jobs, signal_name
    from remote_launch.operations.refresh import refresh

    fleet = load_fleet(ctx, says_waits=True)
    signal = signal_name(signal_word)
    words = [*keys, *job_options]
    chosen = fleet.select(servers)
    if not words:
        refresh(fleet, chosen)
    jobs = choose_jobs(fleet, words, tags)
    jobs = _with_launches(fleet, [job for job in jobs if not servers or job.server in set(servers)])
    running = [job for job in jobs if not job.state.is_terminal or _may_live_on(job, named=bool(words))]
    if not running:
        if as_json:
            output.emit_json("job-kill", [])
        else:
            click.echo("nothing to stop: " + ("no running jobs" if not words else "already ended"))
        return 0
    if not words and not tags and not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                f"stop all {output.plural(len(running), 'running job')}?", hint="--yes, or name the jobs"
            )
        click.confirm(f"stop all {output.plural(len(running), 'running job')}?", abort=True, err=True)
    results = kill_jobs(fleet, running, signal=signal, grace_s=grace_s)
    return _show_kills(results, as_json=as_json)


def _may_live_on(job: JobRecord, *, named: bool) -> bool:
    """True for a lost job whose processes may run without their supervisor: they were seen, or it was
    named."""
    from remote_launch.core.jobs import JobState

    return job.state is JobState.LOST and (named or bool(job.details.get("left_over")))


def _with_launches(fleet: Fleet, jobs: Sequence[JobRecord]) -> list[JobRecord]:
    """Given jobs, return them with the other nodes of their launches."""
    members = fleet.registry.launches({job.launch_id for job in jobs if job.launch_id})
    return list({job.job_id: job for job in [*jobs, *members]}.values())


def _show_kills(results: Sequence[KillResult], *, as_json: bool) -> int:
    bad = [result for result in results if not result.ok]
    exit_code = 0 if not bad else 3 if len(bad) < len(results) else 1
    if as_json:
        status = {0: "ok", 3: "partial", 1: "error"}[exit_code]
        errors = [failure for result in bad if (failure := result.failure) is not None]
        output.emit_json("job-kill", [result.to_dict() for result in results], status=status, errors=errors)
        return exit_code
    rows = output.Rows("key", "server", "outcome", "state", "exit", "")
    for result in results:
        left = f"{result.left_over} processes left" if result.left_over else ""
        rows.add_row(
            str(result.job.key),
            result.job.server,
            result.outcome.replace("_", " "),
            output.state_cell(result.job.state),
            exit_text(result.job),
            output.clean(" ".join(part for part in (result.message, left) if part), colour=False),
        )
    rows.show()
    return exit_code


@click.command("job-rsync", epilog=examples("rl job-rsync --watch"))
@servers_option
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--delay",
    type=click.FloatRange(min=0.2),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two rounds of --watch.",
)
@click.option("--no-outputs", is_flag=True, help="Leave what the inventory names as outputs there.")
@json_option
@click.pass_context
def job_rsync(
    ctx: click.Context, servers: Sequence[str], watch: bool, delay: float, no_outputs: bool, as_json: bool
) -> int:
    """Bring the states and logs of jobs back, to .remote/jobs/<job id>/, and what the inventory names as
    outputs, to .remote/outputs/<server>/."""
    import time

    from remote_launch.cli.pull import transfer
    from remote_launch.operations.pull import pull_outputs
    from remote_launch.operations.refresh import refresh

    fleet = load_fleet(ctx)
    chosen = fleet.select(servers)
    while True:
        outcomes = refresh(fleet, chosen, logs=True)
        asked = [server for server in chosen if server.name in outcomes.values and not no_outputs]
        with transfer("pull", [server.name for server in asked], quiet=as_json) as on_bytes:
            pulled, failures = pull_outputs(fleet, asked, on_bytes=on_bytes)
        errors = [*outcomes.errors.values(), *failures]
        exit_code = outcomes.exit_code or (3 if failures else 0)
        if as_json:
            folders = {"jobs_folder": fleet.project.jobs_dir, "outputs_folder": fleet.project.outputs_dir}
            data = {
                **{name: str(folder) for name, folder in folders.items()},
                "outputs": [one.to_dict() for one in pulled.values()],
            }
            status = {0: "ok", 3: "partial", 1: "error"}[exit_code]
            output.emit_json("job-rsync", data, status=status, errors=errors)
        else:
            changed = sum(told.changed for told in outcomes.values.values())
            click.echo(f"logs are in {fleet.project.jobs_dir}; {output.plural(changed, 'state')} changed")
            _say_outputs(fleet, list(pulled.values()))
            output.show_failures(errors)
        if not watch:
            return exit_code
        time.sleep(delay)


def _say_outputs(fleet: Fleet, pulled: Sequence[Pulled]) -> None:
    if not pulled:
        return
    files, size_bytes = (sum(getattr(one, name) for one in pulled) for name in ("files", "size_bytes"))
    new = f"{output.plural(files, 'file')} came, {output.size_text(size_bytes)}" if files else "nothing new"
    click.echo(f"outputs are in {fleet.project.outputs_dir}; {new}")
