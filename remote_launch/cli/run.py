"""rl run (foreground) and rl job-run (background)."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.completion import complete_files
from remote_launch.cli.options import (
    card_options,
    dry_run_option,
    env_dict,
    env_option,
    examples,
    json_option,
    load_fleet,
    server_option,
    single_server,
    supervision_options,
)
from remote_launch.cli.plans import show_job_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.job_specs import JobSpec
    from remote_launch.operations.fleet import Fleet

_WORDS = {"allow_interspersed_args": False}  # from the command's name on, all words are the command's


def _command(words: Sequence[str], cmd: str | None) -> list[str] | str:
    """Given the words after -- or the text of --cmd, return the command: an argv, or a string for the
    shell."""
    from remote_launch.errors import UsageError

    if words and cmd:
        raise UsageError("give the command after --, or with --cmd, not both")
    if not words and not cmd:
        raise UsageError("no command given", hint="for example: rl run --server NAME -- nvidia-smi")
    return list(words) if words else str(cmd)


command_argument = click.argument(
    "words",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[--] COMMAND [ARG]...",
    shell_complete=complete_files,
)


@click.command(
    context_settings=_WORDS,
    epilog=examples("rl run --server gpu-a -- nvidia-smi", "rl run --cmd 'python -V && df -h .'"),
)
@server_option
@click.option("--cmd", help="The command as one text for the shell.")
@env_option
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Stop it after this long.")
@click.option("--silent", is_flag=True, help="Hide the output.")
@command_argument
@click.pass_context
def run(
    ctx: click.Context,
    server: str | None,
    cmd: str | None,
    env: Sequence[str],
    timeout_s: float | None,
    silent: bool,
    words: Sequence[str],
) -> int:
    """Run a command on a server, in the project's folder and environment. Its exit code is passed on.

    Input that is piped in goes to the command. Ctrl-C ends the command on the server too.
    """
    from remote_launch.operations.run import run_command

    command = _command(words, cmd)
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    fleet = load_fleet(ctx)
    target = single_server(fleet, server)
    stdin = None if sys.stdin is None or sys.stdin.isatty() else _piped()

    def show(chunk: bytes, stream: int) -> None:
        if not silent:
            file = sys.stdout.buffer if stream == 1 else sys.stderr.buffer
            file.write(chunk)
            file.flush()

    done = run_command(
        fleet,
        target,
        argv,
        env=env_dict(env),
        stdin=stdin,
        timeout_s=timeout_s,
        on_stdout=lambda chunk: show(chunk, 1),
        on_stderr=lambda chunk: show(chunk, 2),
    )
    if done.exit_code is None:
        output.say(f"{target.name}: ended by signal {done.signal}")
        return 128 + int(getattr(signal, f"SIG{done.signal}", 1))
    return done.exit_code


def _piped() -> bytes | None:
    """Return what is piped in. Nothing is read from a stdin that nobody writes to (a terminal-less background
    run)."""
    import os
    import stat

    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return None
    return sys.stdin.buffer.read()


@click.command(
    "job-run",
    context_settings=_WORDS,
    epilog=examples("rl job-run --server gpu-a --tag prep -- python prep.py --fast"),
)
@server_option
@click.option("--cmd", help="The command as one text for the shell.")
@env_option
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="A tag; repeatable [default: custom, no-tags]."
)
@click.option("--name", default="", help="A name for the list [default: the command's first word].")
@card_options
@supervision_options
@dry_run_option
@json_option
@command_argument
@click.pass_context
def job_run(
    ctx: click.Context,
    server: str | None,
    cmd: str | None,
    env: Sequence[str],
    tags: Sequence[str],
    name: str,
    gpus: Sequence[str],
    gpus_per_node: int | None,
    busy_gpus: bool,
    queue: bool,
    slots: int | None,
    max_restarts: int | None,
    restart_window_s: float | None,
    stall_timeout_s: float | None,
    notify: str | None,
    dry_run: bool,
    as_json: bool,
    words: Sequence[str],
) -> int:
    """Start a command as a job: it goes on when the connection, or this computer, is gone."""
    from remote_launch.cli.job_table import queue_words
    from remote_launch.operations.start import job_spec, start_job

    command = _command(words, cmd)
    fleet = load_fleet(ctx)
    target = single_server(fleet, server)
    spec = job_spec(
        fleet,
        target.name,
        command,
        env=env_dict(env),
        tags=tags,
        name=name,
        max_restarts=max_restarts,
        restart_window_s=restart_window_s,
        stall_timeout_s=stall_timeout_s,
        notify=notify,
        queue=queue,
        slots=slots,
        gpus=_count_of_cards(gpus, gpus_per_node) if queue else None,
    )
    if gpus or (gpus_per_node is not None and not queue):
        spec = _with_cards(fleet, spec, gpus, gpus_per_node, take_busy=busy_gpus or queue)
    if dry_run:
        show_job_plan(spec, as_json=as_json)
        return 0
    job = start_job(fleet, spec)
    if as_json:
        output.emit_json("job-run", [job.to_dict()])
    else:
        waits = f" (queued: {queue_words(job)})" if queue_words(job) else ""
        click.echo(f"job {job.key} on {job.server}: {output.headline(job.command)}{waits}")
        output.say(f"watch it: rl job-tail {job.key}    stop it: rl job-kill {job.key}")
    return 0


def _count_of_cards(gpus: Sequence[str], per_node: int | None) -> int | None:
    """Given --gpus and --gpus-per-node, return how many cards a queued job waits for."""
    named = [name for text in gpus for name in text.rpartition(":")[2].split(",")]
    return len([name for name in named if name != "none"]) or per_node


def _with_cards(
    fleet: Fleet, spec: JobSpec, gpus: Sequence[str], gpus_per_node: int | None, *, take_busy: bool
) -> JobSpec:
    """Return the spec with the cards that the user wishes."""
    from remote_launch.core.gpus import read_wish
    from remote_launch.operations.gpus import choose_for_job

    wish = read_wish(gpus, gpus_per_node, [spec.server], take_busy=take_busy)
    spec, choice = choose_for_job(fleet, spec, wish)
    for warning in choice.warnings:
        output.warn(output.clean(warning, colour=False))
    return spec
