"""Which server is which node, how many ranks each has, and where they meet. Plain arithmetic over what the
servers told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.dataclass import dataclass
from remote_launch.errors import TopologyError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a preflight told of one server."""

    server: str
    address: str  # where the other nodes reach it
    interface: str | None
    cpus: int
    gpus: int
    ports: tuple[int, ...] = ()  # free TCP ports


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One server's part in a launch."""

    server: str
    node_rank: int
    nproc: int
    first_rank: int
    address: str
    interface: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The whole launch: its nodes by rank, and the master's address and ports."""

    nodes: tuple[Node, ...]
    master_addr: str
    master_port: int
    gang_port: int

    @property
    def nnodes(self) -> int:
        return len(self.nodes)

    @property
    def meeting_place(self) -> str:
        """Where the ranks meet, for people: "10.0.0.5:20001", "[fd00::5]:20001"."""
        host = f"[{self.master_addr}]" if ":" in self.master_addr else self.master_addr
        return f"{host}:{self.master_port}"

    @property
    def world_size(self) -> int:
        return sum(node.nproc for node in self.nodes)


def split_spares(servers: int, nnodes: int | None, spares: int | None) -> int:
    """Given how many servers were chosen and torch-launch's --nnodes and --spare, return how many of them are
    nodes; the rest stand by. Raises TopologyError."""
    if nnodes is None and spares and spares >= servers:
        raise TopologyError(
            f"--spare {spares} of {servers} servers leaves none to run on",
            hint="choose fewer spares, or more servers with --server",
            exit_code=2,
        )
    if nnodes is None:
        nnodes = servers - (spares or 0)
    if not 0 < nnodes <= servers or (spares is not None and nnodes + spares != servers):
        wanted = f"{nnodes} nodes" + (f" and {spares} spares" if spares else "")
        raise TopologyError(
            f"{wanted}: {servers} servers were chosen", hint="choose them with --server", exit_code=2
        )
    if nnodes == 1 < servers:
        raise TopologyError(
            "a launch on one node can't have spares: none could know for certain that the node has stopped",
            hint="choose fewer spares, or one server with --server",
            exit_code=2,
        )
    return nnodes


def lay_out_spares(topology: Topology, facts: Sequence[NodeFacts], nproc: Sequence[str | int]) -> list[Node]:
    """Given the servers that stand by, return them as nodes after the launch's. Each must have as many ranks
    as one that it may replace. Raises TopologyError."""
    spares = []
    for number, (fact, wanted) in enumerate(zip(facts, nproc, strict=True)):
        count = resolve_nproc(wanted, fact)
        if count not in {node.nproc for node in topology.nodes}:
            raise TopologyError(
                f"{fact.server} can't stand by: it would have {count} ranks, and no node has",
                hint="--nproc-per-node N is the same for all servers",
            )
        spares.append(
            Node(
                server=fact.server,
                node_rank=topology.nnodes + number,
                nproc=count,
                first_rank=0,
                address=fact.address,
                interface=fact.interface,
            )
        )
    return spares


def order_servers(names: Sequence[str], master: str | None) -> list[str]:
    """Given servers in inventory order, return them in node order: the master first."""
    if master is None:
        return list(names)
    if master not in names:
        raise TopologyError(
            f"--master {master} is not among the servers of this launch ({', '.join(names)})", exit_code=2
        )
    return [master, *(name for name in names if name != master)]


def resolve_nproc(wanted: str | int, facts: NodeFacts) -> int:
    """Given torchrun's --nproc-per-node (a number, gpu, cpu or auto), return the number of ranks for one
    server."""
    word = check_nproc(wanted)
    if word.isdecimal():
        return int(word)
    if word == "cpu":
        return facts.cpus
    if word == "gpu":
        if facts.gpus == 0:
            raise TopologyError(
                f"{facts.server}: --nproc-per-node gpu, but no GPU was found there",
                hint="give a number, or --nproc-per-node cpu; rl servers --gpus shows the cards",
            )
        return facts.gpus
    return facts.gpus or facts.cpus


def check_nproc(wanted: str | int) -> str:
    """Return torchrun's --nproc-per-node as one of its words. Raises TopologyError where it is none."""
    word = str(wanted).strip().lower()
    if word in {"gpu", "cpu", "auto"} or (word.isdecimal() and int(word) > 0):
        return word
    raise TopologyError(
        f"--nproc-per-node {wanted!r}: expected a number from 1, gpu, cpu or auto",
        hint="one rank a GPU is the usual choice: gpu",
        exit_code=2,
    )


def lay_out(
    facts: Sequence[NodeFacts],
    nproc: Sequence[str | int],
    *,
    master_addr: str | None = None,
    master_port: int | None = None,
) -> Topology:
    """Given the nodes in order and what each was asked to run, return the topology. Unequal counts are fine.

    ``master_addr`` and ``master_port`` are the user's own and win over what was found.
    """
    if not facts:
        raise TopologyError("a launch needs at least one server")
    nodes: list[Node] = []
    first_rank = 0
    for node_rank, (fact, wanted) in enumerate(zip(facts, nproc, strict=True)):
        count = resolve_nproc(wanted, fact)
        nodes.append(
            Node(
                server=fact.server,
                node_rank=node_rank,
                nproc=count,
                first_rank=first_rank,
                address=fact.address,
                interface=fact.interface,
            )
        )
        first_rank += count
    ports = list(facts[0].ports)
    if len(ports) < 2:
        raise TopologyError(f"{facts[0].server}: no free port was found on the master")
    master_port = master_port or ports[0]
    # A port that the user chose may be one of those that were found free.
    gang_port = ports[1] if ports[1] != master_port else ports[0]
    return Topology(
        nodes=tuple(nodes),
        master_addr=master_addr or facts[0].address,
        master_port=master_port,
        gang_port=gang_port,
    )
