"""What a job or a launch would be (--dry-run), and what was started: shown to people."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from remote_launch.core.job_specs import JobSpec
    from remote_launch.core.jobs import JobRecord
    from remote_launch.core.torchrun import Script
    from remote_launch.operations.launch import LaunchPlan


def show_job_plan(spec: JobSpec, *, as_json: bool) -> None:
    """Show what ``rl job-run`` would start: the choices made, the command and its variables."""
    if as_json:
        output.emit_json("job-run", spec.to_dict())
        return
    for chosen in spec.choices.values():
        click.echo(f"# {output.clean(chosen['reason'], colour=False)}")
    if spec.queue is not None:
        click.echo(f"# it waits for {spec.queue.words}")
    click.echo(f"{spec.server}: cd {spec.workdir} && {spec.command}")
    for name, value in spec.to_dict()["env"].items():
        click.echo(f"  {name}={shlex.quote(value)}")


def show_launch_plan(plan: LaunchPlan, *, as_json: bool) -> None:
    """Show what ``rl torch-launch`` would start: for each node a script that a person could run there."""
    if as_json:
        output.emit_json("torch-launch", plan.to_dict())
        return
    for note in plan.notes:
        click.echo(f"# {output.clean(note, colour=False)}")
    for spec in plan.specs:
        shown = spec.to_dict()
        is_spare = (spec.node_rank or 0) >= (spec.nnodes or 1)
        node = "a spare" if is_spare else f"node {spec.node_rank}"
        click.echo(f"# {spec.server} ({node} of {spec.nnodes})")
        click.echo(f"cd {spec.workdir}")
        click.echo(f"unset {' '.join(spec.unset_env)}")
        for name, value in shown["env"].items():
            click.echo(f"export {name}={shlex.quote(value)}")
        click.echo(f"{spec.python} -m torch.distributed.run {shlex.join(spec.torchrun or ())}")
        click.echo("")


def show_started(
    script: Script, plan: LaunchPlan, jobs: Sequence[JobRecord], *, say: Callable[[str], None]
) -> None:
    """Say which job runs which ranks on which server."""
    topology = plan.topology
    ranks = f"{output.plural(topology.world_size, 'rank')} on {output.plural(topology.nnodes, 'server')}"
    say(
        f"launched {output.headline(script.display)}: {ranks}, "
        f"master {topology.meeting_place}"
    )
    if any(spec.queue for spec in plan.specs):
        say("  queued: it begins when every server has the slots for it; rl queue shows the line")
    for job, node in zip(jobs, topology.nodes, strict=False):
        last = node.first_rank + node.nproc - 1
        rank_text = (
            f"rank {node.first_rank}" if last == node.first_rank else f"ranks {node.first_rank}–{last}"
        )
        say(f"  job {job.key}  {job.server}  {rank_text}")
    for job in jobs[topology.nnodes :]:
        say(f"  job {job.key}  {job.server}  stands by")
