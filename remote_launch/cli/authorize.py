"""rl authorize."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output
from remote_launch.cli.options import dry_run_option, examples, json_option, load_fleet, servers_option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.operations.authorize import Authorized
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.key_plan import KeyPlan

_DONE = {
    "local": "this machine: needs no login",
    "already": "logs in by key already",
    "present": "the key was there already; logs in by it",
    "added": "key installed; logs in by it",
}
_FROM = {
    "password_command": "of its password_command",
    "password": "of the inventory",
    "prompt": "asked for",
}


@click.command(
    epilog=examples(
        "rl authorize",
        "rl authorize --server gpu-a --server gpu-b",
        "rl authorize --key ~/.ssh/id_cluster",
        "rl authorize --dry-run",
    )
)
@servers_option
@click.option(
    "--key",
    metavar="PATH",
    type=click.Path(dir_okay=False),
    help="The private key; made when it isn't there [default: private_key of the inventory, else ssh's own].",
)
@dry_run_option
@json_option
@click.pass_context
def authorize(
    ctx: click.Context, servers: Sequence[str], key: str | None, dry_run: bool, as_json: bool
) -> int:
    """Use a password once to install a public key on servers, so that later logins need none.

    The password comes from password_command or password of the inventory, or is asked for. A server that a
    key logs in to already is left as it is. Where this machine has no key, one is made, without a passphrase.
    """
    from remote_launch.operations.authorize import authorize as run_authorize
    from remote_launch.operations.key_plan import plan_authorize

    fleet = load_fleet(ctx)
    chosen = fleet.select(servers)
    path = Path(key).expanduser().absolute() if key else None
    if dry_run:
        return _show_plan(plan_authorize(chosen, path), as_json=as_json)
    if not as_json:
        output.say(f"trying which of {output.plural(len(chosen), 'server')} a key logs in to …")
    outcomes = run_authorize(fleet, chosen, key=path, ask=_ask if sys.stdin.isatty() else None)
    if as_json:
        data = [result.to_dict() for result in outcomes.values.values()]
        return output.emit_outcomes("authorize", outcomes, data)
    _show(outcomes)
    for text in _next_steps(fleet, outcomes):
        output.say(f"next: {text}")
    return outcomes.exit_code


def _ask(logins: Mapping[str, str], refused: bool) -> dict[str, str]:
    """Ask for the servers' passwords without echo; the first one is offered for the others."""
    passwords: dict[str, str] = {}
    waiting = dict(logins)
    while waiting:
        server = next(iter(waiting))
        login = waiting.pop(server)
        again = "was refused; " if refused else ""
        prompt = f"{server}: {again}password for {login} (empty: skip it)"
        passwords[server] = click.prompt(
            output.clean(prompt, colour=False), hide_input=True, default="", show_default=False, err=True
        )
        if waiting and len(passwords) == 1 and passwords[server]:
            others = ", ".join(waiting)
            if click.confirm(f"Try this password for {others} too?", default=False, err=True):
                return dict.fromkeys(logins, passwords[server])
    return passwords


def _show_plan(plans: Sequence[KeyPlan], *, as_json: bool) -> int:
    if as_json:
        output.emit_json("authorize", [plan.to_dict() for plan in plans])
        return 0
    rows = output.Rows("server", "login", "key", "password")
    for plan in plans:
        if plan.key is None:
            rows.add_row(plan.server, "this machine", "none needed", "")
        else:
            key = str(plan.key) + ("" if plan.exists else " (would be made, without a passphrase)")
            rows.add_row(plan.server, plan.login, key, _FROM.get(plan.password_from or "", ""))
    rows.show()
    output.say("A server that a key logs in to already is left as it is, with no password asked.")
    return 0


def _show(outcomes: Outcomes[Authorized]) -> None:
    made = {result.key for result in outcomes.values.values() if result.made and result.key is not None}
    for path in sorted(made):
        output.say(f"made a key: {path} (ed25519, without a passphrase: who has this file can log in)")
    rows = output.Rows("server", "login", "result", "key")
    for outcome in outcomes:
        result = outcome.value
        if result is None:
            rows.add_row(outcome.server, "", "failed", "")
        else:
            key = "" if result.key is None else str(result.key)
            rows.add_row(outcome.server, result.login or "–", _DONE[result.state], key)
    rows.show()
    output.show_failures(outcomes.errors.values())


def _next_steps(fleet: Fleet, outcomes: Outcomes[Authorized]) -> list[str]:
    """Return what is left to change in the inventory."""
    config = fleet.inventory.path
    results = [result for result in outcomes.values.values() if result.state != "local"]
    steps = [
        f"set `private_key: {result.key}` for {result.server} in {config}"
        for result in results
        if result.key and result.named and fleet.server(result.server).private_key != result.key
    ]
    for key in ("password", "password_command"):
        names = [one.server for one in results if getattr(fleet.server(one.server), key) is not None]
        if names:
            line = f":{fleet.inventory.password_line}" if key == "password" else ""
            steps.append(f"take `{key}:` of {', '.join(names)} out of {config}{line}")
    return steps
