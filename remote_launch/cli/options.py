"""Options that several commands share, so that they read and complete alike everywhere."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet

_Command = TypeVar("_Command", bound="Callable[..., Any] | click.Command")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)


def examples(*lines: str) -> str:
    """Return an epilog that shows each example on a line of its own, unwrapped."""
    return "\n".join([f"Example{'s' if len(lines) > 1 else ''}:", "", "\b", *(f"  {line}" for line in lines)])


def together(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Return a decorator that gives a command several options; --help lists them in this order."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _note_json(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    """Tell ``cli.main`` that errors are wanted as JSON too."""
    ctx.ensure_object(dict)["json"] = value
    return value


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_note_json,
    help="Print one JSON object on stdout, and nothing else there.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would be done; do nothing.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
grace_option = click.option(
    "--grace",
    "grace_s",
    type=float,
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="At a kill, how long from the first signal to KILL.",
)


class EnvOption(click.Option):
    """``--env K=V``, and labml_remote's ``--env K V``: takes a second word when the first has no "="."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        super().add_to_parser(parser, ctx)
        for name in self.opts:
            option = parser._long_opt.get(name)
            if option is not None:
                option.process = _two_words(name, option.process, ctx)


def _two_words(
    name: str, process: Callable[[str, Any], None], ctx: click.Context
) -> Callable[[str, Any], None]:
    def take(value: str, state: Any) -> None:
        if not _ENV.match(value):
            # An option in the value's place is a forgotten value, not a value: that one is written K=--V.
            if not _NAME.match(value) or not state.rargs or state.rargs[0].startswith("--"):
                raise click.BadOptionUsage(name, f"{name} {value!r}: expected K=V (or K V)", ctx)
            value = f"{value}={state.rargs.pop(0)}"
        process(value, state)

    return take


env_option = click.option(
    "--env",
    cls=EnvOption,
    multiple=True,
    metavar="K=V",
    help="A variable for the processes; also as --env K V. Repeatable.",
)
notify_local_option = click.option(
    "--notify-local", metavar="CMD", help="A shell command that this computer runs after the end."
)

# What the supervisor of a job sees to while this computer may be away.
supervision_options = together(
    click.option(
        "--max-restarts",
        type=click.IntRange(min=0),
        metavar="N",
        help="After a failure, start it again (all nodes of a launch), at most N times"
        " [default: max_restarts, inventory].",
    ),
    click.option(
        "--restart-window",
        "restart_window_s",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Only restarts within this time count; 0: all do [default: restart_window, inventory].",
    ),
    click.option(
        "--stall-timeout",
        "stall_timeout_s",
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        help="Stop it when it has had no output for this long (what each rank was doing is kept); 0: never"
        " [default: stall_timeout, inventory].",
    ),
    click.option(
        "--notify",
        metavar="CMD",
        help="A shell command for the server (of node 0, or its successor) to run after the end"
        " [default: on_finish, inventory].",
    ),
)

# Which cards a job gets, and whether it waits for them.
card_options = together(
    click.option(
        "--gpus",
        multiple=True,
        metavar="[SERVER:]LIST",
        help="The cards, by index or uuid: 0,2; for one server gpu-a:0,1; none. Repeatable.",
    ),
    click.option(
        "--gpus-per-node",
        type=click.IntRange(min=1),
        metavar="N",
        help="Use N cards a server: those that nobody holds.",
    ),
    click.option("--busy-gpus", is_flag=True, help="Cards that others' processes hold may be used, too."),
    click.option(
        "--queue",
        is_flag=True,
        help="Wait on the server until enough slots (or cards) are free: rl queue.",
    ),
    click.option(
        "--slots",
        type=click.IntRange(min=1),
        metavar="N",
        help="How many slots to wait for (implies --queue) [default: 1; of a launch, one a rank].",
    ),
)


def env_dict(pairs: Iterable[str]) -> dict[str, str]:
    """Given "K=V" texts, return the variables."""
    return dict(pair.split("=", 1) for pair in pairs)


def load_fleet(ctx: click.Context, *, says_waits: bool = False) -> Fleet:
    """Return the fleet of the project that the command line names or that lies upward from here; closed when
    the command ends. With ``says_waits`` a person is told which servers keep the command waiting."""
    from remote_launch.operations.fleet import Fleet

    root = ctx.find_root()
    fleet = Fleet.load((root.obj or {}).get("project"))
    root.call_on_close(fleet.close)
    if not ctx.resilient_parsing:  # a completion says nothing
        root.call_on_close(lambda: _warn_of_registry(fleet))
        _warn_of_password(fleet)
    if says_waits and sys.stderr.isatty():
        fleet.on_wait = _say_wait
    return fleet


def _say_wait(names: list[str]) -> None:
    from remote_launch.cli import output

    more = f" and {len(names) - 5} others" if len(names) > 6 else ""
    shown = names[:5] if more else names
    output.say(f"still waiting for {', '.join(shown)}{more}; Ctrl-C ends it", style="dim")


def _warn_of_registry(fleet: Fleet) -> None:
    """Say, at the command's end, what of the index of jobs could not be read."""
    for text in fleet.notices:
        from remote_launch.cli import output

        output.warn(output.clean(text, colour=False))


def _warn_of_password(fleet: Fleet) -> None:
    line = fleet.inventory.password_line
    if line is not None:
        from remote_launch.cli.output import warn

        warn(
            f"{fleet.inventory.path}:{line}: a password stands in this file; "
            "`rl authorize` installs a key with it, then take it out"
        )


def complete_servers(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    try:
        return [name for name in load_fleet(ctx).inventory.servers if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a completion must never print a traceback into the user's prompt
        return []


def complete_jobs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    try:
        return [
            str(job.key)
            for job in load_fleet(ctx).registry.newest(100)
            if str(job.key).startswith(incomplete)
        ]
    except Exception:  # noqa: BLE001
        return []


def _complete_tags(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    try:
        tags = {tag for job in load_fleet(ctx).registry.newest(1000) for tag in job.tags}
        return sorted(tag for tag in tags if tag and tag.startswith(incomplete))
    except Exception:  # noqa: BLE001
        return []


servers_option = click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_servers,
    help="A server of the inventory; repeatable [default: all].",
)
server_option = click.option(
    "--server", metavar="NAME", shell_complete=complete_servers, help="The server [default: the only one]."
)
tags_option = click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="TAG",
    shell_complete=_complete_tags,
    help="Jobs with this tag; repeatable (all must match).",
)
jobs_argument = click.argument("keys", nargs=-1, metavar="[JOB]...", shell_complete=complete_jobs)
jobs_option = click.option(
    "--job",
    "job_options",
    multiple=True,
    metavar="JOB",
    shell_complete=complete_jobs,
    help="A job's key or id; the same as the argument.",
)


def single_server(fleet: Fleet, name: str | None) -> Any:
    """Given --server, return the server; with none given, the only one. Raises UsageError when there are
    several."""
    from remote_launch.errors import UsageError

    if name is not None:
        return fleet.server(name)
    servers = fleet.select()
    if len(servers) == 1:
        return servers[0]
    raise UsageError(
        "which server?", hint=f"--server NAME, one of: {', '.join(server.name for server in servers)}"
    )


def choose_jobs(fleet: Fleet, keys: Iterable[str], tags: Iterable[str]) -> list[JobRecord]:
    """Given keys or tags, return the jobs meant. Raises UnknownJobError for a key, or tags that match
    nothing."""
    from remote_launch.errors import UnknownJobError, did_you_mean

    keys, tags = list(keys), list(tags)
    if keys:
        return list({job.job_id: job for job in (fleet.registry.get(key) for key in keys)}.values())
    if not tags:
        return fleet.registry.all()
    found = fleet.registry.tagged(tags)
    if not found:
        known = {tag for job in fleet.registry.all() for tag in job.tags}
        near = "".join(did_you_mean(tag, known) for tag in tags if tag not in known)
        raise UnknownJobError(
            f"no job is tagged {' and '.join(tags)}{near}", hint="rl job-list --all shows the tags"
        )
    return found
