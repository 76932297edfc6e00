"""The queue of each server: what a job asks of it, and who is in it. The waiting itself is done there, by the
jobs' supervisors (``remote/turn.py``)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from remote_launch.core.job_specs import QueueSpec
from remote_launch.core.jobs import now
from remote_launch.dataclass import dataclass
from remote_launch.errors import UsageError
from remote_launch.operations.told import epoch_s, mapping, mappings, number, text, texts
from remote_launch.operations.verbs import call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.cards import CardChoice
    from remote_launch.core.gpus import GpuWish
    from remote_launch.core.inventory import Server
    from remote_launch.core.topology import Node
    from remote_launch.operations.fanout import Outcomes
    from remote_launch.operations.fleet import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class InQueue:
    """A job that has slots or waits for them. It may be another project's."""

    job_id: str
    command: str
    workdir: str
    need: int
    since: float | None  # on this computer's clock
    may_have: tuple[str, ...] = ()  # the slots or cards that it can begin on; empty: an older rl's, any

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """``holder``: the job that has it; ``used_by``: who is on a card that no job of the queue has."""

    name: str
    holder: InQueue | None = None
    used_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The slots of one kind ("slot" or "gpu") of a server, and the jobs that wait for them, in order."""

    kind: str
    slots: tuple[Slot, ...]
    waiting: tuple[InQueue, ...]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """All lines of a server. ``machine`` is the same for servers that are one machine, with one queue."""

    lines: tuple[Line, ...]
    problems: tuple[str, ...] = ()  # with its cards' driver
    machine: str | None = None
    slots: int | None = None  # what the inventory says

    def to_list(self) -> list[dict[str, Any]]:
        return [line.to_dict() for line in self.lines]


def queue_spec(server: Server, *, slots: int | None = None, gpus: int | None = None) -> QueueSpec:
    """Return what a job asks of its server's queue: so many slots or cards; 1 of what the server has.
    Raises UsageError."""
    for name, count in (("slots", slots), ("gpus", gpus)):
        if count is not None and (type(count) is not int or count < 0):  # from Python it may be anything
            raise UsageError(f"{name}: {count!r} is not a number of {name}", hint=f"{name}=2, for example")
    if slots and gpus:
        hint = "--slots, or --gpus-per-node"
        raise UsageError("a job waits for slots or for cards, not for both", hint=hint)
    kind = "gpu" if gpus else None
    return QueueSpec(need=slots or gpus or 1, kind=kind, slots=server.slots)


def launch_queue(server: Server, node: Node, wish: GpuWish, slots: int | None) -> QueueSpec:
    """Return what a node of a launch asks: a slot, or a card, for each of its ranks, if nothing else was
    said."""
    names = wish.named.get(server.name, wish.named.get(None))
    if names or wish.per_node:
        return queue_spec(server, gpus=len(names) if names else wish.per_node)
    return queue_spec(server, slots=slots or node.nproc)


def left_to_queue(choice: CardChoice, wish: GpuWish) -> CardChoice:
    """Given the cards that a launch would take now, return the choice without them: it takes those that are
    free when its turn comes. Cards that were named stay."""
    if wish.named.get(choice.server, wish.named.get(None)) is not None:
        return choice
    return dataclasses.replace(choice, cards=(), env={}, reason="", warnings=())


def look_at_queues(fleet: Fleet, servers: Sequence[Server]) -> Outcomes[Queue]:
    """Ask every server who has its slots and who waits. Raises nothing; an unreachable one is an outcome."""

    def ask(server: Server) -> Queue:
        request = {"slots": server.slots, "slots_dir": server.env.get("RL_SLOTS_DIR")}
        answer = call(fleet, server, "queue", request, timeout_s=30)
        offset_s = now() - (epoch_s(answer.get("time")) or now())
        lines = tuple(_line(told, offset_s) for told in mappings(answer.get("lines")))
        return Queue(
            lines=lines,
            problems=tuple(texts(answer.get("problems"))),
            machine=text(answer.get("machine")),
            slots=server.slots,
        )

    return fleet.map(servers, ask)


def one_a_machine(queues: Mapping[str, Queue]) -> list[tuple[list[str], Queue]]:
    """Return each queue once, with the names of its servers: several may be one machine. Those
    for which the inventory says other ``slots`` stay apart."""
    found: dict[object, tuple[list[str], Queue]] = {}
    for name, queue in queues.items():
        key = (queue.machine, queue.slots) if queue.machine else name
        found.setdefault(key, ([], queue))[0].append(name)
    return list(found.values())


def _line(told: Mapping[str, Any], offset_s: float) -> Line:
    return Line(
        kind="gpu" if told.get("kind") == "gpu" else "slot",
        slots=tuple(
            Slot(
                name=text(slot.get("name")) or "?",
                holder=_job(slot["holder"], offset_s) if isinstance(slot.get("holder"), dict) else None,
                used_by=text(slot.get("used_by")),
            )
            for slot in mappings(told.get("slots"))
        ),
        waiting=tuple(_job(note, offset_s) for note in mappings(told.get("waiting"))),
    )


def _job(note: Mapping[str, Any], offset_s: float) -> InQueue:
    note = mapping(note)
    since = epoch_s(note.get("taken_at")) or epoch_s(note.get("since"))
    return InQueue(
        job_id=text(note.get("job_id")) or "",
        command=text(note.get("command")) or "",
        workdir=text(note.get("workdir")) or "",
        need=number(note.get("need")) or 1,
        since=None if since is None else since + offset_s,
        may_have=tuple(texts(note.get("may_have"))),
    )
