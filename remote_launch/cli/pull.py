"""rl pull."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.options import (
    complete_servers,
    dry_run_option,
    examples,
    json_option,
    load_fleet,
    servers_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from remote_launch.errors import RemoteLaunchError
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.pull import Pulled, PullPlan


_SHOWN = 5


def _complete_place(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [f"{name}:" for name in complete_servers(ctx, param, incomplete)]


@click.command(
    epilog=examples(
        "rl pull checkpoints/",
        "rl pull gpu-a:checkpoints/last.pt .",
        "rl pull 'runs/*/*.pt' --dry-run",
    )
)
@click.argument("place", required=False, metavar="[[SERVER:]PATH]", shell_complete=_complete_place)
@click.argument("local", required=False, metavar="[LOCAL]", type=click.Path(path_type=Path))
@servers_option
@click.option(
    "--exclude",
    "excludes",
    multiple=True,
    metavar="PATTERN",
    help="Leave out, as rsync reads it; repeatable.",
)
@dry_run_option
@json_option
@click.pass_context
def pull(
    ctx: click.Context,
    place: str | None,
    local: Path | None,
    servers: Sequence[str],
    excludes: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> int:
    """Bring files of the servers here: PATH of the project's folder there (or an absolute one, or from ~/),
    from every server or from one.

    They come to .remote/outputs/<server>/PATH, a folder a server, since two nodes write the same names. With
    LOCAL they are put into that folder (of several servers, into LOCAL/<server>). Without PATH, what the
    inventory names as outputs comes. Quote wildcards. Broken off, the same command goes on from there.
    """
    from remote_launch.core.globs import parse_glob
    from remote_launch.errors import UsageError
    from remote_launch.operations.pull import parse_place, plan_pull

    fleet = load_fleet(ctx)
    name, path = parse_place(fleet, place) if place else (None, "")
    if name and servers:
        raise UsageError(f"{place} names the server already", hint="leave out --server")
    chosen = fleet.select([name] if name else servers)
    texts = [path] if path else list(fleet.inventory.outputs)
    if not texts:
        raise UsageError("which files?", hint="a PATH, or outputs: in the inventory (docs/inventory.md)")
    try:
        globs = [parse_glob(text) for text in texts]
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    plans = plan_pull(fleet, chosen, globs, local=local, excludes=excludes, required=bool(path))
    if dry_run:
        return _show_plan(plans, some_excluded=bool(excludes), as_json=as_json)
    outcomes, errors = _bring(fleet, plans, as_json=as_json)
    exit_code = 0 if not errors else 3 if outcomes.values else 1
    if as_json:
        data = [pulled.to_dict() for pulled in outcomes.values.values()]
        status = {0: "ok", 3: "partial", 1: "error"}[exit_code]
        output.emit_json("pull", data, status=status, errors=errors)
        return exit_code
    show_pulled(outcomes, some_excluded=bool(excludes))
    output.show_failures(errors)
    return exit_code


def _bring(
    fleet: Fleet, plans: Outcomes[PullPlan], *, as_json: bool
) -> tuple[Outcomes[Pulled], list[RemoteLaunchError]]:
    from remote_launch.operations.pull import pull

    with transfer("pull", list(plans.values), quiet=as_json) as on_bytes:
        outcomes = pull(fleet, list(plans.values.values()), on_bytes=on_bytes)
    return outcomes, [*plans.errors.values(), *outcomes.errors.values()]


@contextlib.contextmanager
def transfer(
    step: str, servers: Sequence[str], *, quiet: bool
) -> Iterator[Callable[[str, int, int], None] | None]:
    """Show how far files have come, a row a server; say how to go on when it is interrupted."""
    from remote_launch.cli.progress import ServerProgress
    from remote_launch.operations.progress import Progress

    def on_bytes(server: str, size_bytes: int, total_bytes: int) -> None:
        share = min(100, 100 * size_bytes // max(1, total_bytes))
        text = f"{share} % of {output.size_text(max(size_bytes, total_bytes))}"
        rows.on_progress(Progress(server=server, step=step, text=text))

    try:
        if quiet or not servers or not sys.stderr.isatty():
            yield None
            return
        with ServerProgress(servers) as rows:
            yield on_bytes
    except KeyboardInterrupt:
        if not quiet:
            output.say("what has come stays; the same command goes on from there")
        raise


def show_pulled(outcomes: Outcomes[Pulled], *, some_excluded: bool) -> None:
    """Print what has come, and where it is."""
    rows = output.Rows("server", "files", "size", "time", "in")
    for outcome in outcomes:
        if outcome.value is None:
            continue
        pulled = outcome.value
        where = f"the same folder as {pulled.same_as}'s" if pulled.same_as else short(pulled.local)
        rows.add_row(
            pulled.server,
            _files_cell(pulled, some_excluded=some_excluded),
            output.size_text(pulled.size_bytes),
            output.duration_text(outcome.duration_s),
            where,
        )
    if outcomes.values:
        rows.show()
    for pulled in outcomes.values.values():
        if pulled.links_out and not pulled.same_as:
            some = ", ".join(output.clean(link, colour=False) for link in pulled.links_out[:_SHOWN])
            more = ", …" if len(pulled.links_out) > _SHOWN else ""
            output.warn(f"{pulled.server}: not brought, since they lead elsewhere: the links {some}{more}")


def _files_cell(found: Pulled | PullPlan, *, some_excluded: bool) -> str:
    """Return how many files come; for none, why."""
    if found.files or found.same_as:
        return str(found.files)
    if not found.files_there:
        return "none there"
    return "nothing new" if some_excluded else "up to date"


def short(path: Path) -> str:
    """Return a path as it is best typed from here."""
    try:
        relative = path.absolute().relative_to(Path.cwd())
    except (ValueError, OSError):
        return str(path)
    return f"{relative}/"


def _show_plan(plans: Outcomes[PullPlan], *, some_excluded: bool, as_json: bool) -> int:
    if as_json:
        return output.emit_outcomes("pull", plans, [plan.to_dict() for plan in plans.values.values()])
    for plan in plans.values.values():
        if plan.same_as:
            output.say(f"{plan.server}: the same folder as {plan.same_as}'s")
            continue
        for name in plan.names:
            click.echo(output.clean(str(plan.local / name), colour=False))
        if not (plan.files or plan.names):  # links are no files
            output.say(f"{plan.server}: {_files_cell(plan, some_excluded=some_excluded)}")
            continue
        output.say(
            f"{plan.server}: {output.plural(plan.files, 'file')}, {output.size_text(plan.size_bytes)}, "
            f"to {short(plan.local)}"
        )
    output.show_failures(plans.errors.values())
    return plans.exit_code
