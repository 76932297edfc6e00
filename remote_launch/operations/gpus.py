"""The servers' graphics cards: what each told of them, shape-checked, and which of them a launch takes."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING, Any

from remote_launch.core.cards import Card, CardProcess, Survey
from remote_launch.core.gpus import choose_cards
from remote_launch.operations.fanout import Outcomes
from remote_launch.operations.told import mapping, mappings, number, text
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.cards import CardChoice
    from remote_launch.core.gpus import GpuWish
    from remote_launch.core.inventory import Server
    from remote_launch.core.job_specs import JobSpec
    from remote_launch.operations.fleet import Fleet

_RETRY_S = 20.0
_MOST = 256  # cards of a server, processes of a card
_UUID = re.compile(r"[A-Za-z0-9/_-]{1,96}\Z")  # it goes into an environment
_SHOWN = re.compile(r"[A-Za-z0-9,/_ -]{0,4096}\Z")


def survey_cards(fleet: Fleet, servers: Sequence[Server]) -> Outcomes[Survey]:
    """Ask every server for its cards. Raises nothing; an unreachable one is an outcome."""
    return fleet.map(servers, lambda server: read_survey(call(fleet, server, "gpus", {}, timeout_s=30)))


def read_survey(value: object) -> Survey:
    """Given what a server told of its cards (untrusted), return it checked."""
    told = mapping(value)
    cards = (_read_card(card) for card in mappings(told.get("cards"))[:_MOST])
    problems = told.get("problems")
    return Survey(
        cards=tuple(card for card in cards if card is not None),
        problems=tuple(_line(word) for word in problems[:8]) if isinstance(problems, list) else (),
        visible={
            str(name): shown
            for name, shown in mapping(told.get("visible")).items()
            if isinstance(shown, str) and _SHOWN.match(shown)
        },
    )


def _read_card(told: Mapping[str, Any]) -> Card | None:
    index, uuid = number(told.get("index")), text(told.get("uuid")) or ""
    vendor = told.get("vendor")
    if index is None or not 0 <= index < 1000 or vendor not in ("nvidia", "amd"):
        return None
    devices = [(_line(one.get("name")), str(one.get("uuid"))) for one in mappings(told.get("mig_devices"))]
    return Card(
        vendor=vendor,
        index=index,
        uuid=uuid if _UUID.match(uuid) else "",
        name=_line(told.get("name")) or "GPU",
        memory_total_mb=number(told.get("memory_total_mb")),
        memory_used_mb=number(told.get("memory_used_mb")),
        utilization_percent=number(told.get("utilization_percent")),
        temperature_c=number(told.get("temperature_c")),
        busy=_line(told.get("busy")) or None,
        trouble=_line(told.get("trouble")) or None,
        is_split=told.get("mig") is True,
        devices=tuple((name, uuid) for name, uuid in devices if _UUID.match(uuid)),
        processes=tuple(_read_process(one) for one in mappings(told.get("processes"))[:_MOST]),
    )


def _read_process(told: Mapping[str, Any]) -> CardProcess:
    is_own = told.get("is_own")
    return CardProcess(
        pid=number(told.get("pid")) or 0,
        user=_line(told.get("user")) or "unknown",
        is_own=is_own if isinstance(is_own, bool) else None,
        memory_mb=number(told.get("memory_mb")),
        command=_line(told.get("command")),
    )


def _line(value: object) -> str:
    """Return a text on one line, of a length that a sentence bears."""
    return " ".join((text(value) or "")[:400].split())[:200]


def choose_for_launch(
    servers: Sequence[Server],
    answers: Mapping[str, Mapping[str, Any]],
    wish: GpuWish,
    ranks: Mapping[str, str | int],
    user_env: Mapping[str, Mapping[str, str]],
) -> dict[str, CardChoice]:
    """Given the servers of a launch in node order and what they told, return each one's cards. Local servers
    are one machine: none gets a card that another has. Raises TopologyError."""
    chosen: dict[str, CardChoice] = {}
    taken: set[str] = set()
    for server in servers:
        is_local = server.target.transport == "local"
        choice = choose_cards(
            server.name,
            read_survey(answers[server.name].get("gpus")),
            wish,
            ranks[server.name],
            user_env=user_env[server.name],
            taken=taken if is_local else (),
        )
        if is_local:
            taken.update(card.uuid for card in choice.cards if card.uuid)
        chosen[server.name] = choice
    return chosen


class CardWatch:
    """Asks the same servers again and again. One that failed is left alone for a while: it would hold up the
    others' answers each time."""

    def __init__(self, fleet: Fleet, servers: Sequence[Server]) -> None:
        self._fleet = fleet
        self._servers = list(servers)
        self._again_at: dict[str, float] = {}
        self._last: Outcomes[Survey] | None = None

    def look(self) -> Outcomes[Survey]:
        """Return what each server tells now; of one that is left alone, its last failure."""
        now = time.monotonic()
        due = [server for server in self._servers if self._again_at.get(server.name, 0.0) <= now]
        answers = survey_cards(self._fleet, due)
        known = {outcome.server: outcome for outcome in (*(self._last or ()), *answers)}
        self._last = Outcomes(known[server.name] for server in self._servers)
        for name in answers.errors:
            self._again_at[name] = time.monotonic() + _RETRY_S
        return self._last


def choose_for_job(fleet: Fleet, spec: JobSpec, wish: GpuWish) -> tuple[JobSpec, CardChoice]:
    """Given a single job's spec, ask its server for its cards and return the spec that uses those the user
    wishes, and the choice. Raises TopologyError where they can't be had."""
    server = fleet.server(spec.server)
    survey = read_survey(call(fleet, server, "gpus", {}, timeout_s=30))
    choice = choose_cards(spec.server, survey, wish, "gpu", user_env=spec.env)
    changed = dataclasses.replace(
        spec, env={**choice.env, **spec.env}, choices={**spec.choices, **choice.to_choices()}
    )
    return changed, choice
