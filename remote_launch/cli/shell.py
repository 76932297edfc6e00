"""rl ssh, rl attach: a shell on a server, in a job's folder."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.options import complete_jobs, complete_servers, examples, load_fleet

if TYPE_CHECKING:
    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet


@click.command(epilog=examples("rl ssh gpu-a", "rl ssh gpu-a 12"))
@click.argument("server", shell_complete=complete_servers)
@click.argument("job", required=False, shell_complete=complete_jobs)
@click.pass_context
def ssh(ctx: click.Context, server: str, job: str | None) -> int:
    """Open a shell on SERVER, in the project's folder there (or JOB's), with the environment's programs and
    the server's variables. rl ends with the shell's exit code.

    JOB's own variables are there too, but for the secret ones.
    """
    from remote_launch.errors import UsageError

    fleet = load_fleet(ctx)
    fleet.server(server)
    record = fleet.registry.get(job) if job else None
    if record is not None and record.server != server:
        raise UsageError(
            f"job {record.key} is on {record.server}, not on {server}", hint=f"rl attach {record.key}"
        )
    return _open(fleet, server, record)


@click.command(epilog=examples("rl attach", "rl attach 12"))
@click.argument("job", required=False, shell_complete=complete_jobs)
@click.pass_context
def attach(ctx: click.Context, job: str | None) -> int:
    """Open a shell on JOB's server, in the job's folder, with its variables. The job goes on as it is.

    Default: the newest job that has not ended, of a launch its master; else the newest.
    """
    from remote_launch.cli.job_tail import job_to_show

    fleet = load_fleet(ctx)
    record, of_several = job_to_show(fleet, [job] if job else [], ())
    if of_several:
        output.say(f"job {record.key} on {record.server}: {output.headline(record.command)}")
    return _open(fleet, record.server, record)


def _open(fleet: Fleet, server: str, job: JobRecord | None) -> int:
    from remote_launch.errors import UsageError
    from remote_launch.operations.shell import open_shell

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("a shell needs a terminal", hint="for a command: rl run --server NAME -- COMMAND")
    open_shell(fleet, fleet.server(server), job)
