"""rl env, clean."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.options import (
    dry_run_option,
    examples,
    json_option,
    load_fleet,
    servers_option,
    yes_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from remote_launch.core.inventory import Server
    from remote_launch.operations.clean import Amount, Stored
    from remote_launch.operations.environments import EnvironmentReport
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet

INTERRUPTED = 130
_STATES = {
    "up_to_date": ("up to date", "green"),
    "changed": ("changed since", "yellow"),
    "packages_changed": ("packages changed since", "yellow"),
    "packages_missing": ("packages not installed", "yellow"),
    "unfinished": ("half made", "yellow"),
    "broken": ("its python is gone", "red"),
    "other_platform": ("for another machine", "red"),
    "foreign": ("not made by rl", "red"),
    "absent": ("not there", "yellow"),
}
_WHAT = {
    "environment": "the Python environment",
    "code": "the files that rl has sent",
    "jobs": "the folders of jobs that have ended, with their logs",
    "cache": "downloads, caches and older programs of rl",
}


@click.command(epilog=examples("rl env", "rl env --sizes --server gpu-a"))
@servers_option
@click.option("--sizes", is_flag=True, help="Measure the environments too; takes seconds with torch.")
@json_option
@click.pass_context
def env(ctx: click.Context, servers: Sequence[str], sizes: bool, as_json: bool) -> int:
    """Show the Python environment of each server: versions, and whether it is as the project asks for now."""
    from remote_launch.cli.prepared import difference_texts, show_differences
    from remote_launch.core.environments.differences import find_differences
    from remote_launch.operations.environments import describe_environments

    fleet = load_fleet(ctx, says_waits=True)
    outcomes = describe_environments(fleet, fleet.select(servers), sizes=sizes)
    found = outcomes.values
    differences = find_differences({name: report.versions for name, report in found.items()})
    if as_json:
        data = [report.to_dict() for report in found.values()]
        return output.emit_outcomes("env", outcomes, data, warnings=difference_texts(differences))
    if found:
        _show_environments(list(found.values()), sizes=sizes)
    output.show_failures(outcomes.errors.values())
    show_differences(differences)
    behind = [report for report in found.values() if report.state not in ("up_to_date", "foreign")]
    if made := [report.server for report in behind if report.manager != "none"]:
        output.say(f"next: rl prepare brings {', '.join(made)} up to date")
    for report in behind:
        if report.manager == "none":
            said = f"{report.server} has no {report.python}: name another by python: in the inventory"
            output.say(f"next: {said}")
    return outcomes.exit_code


def _show_environments(reports: Sequence[EnvironmentReport], *, sizes: bool) -> None:
    from remote_launch.cli.prepared import torch_text

    size = ["size"] if sizes else []
    rows = output.Rows("server", "state", "by", "python", "torch", "packages", *size, "made")
    for report in reports:
        rows.add_row(
            report.server,
            output.Cell(*_STATES.get(report.state, (report.state, ""))),
            report.manager,
            report.versions.get("python") or "–",
            torch_text(report.versions),
            "–" if report.packages is None else str(report.packages),
            *([output.size_text(report.size_bytes)] if sizes else []),
            output.time_text(report.made_at),
        )
    rows.show()
    for names in dict.fromkeys(tuple(sorted((one.server, *one.shared_with))) for one in reports):
        if len(names) > 1:
            output.say(f"{' and '.join(names)} share a home: they have one environment")


@click.command(
    epilog=examples(
        "rl clean                        what there is, nothing is removed",
        "rl clean --jobs                 the folders of ended jobs",
        "rl clean --all --server gpu-a   everything of rl's on that server",
    )
)
@servers_option
@click.option("--environment", is_flag=True, help="The Python environment, if rl has made it.")
@click.option("--code", is_flag=True, help="The files that rl has sent; others in that folder stay.")
@click.option("--jobs", is_flag=True, help="The folders of jobs that have ended, with their logs there.")
@click.option("--cache", is_flag=True, help="Downloads, caches and older programs of rl.")
@click.option("--all", "everything", is_flag=True, help="All of these.")
@yes_option
@dry_run_option
@json_option
@click.pass_context
def clean(
    ctx: click.Context,
    /,
    servers: Sequence[str],
    everything: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **flags: bool,
) -> int:
    """Remove what rl keeps on the servers: shows how much there is, and asks.

    Only what rl has made or sent is removed, and nothing that a running job uses. Without an option that says
    what, the sizes are shown."""
    from remote_launch.operations.clean import KINDS, measure

    fleet = load_fleet(ctx)
    chosen = fleet.select(servers)
    kinds = [kind for kind in KINDS if everything or flags[kind]]
    may_ask = sys.stdin.isatty() and not as_json
    if kinds and not (yes or dry_run or may_ask):
        from remote_launch.errors import UsageError

        raise UsageError("clean asks before it removes", hint="--yes, or --dry-run to see what would go")
    with _status("measuring …"):
        found = measure(fleet, chosen, kinds or KINDS)
    if not kinds or dry_run:
        if as_json:
            data = [stored.to_dict() for stored in found.values.values()]
            return output.emit_outcomes("clean", found, data)
        _show_stored(found, kinds or KINDS)
        if not kinds:
            output.say("nothing was removed; these options say what is to go:")
            for kind in KINDS:
                output.say(f"  {'--' + kind:<14} {_WHAT[kind]}")
            output.say(f"  {'--all':<14} all of it")
        return found.exit_code
    if not as_json:
        _show_stored(found, kinds)
        if not _total(found, kinds) and not found.errors:
            output.say("there is nothing to remove")
            return 0
        if not yes and found.values and not _confirmed(found, kinds):
            output.say("nothing was removed")
            return 1
    try:
        return _clean(fleet, chosen, kinds, found, as_json=as_json)
    except KeyboardInterrupt:
        output.say("stopped, on the servers too; rl clean again removes the rest")
        return INTERRUPTED


def _clean(
    fleet: Fleet, chosen: Sequence[Server], kinds: Sequence[str], found: Outcomes[Stored], *, as_json: bool
) -> int:
    from remote_launch.operations.clean import clean as remove

    homes = {name: stored.home for name, stored in found.values.items()}
    reached = [server for server in chosen if server.name in homes]
    with _status("removing …"):
        removed = remove(fleet, reached, kinds, homes)
    left = [stored.error for stored in removed.values.values() if stored.error is not None]
    errors = [*found.errors.values(), *removed.errors.values(), *left]
    exit_code = 0 if not errors else 3 if len(removed.values) > len(left) else 1
    if as_json:
        data = [stored.to_dict() for stored in removed.values.values()]
        status = {0: "ok", 3: "partial", 1: "error"}[exit_code]
        output.emit_json("clean", data, status=status, errors=errors)
        return exit_code
    for name, stored in removed.values.items():
        amounts = [(kind, stored.amounts[kind]) for kind in kinds if kind in stored.amounts]
        done = [_removed_text(kind, amount) for kind, amount in amounts if amount.files]
        click.echo(f"{name}: removed {', '.join(done)}" if done else f"{name}: nothing was removed")
    output.show_failures([*removed.errors.values(), *left])
    return exit_code


def _confirmed(found: Outcomes[Stored], kinds: Sequence[str]) -> bool:
    names = list(found.values)
    where = ", ".join(names) if len(names) <= 4 else output.plural(len(names), "server")
    what = ", ".join(kinds) if len(kinds) < len(_WHAT) else "all of it"
    if "jobs" in kinds and any(stored.jobs for stored in found.values.values()):
        output.say("the jobs' logs there go too: rl job-rsync brings them here first")
    return click.confirm(f"Remove {what} from {where}?", default=False, err=True)


def _show_stored(found: Outcomes[Stored], kinds: Sequence[str]) -> None:
    stored = list(found.values.values())
    if stored:
        rows = output.Rows("server", *kinds, "folder")
        for one in stored:
            rows.add_row(one.server, *(_stored_text(one, kind) for kind in kinds), one.workdir)
        rows.show()
        homes: dict[str, list[str]] = {}
        for one in stored:
            homes.setdefault(one.home or one.server, []).append(one.server)
        for names in homes.values():
            if len(names) > 1:
                output.say(f"{' and '.join(names)} share a home: what is there is counted once")
        for one in stored:
            if one.kept:
                output.say(output.clean(f"{one.server}: {one.kept_text}", colour=False))
        output.say(f"{output.size_text(_total(found, kinds))} in all")
    output.show_failures(found.errors.values())


def _total(found: Outcomes[Stored], kinds: Sequence[str]) -> int:
    """Return how much these kinds are on all servers, what servers share counted once."""
    total, seen = 0, set()
    for name, stored in found.values.items():
        shared = stored.home is not None and stored.home in seen
        seen.add(stored.home or name)
        for kind in kinds:
            if kind in stored.amounts and kind not in stored.kept and (kind == "jobs" or not shared):
                total += stored.amounts[kind].size_bytes
    return total


def _stored_text(stored: Stored, kind: str) -> str:
    amount = stored.amounts.get(kind)
    if amount is None:
        return "–"
    if kind == "environment" and stored.environment != "there":
        return {"existing": "none of rl's", "foreign": "not rl's"}.get(stored.environment or "", "–")
    if kind == "jobs":
        ended = f"{stored.jobs} ended, {output.size_text(amount.size_bytes)}" if stored.jobs else ""
        running = f"{stored.running} running" if stored.running else ""
        return "; ".join(filter(None, (ended, running))) or "–"
    if not amount.files:
        return "–"
    return output.size_text(amount.size_bytes)


def _removed_text(kind: str, amount: Amount) -> str:
    linked = f", of it {output.size_text(amount.linked_bytes)} in a cache too" if amount.linked_bytes else ""
    return f"{kind} ({output.size_text(amount.size_bytes)}{linked})"


def _status(text: str) -> AbstractContextManager[object]:
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    return output.console(err=True).status(text)
