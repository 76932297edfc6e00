"""rl torch-launch, and helper-torch-launch for labml_remote's users."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.completion import complete_files, complete_ranks
from remote_launch.cli.options import (
    card_options,
    dry_run_option,
    env_dict,
    env_option,
    examples,
    grace_option,
    json_option,
    load_fleet,
    notify_local_option,
    servers_option,
    supervision_options,
    together,
)
from remote_launch.cli.plans import show_launch_plan, show_started

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.torchrun import Script
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.launch import LaunchRequest


_launch_options = together(
    servers_option,
    click.option(
        "--nproc-per-node",
        metavar="N|gpu|cpu|auto",
        shell_complete=complete_ranks,
        help="Ranks a server [default: nproc_per_node of the inventory].",
    ),
    card_options,
    click.option("--cmd", "--python-cmd", "cmd", help="The script and its arguments as one text."),
    click.option("-m", "--module", is_flag=True, help="The script is a module name, as for python -m."),
    click.option("--master", metavar="NAME", help="The server of rank 0 [default: the first]."),
    click.option(
        "--master-port", type=click.IntRange(1, 65535), help="[default: a free port, asked of the master]"
    ),
    env_option,
    click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="TAG",
        help="A tag; repeatable [default: the words of the command, distributed, torch].",
    ),
    grace_option,
    click.option(
        "--nnodes",
        type=click.IntRange(min=1),
        metavar="N",
        help="Run on the first N of the servers; the others are spares [default: all].",
    ),
    click.option(
        "--spare",
        "spares",
        type=click.IntRange(min=0),
        metavar="N",
        help="Let the last N of the servers stand by, to replace a lost one at a restart.",
    ),
    supervision_options,
    notify_local_option,
    click.option(
        "--clean-outputs", is_flag=True, help="First remove the outputs (inventory) on all its servers."
    ),
    click.option("--rsync", "send", is_flag=True, help="Send the project first, as rl rsync does."),
    click.option(
        "-f",
        "--follow",
        is_flag=True,
        help="Show the logs of all ranks until the end; exit with the launch's exit code.",
    ),
    click.option(
        "--no-check",
        "check",
        flag_value=False,
        is_flag=True,
        default=True,
        help="Start without the quick check that the nodes reach each other and have one torch.",
    ),
    dry_run_option,
    json_option,
)


def _launch_command(name: str, help_text: str, epilog: str, *, passes_local_rank: bool) -> click.Command:
    """Make one of the two commands. With ``passes_local_rank`` the script gets --local_rank=N unless
    --use-env."""

    @click.command(name, help=help_text, epilog=epilog, context_settings={"allow_interspersed_args": False})
    @_launch_options
    @click.option(
        "--use-env",
        is_flag=True,
        hidden=not passes_local_rank,  # torchrun's only way; accepted for labml_remote's command lines
        help="Do not pass --local_rank=N to the script.",
    )
    @click.argument(
        "words",
        nargs=-1,
        type=click.UNPROCESSED,
        metavar="SCRIPT [ARG]...",
        shell_complete=complete_files,
    )
    @click.pass_context
    def command(
        ctx: click.Context,
        servers: Sequence[str],
        nproc_per_node: str | None,
        gpus: Sequence[str],
        gpus_per_node: int | None,
        busy_gpus: bool,
        queue: bool,
        slots: int | None,
        cmd: str | None,
        module: bool,
        master: str | None,
        master_port: int | None,
        env: Sequence[str],
        tags: Sequence[str],
        grace_s: float,
        nnodes: int | None,
        spares: int | None,
        max_restarts: int | None,
        restart_window_s: float | None,
        stall_timeout_s: float | None,
        notify: str | None,
        notify_local: str | None,
        clean_outputs: bool,
        send: bool,
        follow: bool,
        check: bool,
        dry_run: bool,
        as_json: bool,
        use_env: bool,
        words: Sequence[str],
    ) -> int:
        from remote_launch.operations.launch import LaunchRequest

        script = _script(words, cmd, module=module, pass_local_rank=passes_local_rank and not use_env)
        request = LaunchRequest(
            script=script,
            servers=servers,
            nproc_per_node=nproc_per_node,
            gpus=gpus,
            gpus_per_node=gpus_per_node,
            busy_gpus=busy_gpus,
            queue=queue or slots is not None,
            slots=slots,
            master=master,
            master_port=master_port,
            env=env_dict(env),
            tags=tags,
            grace_s=grace_s,
            nnodes=nnodes,
            spares=spares,
            max_restarts=max_restarts,
            restart_window_s=restart_window_s,
            stall_timeout_s=stall_timeout_s,
            notify=notify,
            clean_outputs=clean_outputs,
            check=check,
        )
        if notify_local and not follow:
            from remote_launch.errors import UsageError

            raise UsageError("--notify-local needs --follow", hint="or rl job-wait --notify-local CMD, later")
        return _launch(
            load_fleet(ctx, says_waits=True),
            request,
            send=send,
            follow=follow,
            dry_run=dry_run,
            as_json=as_json,
            notify_local=notify_local,
        )

    return command


torch_launch = _launch_command(
    "torch-launch",
    """Run a script under torchrun on all servers at once, with ranks, addresses and ports set.

    Comes back at once; the job goes on without this computer. Everything after the script's name is the
    script's own.""",
    examples(
        "rl torch-launch --nproc-per-node 2 train.py --epochs 3",
        "rl torch-launch --nproc-per-node gpu --follow -m package.train lr=0.1",
        "rl torch-launch --nproc-per-node 1 --cmd 'train.py --epochs 3' --env NCCL_DEBUG=INFO",
    ),
    passes_local_rank=False,
)
helper_torch_launch = _launch_command(
    "helper-torch-launch",
    "torch-launch under labml_remote's name: without --use-env the script also gets --local_rank=N.",
    examples("rl helper-torch-launch --nproc-per-node 2 --use-env --cmd 'train.py --epochs 3'"),
    passes_local_rank=True,
)


def _script(words: Sequence[str], cmd: str | None, *, module: bool, pass_local_rank: bool) -> Script:
    from remote_launch.core.torchrun import Script, parse_cmd
    from remote_launch.errors import UsageError

    if words and cmd:
        raise UsageError("give the script after the options, or with --cmd, not both")
    if not words and not cmd:
        raise UsageError(
            "no script given", hint="for example: rl torch-launch --nproc-per-node 2 train.py --epochs 3"
        )
    name, *args = words or parse_cmd(str(cmd))
    if name == "-m" and args:
        module, (name, *args) = True, args
    return Script(name=name, args=tuple(args), module=module, pass_local_rank=pass_local_rank)


def _launch(
    fleet: Fleet,
    request: LaunchRequest,
    *,
    send: bool,
    follow: bool,
    dry_run: bool,
    as_json: bool,
    notify_local: str | None,
) -> int:
    from remote_launch.operations.launch import plan_launch, start_launch
    from remote_launch.operations.preflight import check_script

    check_script(fleet, request.script)
    if send and not dry_run:
        from remote_launch.operations.sync import plan_sync, sync

        sync(fleet, fleet.select(request.servers), plan_sync(fleet)).raise_on_error("nothing was started")
    plan = plan_launch(fleet, request)
    for warning in plan.warnings:
        output.warn(warning)
    if request.clean_outputs:
        from remote_launch.cli.outputs import clean_first

        clean_first(fleet, fleet.select(request.servers), dry_run=dry_run)
    if dry_run:
        show_launch_plan(plan, as_json=as_json)
        return 0
    jobs = start_launch(fleet, plan)
    if as_json and not follow:
        output.emit_json(
            "torch-launch", {"launch_id": plan.launch_id, "jobs": [job.to_dict() for job in jobs]}
        )
        return 0
    show_started(request.script, plan, jobs, say=output.say if follow else click.echo)
    if not follow:
        output.say("watch it: rl job-tail    states: rl job-list --rsync    stop it: rl job-kill")
        return 0
    from remote_launch.cli.following import follow_to_end
    from remote_launch.operations.log_events import Selection

    selection = Selection(launcher=False, lines=-1)
    return follow_to_end(fleet, jobs, as_json=as_json, selection=selection, then=notify_local)
