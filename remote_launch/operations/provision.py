"""Have a server carry out its recipe: give it the programs and the files that it lacks."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from remote_launch.errors import PrepareError
from remote_launch.operations.followed_recipe import FollowedRecipe
from remote_launch.operations.told import mapping, text
from remote_launch.operations.verbs import stream, who
from remote_launch.transport.programs_here import uv_here
from remote_launch.transport.rsync import rsync_push

if TYPE_CHECKING:
    from collections.abc import Mapping

    from remote_launch.core.environments.steps import Recipe
    from remote_launch.core.inventory import Server
    from remote_launch.operations.downloads import Downloads
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.followed_recipe import Made
    from remote_launch.operations.progress import Tell


def supply(fleet: Fleet, server: Server, recipe: Recipe, answer: dict[str, Any], tell: Tell) -> None:
    """Send this machine's uv where a step needs it and the server has none.

    Raises PrepareError where there is none to send."""
    has = text(mapping(answer.get("programs")).get("uv")) is not None
    if has or "uv" not in recipe.needs | recipe.wants:
        return
    machine = mapping(answer.get("machine"))
    if "uv" not in recipe.needs and machine.get("venv") is True:
        return
    step = next(step.name for step in recipe.steps if "uv" in (*step.needs, *step.wants))
    here = f"{platform.system()} {platform.machine()}"
    there = f"{text(machine.get('system'))} {text(machine.get('machine'))}"
    mine = uv_here()
    if mine is None or here != there:
        if "uv" not in recipe.needs:
            return  # it does without, and says so if it can't
        why = (
            "this machine has none either"
            if mine is None
            else f"this machine's is for {here}, the server is {there}"
        )
        raise PrepareError(
            server.name,
            step,
            f"uv is not on the server, and {why}",
            hint="pip install uv (here, or on the server), or set environment.manager: venv",
        )
    tell.line(step, "sending uv")
    rsync_push(
        fleet.transport(server.name),
        mine.parent,
        f"{server.workdir}/.rl/bin",
        files_from=mine.name.encode() + b"\0",
    )


def programs_to_send(server: Server, recipe: Recipe) -> list[str]:
    """Return the programs that this machine may have to send: to look for one takes a server time."""
    names = recipe.needs | recipe.wants
    return sorted(names if server.environment.offline else names - {"conda"})


def run_recipe(
    fleet: Fleet,
    server: Server,
    recipe: Recipe,
    request: dict[str, Any],
    tell: Tell,
    downloads: Downloads,
    sent: Mapping[str, str],
) -> Made:
    """Have the server do what is to be done of its recipe; send it what it can't download, and have it go on.
    ``sent`` are the checksums, by step, of what it was sent already. Raises PrepareError, and what ``call``
    raises."""
    have = dict(sent)
    while True:
        followed = FollowedRecipe(fleet, server, recipe, tell)
        try:
            body = {"op": "run", "who": who(), "server": server.name, **_with_checksums(request, have)}
            done = stream(fleet, server, "prepare", body, followed.feed)
        finally:
            followed.close()
        step, need = followed.need
        if step is None or step.name in have:
            return followed.made(done)
        have[step.name] = downloads.send(server, step, need, tell.line)


def _with_checksums(request: dict[str, Any], have: Mapping[str, str]) -> dict[str, Any]:
    """The request, its downloads to be taken from what was sent: a file with the checksum is not asked
    for."""

    def step(wire: dict[str, Any]) -> dict[str, Any]:
        known = have.get(wire["name"])
        return {**wire, "download": {**wire["download"], "sha256": known}} if known else wire

    recipe = request["recipe"]
    parts = [{**part, "steps": [step(wire) for wire in part["steps"]]} for part in recipe["parts"]]
    return {**request, "recipe": {**recipe, "parts": parts}}
