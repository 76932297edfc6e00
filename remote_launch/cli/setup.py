"""rl init, servers, disconnect."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from remote_launch.cli import output
from remote_launch.cli.options import examples, json_option, load_fleet, servers_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from remote_launch.core.drafts import ServerDraft

_T = TypeVar("_T")


@click.command(
    epilog=examples(
        "rl init",
        "rl init --server gpu-a=ubuntu@10.0.0.5:2222 --server gpu-b",
        "rl init --from-ssh-config 'gpu-*'",
        "rl init --local 2",
    )
)
@click.option("--name", help="The project's name [default: this folder's].")
@click.option(
    "--server", "servers", multiple=True, metavar="[NAME=][USER@]HOST[:PORT]", help="A server; repeatable."
)
@click.option(
    "--from-ssh-config",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Servers from ~/.ssh/config whose Host matches; repeatable.",
)
@click.option(
    "--local", type=click.IntRange(1, 64), metavar="N", help="N servers on this machine: no sshd needed."
)
@click.option("--key", metavar="FILE", help="The private key for --server.")
@click.option(
    "--manager",
    type=click.Choice(["conda", "uv", "venv", "none"]),
    help="What makes the Python environment [default: venv].",
)
@click.option("--force", is_flag=True, help="Replace an existing .remote/configs.yaml.")
@json_option
@click.pass_context
def init(
    ctx: click.Context,
    name: str | None,
    servers: Sequence[str],
    patterns: Sequence[str],
    local: int | None,
    key: str | None,
    manager: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Make .remote/ in this folder: configs.yaml with your servers, and exclude.txt.

    Asks for one server when none is named.
    """
    import dataclasses

    from remote_launch.errors import UsageError
    from remote_launch.operations.init import (
        FIRST_MANAGER,
        init_project,
        local_servers,
        parse_server,
        refuse_second,
        servers_from_ssh_config,
    )

    root = Path((ctx.find_root().obj or {}).get("project") or ".").resolve()
    drafts = [parse_server(text) for text in servers]
    if key:
        drafts = [dataclasses.replace(draft, private_key=key) for draft in drafts]
    if patterns:
        drafts += servers_from_ssh_config(patterns)
    if local:
        drafts += local_servers(local)
    if not drafts:
        if not sys.stdin.isatty():
            raise UsageError(
                "which servers?", hint="--server [NAME=][USER@]HOST, --from-ssh-config PATTERN or --local N"
            )
        refuse_second(root, force=force)
        name, draft = _ask(root, name)
        drafts = [draft]
    result = init_project(root, name=name, servers=drafts, manager=manager or FIRST_MANAGER, force=force)
    if as_json:
        written, kept = [str(path) for path in result.written], [str(path) for path in result.kept]
        output.emit_json(
            "init", {"name": result.name, "servers": list(result.servers), "written": written, "kept": kept}
        )
        return 0
    for path in result.written:
        click.echo(f"wrote {_short(path, root)}")
    for path in result.kept:
        click.echo(f"kept {_short(path, root)}")
    for text in result.next_steps:
        output.say(f"next: {text}")
    return 0


def _short(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _ask(root: Path, name: str | None) -> tuple[str, ServerDraft]:
    """Ask for the first server: name, host, user, key. What can't be is asked for again."""
    import dataclasses

    from remote_launch.operations.init import check_name, parse_server, suggest_name

    def checked_name(text: str) -> str:
        with _asked_again():
            check_name(text)
        return text

    def checked_host(text: str) -> ServerDraft:
        with _asked_again():
            return parse_server(text)

    def checked_user(text: str) -> str:
        if text:
            checked_host(f"{text}@{host.hostname}")
        return text

    def checked_server(text: str) -> ServerDraft:
        with _asked_again():
            return dataclasses.replace(host, name=parse_server(f"{text}=host").name)

    def ask(text: str, check: Callable[[str], _T], default: str | None = "") -> _T:
        answer: _T = click.prompt(
            text, default=default, show_default=bool(default), value_proc=check, err=True
        )
        return answer

    name = name or ask("Project name", checked_name, suggest_name(root))
    host = ask("Hostname, address or ssh alias of the first server", checked_host, None)
    if not host.username:
        user = ask("User there (empty: as ssh would)", checked_user)
        host = dataclasses.replace(host, username=user or None)
    key = ask("Private key file (empty: as ssh would)", str)
    short = host.name.partition(".")[0]
    server = ask("A short name for it", checked_server, host.name if short.isdigit() else short)
    return name, dataclasses.replace(server, private_key=key or None)


@contextlib.contextmanager
def _asked_again() -> Iterator[None]:
    """Make click's prompt say what is wrong, and ask again."""
    from remote_launch.errors import UsageError

    try:
        yield
    except UsageError as error:
        raise click.UsageError(error.message) from error


@click.command(
    epilog=examples("rl servers --check --json", "rl servers --gpus", "rl servers --gpus --watch 5")
)
@servers_option
@click.option("--check", is_flag=True, help="Ask each server: reachable? python, cores, memory, disk, GPUs.")
@click.option("--gpus", is_flag=True, help="Show each server's cards: memory, use, processes and whose.")
@click.option(
    "--watch",
    "watch_s",
    type=click.FloatRange(min=0.5),
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Show the cards again and again, until Ctrl-C [default: every 2 s].",
)
@json_option
@click.pass_context
def servers(
    ctx: click.Context, servers: Sequence[str], check: bool, gpus: bool, watch_s: float | None, as_json: bool
) -> int:
    """List the servers of the inventory, one row each."""
    from remote_launch.operations.servers import card_warnings, describe, logout_warning
    from remote_launch.operations.servers import check as check_servers

    fleet = load_fleet(ctx)
    chosen = fleet.select(servers)
    if gpus or watch_s is not None:
        from remote_launch.cli.gpu_table import show_cards, watch_cards

        if watch_s is not None:
            return watch_cards(fleet, chosen, every_s=watch_s, as_json=as_json)
        return show_cards(fleet, chosen, as_json=as_json)
    described = describe(chosen)
    if not check:
        if as_json:
            output.emit_json("servers", described)
            return 0
        rows = output.Rows("server", "host", "by", "folder")
        for entry in described:
            rows.add_row(entry["name"], _login(entry), entry["transport"], entry["workdir"])
        rows.show()
        return 0
    outcomes = check_servers(fleet, chosen, brief=not as_json)
    warnings = list(filter(None, (logout_warning(*item) for item in outcomes.values.items())))
    warnings += [text for item in outcomes.values.items() for text in card_warnings(*item)]
    if as_json:
        data = [
            {
                **entry,
                "reachable": entry["name"] in outcomes.values,
                "facts": outcomes.values.get(entry["name"]),
            }
            for entry in described
        ]
        return output.emit_outcomes("servers", outcomes, data, warnings=warnings)
    rows = output.Rows(
        "server", "host", "state", "python", "cores", "memory free", "disk free", "GPUs", "answered in"
    )
    for entry in described:
        outcome = outcomes[entry["name"]]
        facts = outcome.value
        if facts is None:
            rows.add_row(
                entry["name"],
                _login(entry),
                "failed",
                "",
                "",
                "",
                "",
                "",
                output.duration_text(outcome.duration_s),
            )
        else:
            rows.add_row(
                entry["name"],
                _login(entry),
                "ok",
                *_fact_cells(facts),
                output.duration_text(outcome.duration_s),
            )
    rows.show()
    for warning in warnings:
        output.warn(output.clean(warning, colour=False))
    output.show_failures(outcomes.errors.values())
    return outcomes.exit_code


def _login(entry: dict[str, Any]) -> str:
    if entry["transport"] == "local":
        return "this machine"
    user = f"{entry['username']}@" if entry["username"] else ""
    port = f":{entry['port']}" if entry["port"] else ""
    return f"{user}{entry['hostname']}{port}"


def _fact_cells(facts: dict[str, Any]) -> list[str]:
    """Given a server's facts (untrusted), return its cells."""

    def number(name: str) -> float | None:
        value = facts.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    def share(free: str, total: str) -> str:
        return f"{output.size_text(number(free))} of {output.size_text(number(total))}"

    cards = facts.get("gpus")
    if not isinstance(cards, list):
        cards = []
    gpus = [str(card.get("name")) for card in cards if isinstance(card, dict)]
    kinds = ", ".join(f"{gpus.count(name)}× {name}" for name in dict.fromkeys(gpus))
    python = facts.get("python_version") or facts.get("python")
    if isinstance(python, dict):
        python = python.get("version")
    cells = [
        str(python or "–"),
        str(facts.get("cpus") or "–"),
        share("memory_available_bytes", "memory_total_bytes"),
        share("disk_free_bytes", "disk_total_bytes"),
        kinds or ("can't be asked" if facts.get("gpu_problems") else "none"),
    ]
    return [output.clean(cell, colour=False) for cell in cells]


@click.command(epilog=examples("rl disconnect --server gpu-a"))
@servers_option
@json_option
@click.pass_context
def disconnect(ctx: click.Context, servers: Sequence[str], as_json: bool) -> int:
    """End the ssh connections that rl keeps open (for ten minutes) between commands. Jobs are not touched."""
    from remote_launch.operations.servers import disconnect as end

    fleet = load_fleet(ctx)
    outcomes = end(fleet, fleet.select(servers))
    if as_json:
        return output.emit_outcomes("disconnect", outcomes, list(outcomes.values))
    click.echo(f"disconnected from {output.plural(len(outcomes.values), 'server')}")
    output.show_failures(outcomes.errors.values())
    return outcomes.exit_code
