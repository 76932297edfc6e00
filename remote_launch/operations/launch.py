"""torchrun on several servers: ask every node, lay out the ranks, build the specs, start them all or none."""

from __future__ import annotations

import dataclasses
import os
import shlex
from typing import TYPE_CHECKING, Any

from remote_launch.core.gpus import read_wish
from remote_launch.core.job_specs import GangSpec, JobSpec
from remote_launch.core.jobs import JobRecord, new_id, now
from remote_launch.core.topology import (
    Node,
    Topology,
    check_nproc,
    lay_out,
    lay_out_spares,
    order_servers,
    split_spares,
)
from remote_launch.core.torchrun import UNSET, Script, default_tags, node_env, torchrun_args
from remote_launch.dataclass import dataclass
from remote_launch.errors import JobError, UsageError
from remote_launch.operations.gpus import choose_for_launch
from remote_launch.operations.known_ways import NO_WAYS, known_ways
from remote_launch.operations.launch_check import Layout, first_open
from remote_launch.operations.networks import rank_addresses, with_addresses
from remote_launch.operations.outputs import notice
from remote_launch.operations.preflight import ask_node, check_script, node_facts
from remote_launch.operations.queue import launch_queue, left_to_queue
from remote_launch.operations.start import notification, place_on, record_of, start_jobs, stop_started

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.cards import CardChoice
    from remote_launch.core.dataplane import DataPlane
    from remote_launch.core.gpus import GpuWish
    from remote_launch.core.inventory import Server
    from remote_launch.core.topology import NodeFacts
    from remote_launch.operations.fleet import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What the user asked for; ``nproc_per_node`` None takes the inventory's."""

    script: Script
    servers: Sequence[str] = ()
    nproc_per_node: str | int | None = None
    gpus: Sequence[str] = ()  # the cards: "0,2", "gpu-a:0,1"
    gpus_per_node: int | None = None
    busy_gpus: bool = False  # cards that others hold may be taken, too
    queue: bool = False  # each node waits until as many slots (or cards) as it has ranks are free
    slots: int | None = None  # as many as this, instead
    master: str | None = None
    master_port: int | None = None
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tags: Sequence[str] = ()
    grace_s: float = 15.0
    nnodes: int | None = None  # fewer than the servers: the rest stand by as spares
    spares: int | None = None
    max_restarts: int | None = None  # None, here and below: as the inventory has it; 0: none
    restart_window_s: float | None = None
    stall_timeout_s: float | None = None
    notify: str | None = None  # None: the inventory's on_finish
    clean_outputs: bool = False  # the caller removes them before the start: they need not be the same
    check: bool = True  # whether the nodes can work together, before anything starts


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """A launch, ready to start: what ``--dry-run`` prints."""

    launch_id: str
    run_id: str
    topology: Topology
    specs: tuple[JobSpec, ...]  # by node rank, then those of the spares
    notes: tuple[str, ...] = ()  # what was chosen and why, for the user
    warnings: tuple[str, ...] = ()  # what may go wrong

    def to_dict(self) -> dict[str, Any]:
        return {
            "launch_id": self.launch_id,
            "run_id": self.run_id,
            "master_addr": self.topology.master_addr,
            "master_port": self.topology.master_port,
            "nnodes": self.topology.nnodes,
            "world_size": self.topology.world_size,
            "nodes": [spec.to_dict() for spec in self.specs[: self.topology.nnodes]],
            "spares": [spec.to_dict() for spec in self.specs[self.topology.nnodes :]],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def plan_launch(fleet: Fleet, request: LaunchRequest) -> LaunchPlan:
    """Ask every node what a launch must know (one round trip, in parallel; one more to see whether they reach
    each other, unless that is known by then) and return the plan. Nothing is started.

    Raises ServersFailedError (or the one error) where a node can't take part, TopologyError, UsageError.
    """
    check_script(fleet, request.script)
    request = dataclasses.replace(
        request,
        **fleet.inventory.launch.settle(
            max_restarts=request.max_restarts,
            restart_window_s=request.restart_window_s,
            stall_timeout_s=request.stall_timeout_s,
        ),
    )
    selected = fleet.select(request.servers)
    names = order_servers([server.name for server in selected], request.master)
    nnodes = split_spares(len(names), request.nnodes, request.spares)
    if nnodes < len(names) and not request.max_restarts:
        raise UsageError(
            "a spare takes a lost node's place at a restart, and none was asked for", hint="--max-restarts N"
        )
    by_name = {server.name: server for server in selected}
    wish = read_wish(request.gpus, request.gpus_per_node, names, take_busy=request.busy_gpus or request.queue)
    ordered = [by_name[name] for name in names]
    nproc = [_nproc(server, request, wish) for server in ordered]
    known = known_ways(fleet, ordered) if request.check else NO_WAYS
    answers = fleet.map(
        ordered, lambda server: ask_node(fleet, server, request.script, known.requests.get(server.name))
    )
    answers.raise_on_error("nothing was started")
    facts = [node_facts(by_name[name], answers.values[name]) for name in names]
    user = {name: {**by_name[name].env, **request.env} for name in names}
    planes = rank_addresses(ordered, facts, answers.values, user)
    cards = choose_for_launch(ordered, answers.values, wish, dict(zip(names, nproc, strict=True)), user)
    if request.queue:
        cards = {name: left_to_queue(choice, wish) for name, choice in cards.items()}
    facts = [dataclasses.replace(fact, gpus=cards[fact.server].count) for fact in facts]
    user_port = _user_port(request, user[names[0]])
    master_addr = user[names[0]].get("MASTER_ADDR")
    layouts = [
        _layout(with_addresses(facts, plane), plane, nproc, nnodes, master_addr, user_port)
        for plane in planes
    ]
    layout, found = first_open(fleet, layouts, answers.values, known) if request.check else (layouts[0], [])
    plane, topology, members = layout.plane, layout.topology, layout.members
    launch_id, run_id = new_id(), new_id()
    gang = None
    if topology.nnodes > 1:
        gang = GangSpec(
            address=topology.master_addr,
            port=topology.gang_port,
            token=os.urandom(32).hex(),
            nnodes=topology.nnodes,
            servers=tuple(names),
            spares=len(names) - nnodes,
            nprocs=tuple(node.nproc for node in members),
            addresses=tuple(node.address for node in members),
        )
    specs = tuple(
        dataclasses.replace(
            _spec(
                fleet, request, topology, node, run_id, answers.values[node.server], cards[node.server],
                has_spares=nnodes < len(names),
            ),
            launch_id=launch_id,
            gang=gang,
            fresh_port=user_port is None,
            queue=launch_queue(by_name[node.server], node, wish, request.slots) if request.queue else None,
            choices={"network": choice.to_dict(), **cards[node.server].to_choices()},
        )
        for node, choice in zip(members, plane.choices, strict=True)
    )
    if not request.clean_outputs:
        found = [*found, *notice(fleet, [by_name[name] for name in names], answers.values)]
    return LaunchPlan(
        launch_id=launch_id,
        run_id=run_id,
        topology=topology,
        specs=specs,
        notes=(
            *plane.notes,
            *(choice.reason for choice in cards.values() if choice.reason),
            *(f"{spec.server}: waits for {spec.queue.words}" for spec in specs if spec.queue),
        ),
        warnings=(*plane.warnings, *(text for choice in cards.values() for text in choice.warnings), *found),
    )


def _layout(
    facts: Sequence[NodeFacts],
    plane: DataPlane,
    nproc: Sequence[str | int],
    nnodes: int,
    master_addr: str | None,
    master_port: int | None,
) -> Layout:
    topology = lay_out(facts[:nnodes], nproc[:nnodes], master_addr=master_addr, master_port=master_port)
    spares = lay_out_spares(topology, facts[nnodes:], nproc[nnodes:])
    return Layout(plane=plane, topology=topology, members=(*topology.nodes, *spares))


def start_launch(fleet: Fleet, plan: LaunchPlan) -> list[JobRecord]:
    """Start every node in parallel and return the jobs by node rank. All or nothing: when one can't start,
    the others are stopped.

    The jobs are recorded before anything starts, so that an interruption leaves nothing unknown.
    """
    records = fleet.registry.add([record_of(spec) for spec in plan.specs])
    try:
        outcomes = start_jobs(fleet, plan.specs, records)
    except KeyboardInterrupt:
        results = stop_started(fleet, records, reason="interrupted while the launch was starting")
        loose = [str(result.failure) for result in results if result.failure]
        outcome = f"not stopped for certain: {'; '.join(loose)}" if loose else "what had started was stopped"
        keys = ", ".join(str(record.key) for record in records)
        raise JobError(
            f"interrupted while jobs {keys} were starting; {outcome}",
            hint="rl job-list --rsync --all shows what became of them",
            exit_code=130,
        ) from None
    if outcomes.errors:
        stop_started(fleet, records, reason="another node could not start")
        outcomes.raise_on_error("the launch was stopped, all or nothing")
    return fleet.registry.launch(plan.launch_id)


def _nproc(server: Server, request: LaunchRequest, wish: GpuWish) -> str | int:
    wanted = request.nproc_per_node if request.nproc_per_node is not None else server.nproc_per_node
    if wanted is None and wish.is_given:
        return "gpu"
    if wanted is None:
        raise UsageError(
            f"{server.name}: how many ranks a server?",
            hint="--nproc-per-node N (or gpu, cpu, auto), or nproc_per_node: in the inventory",
        )
    return check_nproc(wanted)


def _user_port(request: LaunchRequest, env: Mapping[str, str]) -> int | None:
    if request.master_port is not None:
        return request.master_port
    port = env.get("MASTER_PORT")
    if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(
            f"MASTER_PORT={port!r} is not a port", hint="leave it out: rl asks the master for a free one"
        )
    return int(port) if port else None


def _spec(
    fleet: Fleet,
    request: LaunchRequest,
    topology: Topology,
    node: Node,
    run_id: str,
    answer: Mapping[str, Any],
    cards: CardChoice,
    *,
    has_spares: bool,
) -> JobSpec:
    server = fleet.server(node.server)
    script = request.script
    local = [other for other in topology.nodes if fleet.server(other.server).target.transport == "local"]
    env = node_env(
        topology,
        node,
        {**cards.env, **server.env, **request.env},
        run_id,
        shares_machine=len(local) > 1 and server.target.transport == "local",
    )
    tags = list(request.tags) or default_tags(script)
    return JobSpec(
        job_id=new_id(),
        server=server.name,
        workdir=answer["workdir"],
        torchrun=tuple(torchrun_args(topology, node, script, run_id)),
        command=f"torchrun {script.display}",
        name=shlex.join(script.words[:2] if script.module else script.words[:1]),
        **place_on(server, env),
        unset_env=UNSET,
        tags=tuple([*tags, "master"] if node.node_rank == 0 else tags),
        run_id=run_id,
        node_rank=node.node_rank,
        nnodes=topology.nnodes,
        first_rank=node.first_rank,
        nproc=node.nproc,
        grace_s=request.grace_s,
        stall_timeout_s=request.stall_timeout_s,
        # Run by who coordinates at the end: node 0, or its successor.
        notify=notification(fleet, request.notify) if node.node_rank == 0 or has_spares else None,
        max_restarts=request.max_restarts or 0,
        restart_window_s=request.restart_window_s,
        created_at=now(),
    )
