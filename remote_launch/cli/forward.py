"""rl forward: ports of servers on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from remote_launch.cli import output
from remote_launch.cli.options import complete_servers, examples, json_option, load_fleet

if TYPE_CHECKING:
    from remote_launch.core.forwards import ForwardRecord
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.kept_forwards import ForwardState


@click.command(
    epilog=examples(
        "rl forward gpu-a 6006                  # TensorBoard: http://127.0.0.1:6006, until Ctrl-C",
        "rl forward gpu-a 18888:8888            # Jupyter on the server's 8888, here on 18888",
        "rl forward gpu-a 6006 --background",
        "rl forward --list",
        "rl forward --stop gpu-a 6006",
    )
)
@click.argument("server", required=False, shell_complete=complete_servers)
@click.argument("port", required=False, metavar="[[LOCAL:]PORT]")
@click.option("--background", is_flag=True, help="Come back at once; it stays until it is stopped.")
@click.option(
    "--to",
    "host",
    metavar="HOST",
    default="localhost",
    show_default=True,
    help="PORT is this host's, as SERVER knows it.",
)
@click.option("--list", "listing", is_flag=True, help="Show the forwards of this project.")
@click.option("--stop", is_flag=True, help="Stop those of SERVER, or of its PORT; in other terminals, too.")
@click.option("--all", "everything", is_flag=True, help="With --stop: all of this project.")
@json_option
@click.pass_context
def forward(
    ctx: click.Context,
    server: str | None,
    port: str | None,
    background: bool,
    host: str,
    listing: bool,
    stop: bool,
    everything: bool,
    as_json: bool,
) -> int:
    """Make PORT of SERVER a port of this machine (of 127.0.0.1 alone), through the ssh connection: for
    TensorBoard, Jupyter, debuggers.

    It is the same port here, or the next one that is free; LOCAL:PORT says which one, :PORT any. It ends with
    Ctrl-C; where the connection is lost, it is made again.
    """
    from remote_launch.errors import UsageError
    from remote_launch.operations.forward import parse_ports

    if listing and (stop or background or server):
        raise UsageError("--list stands alone")
    if everything and (server or not stop):
        raise UsageError("--all goes with --stop, and without a server")
    fleet = load_fleet(ctx)
    if listing:
        return _list(fleet, as_json)
    ports = parse_ports(port) if port else None
    if stop:
        if not (server or everything):
            raise UsageError("stop which?", hint="rl forward --stop SERVER [PORT], or --stop --all")
        from remote_launch.operations.kept_forwards import stop_forwards

        return _stopped(stop_forwards(fleet.project, server, ports, everything=everything), as_json)
    if server is None or ports is None:
        raise UsageError("which port of which server?", hint="rl forward SERVER PORT, or rl forward --list")
    entry = fleet.server(server)
    if background:
        from remote_launch.operations.kept_forwards import keep_forward

        record, is_new = keep_forward(fleet, entry, ports, host)
        _begun(fleet, record, wanted=ports.local, as_json=as_json, is_new=is_new)
        return 0
    from remote_launch.operations.forward import hold, open_forward

    with open_forward(fleet, entry, ports, host) as record:
        _begun(fleet, record, wanted=ports.local, as_json=as_json)
        hold(fleet, record, lambda text: output.say(output.clean(text, colour=False)))
    return 0


def _begun(
    fleet: Fleet, record: ForwardRecord, *, wanted: int | None, as_json: bool, is_new: bool = True
) -> None:
    """Say where the port is now, and what to know of it."""
    from remote_launch.operations.forward import listening_notice

    if as_json:
        output.emit_json("forward", {**_data(record, alive=True), "new": is_new})
    else:
        click.echo(record.url)
        if wanted is None and record.local_port != record.remote_port and is_new:
            output.say(f"port {record.remote_port} is not free here: {record.local_port} instead")
    there = f"port {record.to} of {record.server}"
    if not is_new:
        output.say(f"{there} is there already, since {output.time_text(record.started_at)}")
    elif record.background:
        output.say(f"{there}; rl forward --stop {record.server} {record.remote_port} ends it")
    else:
        output.say(f"{there}; Ctrl-C ends it")
    notice = listening_notice(fleet, record)
    if notice:
        output.say(f"note: {notice}", style="yellow")


def _list(fleet: Fleet, as_json: bool) -> int:
    from remote_launch.operations.kept_forwards import list_forwards

    states = list_forwards(fleet.project)
    if as_json:
        output.emit_json("forward", [_data(state.record, alive=state.alive) for state in states])
        return 0
    if not states:
        output.say("nothing is forwarded")
        return 0
    rows = output.Rows("server", "port there", "here", "since", "state")
    for state in states:
        record = state.record
        rows.add_row(
            record.server, record.to, record.url, output.time_text(record.started_at), _state_cell(state)
        )
    rows.show()
    for state in states:
        if state.alive is False:
            output.say(f"again: {output.clean(state.record.command, colour=False)}")
    return 0


def _state_cell(state: ForwardState) -> output.Cell:
    record = state.record
    if state.alive is None:
        return output.Cell(f"on {record.machine}")
    if state.alive:
        return output.Cell("alive" if record.background else f"in the foreground, pid {record.pid}", "green")
    return output.Cell(f"dead, seen {output.time_text(record.ended_at)}", "red")


def _stopped(records: list[ForwardRecord], as_json: bool) -> int:
    if as_json:
        output.emit_json("forward", [_data(record, alive=False) for record in records])
        return 0
    for record in records:
        text = f"stopped {record.server} {record.to} ({record.url})"
        click.echo(output.clean(text, colour=False))
    if not records:
        output.say("nothing is forwarded")
    return 0


def _data(record: ForwardRecord, *, alive: bool | None) -> dict[str, Any]:
    from remote_launch.core.jobs import iso

    return {
        "server": record.server,
        "local_port": record.local_port,
        "remote_port": record.remote_port,
        "remote_host": record.remote_host,
        "url": record.url,
        "background": record.background,
        "alive": alive,
        "started_at": iso(record.started_at),
        "ended_at": iso(record.ended_at),
        "machine": record.machine,
        "pid": record.pid,
    }
