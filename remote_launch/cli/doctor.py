"""rl doctor."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from remote_launch.cli import output
from remote_launch.cli.options import complete_servers, examples, json_option, load_fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def complete_checks(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from remote_launch.operations.checks import CHECKS

    return [check.id for check in CHECKS if check.id.startswith(incomplete)]


@click.command(
    epilog=examples(
        "rl doctor",
        "rl doctor gpu-a gpu-b --no-network   what each has; nothing between them",
        "rl doctor --only disk --only torch",
    )
)
@click.argument("names", nargs=-1, metavar="[SERVER]...", shell_complete=complete_servers)
@click.option(
    "--only",
    "checks",
    multiple=True,
    metavar="CHECK",
    shell_complete=complete_checks,
    help="Only this check; repeatable. --list names them.",
)
@click.option("--list", "only_list", is_flag=True, help="List the checks; ask no server.")
@click.option("--deep", is_flag=True, help="Import torch on each server too; takes seconds.")
@click.option("--no-network", is_flag=True, help="Leave out what is between the servers.")
@click.option("--no-allreduce", is_flag=True, help="Leave out the all-reduce over all servers.")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    names: Sequence[str],
    checks: Sequence[str],
    only_list: bool,
    as_json: bool,
    **flags: bool,
) -> int:
    """Examine the servers: what won't work, how bad it is, what to do.

    Exits with 1 when something won't work, with 3 when only some servers could be reached; warnings are no
    failure."""
    from remote_launch.operations.checks import CHECKS
    from remote_launch.operations.doctor import DoctorRequest, examine

    if only_list:
        return _list_checks(as_json=as_json)
    request = DoctorRequest(
        checks=checks,
        deep=flags["deep"],
        network=not flags["no_network"],
        allreduce=not (flags["no_network"] or flags["no_allreduce"]),
    )
    fleet = load_fleet(ctx)
    with _progress() as tell:
        diagnosis = examine(fleet, fleet.select(names), request, tell)
    if as_json:
        errors = list(diagnosis.unreachable.values())
        output.emit_json("doctor", diagnosis.to_dict(), status=diagnosis.status, errors=errors)
        return diagnosis.exit_code
    from remote_launch.cli.checklist import show_diagnosis

    show_diagnosis(diagnosis, CHECKS)
    return diagnosis.exit_code


def _list_checks(*, as_json: bool) -> int:
    from remote_launch.operations.checks import CHECKS

    if as_json:
        data: list[dict[str, Any]] = [
            {"check": one.id, "group": one.group, "what": one.what} for one in CHECKS
        ]
        output.emit_json("doctor", data)
        return 0
    rows = output.Rows("check", "group", "what it looks at")
    for check in CHECKS:
        rows.add_row(check.id, check.group, check.what)
    rows.show()
    return 0


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done, while it is done and where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with output.console(err=True).status("") as status:
        yield lambda text: status.update(f"{text} …")
