"""Which graphics cards a node uses: plain arithmetic over what its server told of them.

A card that somebody else holds is left out, unless the user names it or says that held ones are wanted, too.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from remote_launch.core.cards import CardChoice
from remote_launch.core.visible_cards import ROCR, VISIBLE, is_called, shown, shown_at_login, variables
from remote_launch.dataclass import dataclass
from remote_launch.errors import TopologyError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from remote_launch.core.cards import Card, Survey

_NAME = re.compile(r"\d{1,3}\Z|(?:GPU|MIG)-[A-Za-z0-9/-]{4,80}\Z|0x[0-9a-fA-F]{4,32}\Z")
NO_CARDS = "none"
_TAKEN = "another node of this launch"
_OWN_MEMORY_MB = 100  # a smaller process of ours is no reason for a word
_USE_HINT = "--busy-gpus takes cards that others hold, too; --gpus none: the job needs no card"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWish:
    """What the user asked for: --gpus (by server; None is every other one), --gpus-per-node, --busy-gpus."""

    named: Mapping[str | None, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    per_node: int | None = None
    take_busy: bool = False

    @property
    def is_given(self) -> bool:
        return bool(self.named) or self.per_node is not None


def read_wish(
    texts: Sequence[str], per_node: int | None, servers: Collection[str], *, take_busy: bool = False
) -> GpuWish:
    """Given --gpus' texts ("0,2", "gpu-a:0,1", uuids, "none"), return the wish. Raises UsageError."""
    named: dict[str | None, tuple[str, ...]] = {}
    for text in texts:
        head, colon, rest = text.strip().partition(":")
        server, names = (head, rest) if colon else (None, head)
        if server is not None and server not in servers:
            raise UsageError(
                f"--gpus {text}: no server {server!r} takes part{did_you_mean(server, servers)}",
                hint="--gpus SERVER:0,1, or --gpus 0,1 for all",
            )
        cards = () if names == NO_CARDS else tuple(name.strip() for name in names.split(","))
        if not all(_NAME.match(name) for name in cards) or len(set(cards)) < len(cards):
            raise UsageError(
                f"--gpus {text}: expected different cards, by index or uuid, or {NO_CARDS}",
                hint="for example --gpus 0,2; --gpus-per-node N takes any N; rl servers --gpus lists them",
            )
        if server in named:
            raise UsageError(f"--gpus {text}: cards are named twice for {server or 'all servers'}")
        named[server] = cards
    if None in named and per_node is not None:
        raise UsageError("--gpus names the cards, --gpus-per-node counts them: give one of the two")
    return GpuWish(named=named, per_node=per_node, take_busy=take_busy)


def choose_cards(
    server: str,
    survey: Survey,
    wish: GpuWish,
    ranks: str | int | None,
    *,
    user_env: Mapping[str, str],
    taken: Collection[str] = (),
) -> CardChoice:
    """Given a server's cards and how many ranks it is to have (--nproc-per-node; None: a single job), return
    which it uses. What the user set in the environment wins.

    ``taken``: uuids that another node of the launch on the same machine has. Raises TopologyError.
    """
    fixed = next((name for name in (*VISIBLE.values(), ROCR) if name in user_env), None)
    cards = survey.of_vendor()
    word = str(ranks if ranks is not None else "cpu").strip().lower()
    if fixed:
        return _as_user_set(server, f"{fixed}={user_env[fixed]}", cards, wish, word)
    names = wish.named.get(server, wish.named.get(None))
    if names is not None:
        return _crowded(_named(server, survey, cards, names, user_env), word)
    pool, login = shown_at_login(survey, cards)
    if pool is None:
        return _as_set(server, login, "as its login environment says", wish)
    if wish.per_node is None and word == "cpu":
        return CardChoice(server=server, count=len(pool))
    if wish.per_node is not None or word in ("gpu", "auto"):
        pool = tuple(dataclasses.replace(c, busy=_TAKEN) if c.uuid in taken else c for c in pool)
    held = [c for c in pool if c.trouble or c.busy == _TAKEN or (c.busy and not wish.take_busy)]
    free = sorted((c for c in pool if c not in held), key=lambda c: (bool(c.busy), bool(c.processes)))
    chosen = _count(server, survey, wish, word, pool, held, free)
    if chosen is None:
        left = CardChoice(server=server, count=len(pool), warnings=_problems(server, survey))
        return _crowded(left, word)
    chosen = [card for card in pool if card in chosen]
    reason = f"{server}: {_cards(chosen)}{f' of {len(cards)}' if len(chosen) < len(cards) else ''}"
    reason += f" ({chosen[0].name})" if chosen else ""
    reason += f"; {login} of its login environment" if login else ""
    whys = [card.why_not for card in held if card.why_not]
    choice = CardChoice(
        server=server,
        count=len(chosen),
        cards=tuple(chosen),
        env=variables(chosen, survey, user_env),
        reason="; ".join([reason, *whys]),
        warnings=(*_problems(server, survey), *_shared(server, chosen)),
    )
    return _crowded(choice, word)


def _crowded(choice: CardChoice, word: str) -> CardChoice:
    """Return the choice with a warning where there are more ranks than cards: each ``cuda:$LOCAL_RANK`` is
    there for the first ones only."""
    ranks = int(word) if word.isdecimal() else 0
    if not 0 < choice.count < ranks:
        return choice
    cards = "one card" if choice.count == 1 else f"{choice.count} cards"
    text = (
        f"{choice.server}: {ranks} ranks share {cards}: there is no cuda:$LOCAL_RANK for each of them "
        "(--nproc-per-node gpu: one a card; --gpus none: the job needs no card)"
    )
    return dataclasses.replace(choice, warnings=(*choice.warnings, text))


def _count(
    server: str,
    survey: Survey,
    wish: GpuWish,
    word: str,
    pool: Sequence[Card],
    held: Sequence[Card],
    free: Sequence[Card],
) -> Sequence[Card] | None:
    """Return the cards that the counts ask for; None where rl leaves the choice to the script."""
    whole = [card for card in free if not card.is_split]
    if wish.per_node is not None:
        if len(whole) < wish.per_node:
            raise _not_enough(server, survey, f"--gpus-per-node {wish.per_node}", pool, held, whole)
        return whole[: wish.per_node]
    if word in ("gpu", "auto"):
        if not whole and (pool or (survey.problems and word == "gpu")):
            raise _not_enough(server, survey, f"--nproc-per-node {word}", pool, held, whole)
        return whole or None
    wanted = int(word) if word.isdecimal() else 0
    if not held:
        return None
    if len(free) >= wanted:
        return free  # a rank may use more than one card: only those of others are hidden
    if len(pool) >= wanted:
        raise _not_enough(server, survey, f"{wanted} ranks", pool, held, free)
    return None  # fewer cards than ranks: not one a rank, whatever it is


def _named(
    server: str, survey: Survey, cards: Sequence[Card], names: Sequence[str], user_env: Mapping[str, str]
) -> CardChoice:
    """Return the cards that the user named, held by others or not."""
    if not names:
        env = {VISIBLE[card.vendor]: "" for card in cards[:1]}
        return CardChoice(server=server, count=0, env=env, reason=f"{server}: no card, as you asked")
    chosen: list[Card] = []
    devices: list[str] = []
    words: dict[str, str] = {}  # by which name a card was named
    for name in names:
        called = [card for card in cards if is_called(card, name)]
        if len(called) > 1:
            *first, last = (str(card.index) for card in called)
            raise TopologyError(
                f"{server}: {name} may be card {', '.join(first)} or {last}",
                hint="write more of its uuid; rl servers --gpus --json lists them",
            )
        card = called[0] if called else None
        if card is None:
            there = _cards(cards) if cards else "; ".join(survey.problems) or "no GPU was found there"
            raise TopologyError(
                f"{server}: there is no card {name}; it has {there}" if cards else f"{server}: {there}",
                hint="rl servers --gpus lists them; --gpus-per-node N takes any N",
            )
        other = words.setdefault(name if name.startswith("MIG-") else str(card.index), name)
        if other != name:
            raise TopologyError(f"{server}: {other} and {name} are the same card", hint="name it once")
        chosen.append(card)
        devices.append(name if name.startswith("MIG-") else "")
    warnings = [f"{server}: {card.why_not}; it was named, so it is used" for card in chosen if card.why_not]
    env = variables(chosen, survey, user_env, devices=devices, by_uuid=not names[0].isdecimal())
    return CardChoice(
        server=server,
        count=len(chosen),
        cards=tuple(chosen),
        env=env,
        reason=f"{server}: {_cards(chosen)} ({chosen[0].name}), as you named them",
        warnings=(*warnings, *_shared(server, chosen)),
    )


def _as_user_set(
    server: str, setting: str, cards: Sequence[Card], wish: GpuWish, word: str
) -> CardChoice:
    """Return what the user's own variable shows; with a word where that is not there. Raises TopologyError
    where a rank a card is wanted of none."""
    choice = _as_set(server, setting, "as you set it", wish)
    if not choice.count and word == "gpu":
        hint = "leave it out, or give a number of ranks"
        raise TopologyError(f"{server}: --nproc-per-node gpu, but {setting} shows no card", hint=hint)
    lacking = [
        name
        for name in shown(setting.partition("=")[2])
        if name.isdecimal() and not any(card.index == int(name) for card in cards)
    ]
    if not cards or not lacking or setting.startswith(ROCR):
        return choice
    text = f"{server}: {setting}: there is no card {lacking[0]}; it has {_cards(cards)}"
    return dataclasses.replace(choice, warnings=(*choice.warnings, text))


def _as_set(server: str, setting: str, why: str, wish: GpuWish) -> CardChoice:
    """Return what a variable that is set already shows; rl leaves it as it is."""
    value = setting.partition("=")[2]
    warnings = (f"{server}: --gpus does not count there: {setting} is set",) if wish.is_given else ()
    return CardChoice(
        server=server, count=len(shown(value)), reason=f"{server}: {setting}, {why}", warnings=warnings
    )


def _cards(cards: Sequence[Card]) -> str:
    numbers = ", ".join(str(card.index) for card in cards)
    return f"{'card' if len(cards) == 1 else 'cards'} {numbers}" if cards else "no card"


def _problems(server: str, survey: Survey) -> tuple[str, ...]:
    return tuple(f"{server}: {problem}" for problem in survey.problems)


def _shared(server: str, chosen: Sequence[Card]) -> list[str]:
    """Return a word for each chosen card that a program of the user's own is on."""
    return [
        f"{server}: your own {process.words} is on card {card.index}, too"
        for card in chosen
        for process in card.processes
        if process.is_own and (process.memory_mb is None or process.memory_mb > _OWN_MEMORY_MB)
    ]


def _not_enough(
    server: str, survey: Survey, asked: str, pool: Sequence[Card], held: Sequence[Card], free: Sequence[Card]
) -> TopologyError:
    whys = [card.why_not for card in held if card.why_not]
    whys += [f"card {card.index} is split into MIG devices" for card in pool if card.is_split]
    if not pool:
        why = "; ".join(survey.problems) or "no GPU was found there"
        return TopologyError(f"{server}: {asked}, but {why}", hint="rl servers --gpus shows the cards")
    if (count := asked.rpartition(" ")[2]).isdecimal() and int(count) > len(pool):
        has = "one card" if len(pool) == 1 else f"{len(pool)} cards"
        return TopologyError(f"{server}: {asked}, but it has {has}", hint="rl servers --gpus shows the cards")
    can = f"{len(free)} of its {len(pool)} cards {'is' if len(free) == 1 else 'are'} free"
    hint = _USE_HINT
    if any(card.busy == _TAKEN for card in held):
        hint = "these nodes are one machine and share its cards: --gpus-per-node N"
    elif any(card.is_split for card in pool):
        hint = "name a device: --gpus MIG-…; rl servers --gpus --json lists their uuids"
    return TopologyError(
        f"{server}: {asked}, but {can}" + (f": {'; '.join(whys)}" if whys else ""), hint=hint
    )
