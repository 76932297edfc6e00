"""torchrun's arguments and the environment of a node, as data. ``--dry-run`` prints it; the supervisor runs
it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from remote_launch.dataclass import dataclass
from remote_launch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from remote_launch.core.topology import Node, Topology

# PET_NNODES, PET_NPROC_PER_NODE … on a server silently override torchrun's defaults: every option is given,
# the rest unset. A RANK or LOCAL_RANK left over in a login environment would mislead scripts that read it
# before torchrun sets it.
UNSET = ("PET_*", "TORCHELASTIC_*", "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What the user wants to run on every rank: ``train.py …``, or with ``module`` ``-m package.train …``."""

    name: str
    args: tuple[str, ...] = ()
    module: bool = False
    pass_local_rank: bool = False  # labml_remote's default: --local_rank=N after the other arguments

    @property
    def words(self) -> list[str]:
        """The command's words, as a person would type them after torchrun's own options."""
        return [*(["-m"] if self.module else []), self.name, *self.args]

    @property
    def display(self) -> str:
        return shlex.join(self.words)


def parse_cmd(cmd: str) -> list[str]:
    """Given ``--cmd 'train.py --epochs 3'``, return its words. A leading ``python`` (labml_remote users type
    it) is dropped."""
    try:
        words = shlex.split(cmd)
    except ValueError as error:
        raise UsageError(f"--cmd {cmd!r}: {error}", hint="check the quotes") from error
    if words and words[0] in ("python", "python3"):
        words = words[1:]
    if not words:
        raise UsageError("--cmd is empty", hint="for example: --cmd 'train.py --epochs 3'")
    return words


def torchrun_args(topology: Topology, node: Node, script: Script, run_id: str) -> list[str]:
    """Given a node of a launch, return torchrun's arguments. The supervisor adds the log options: it knows
    the job's folder."""
    args = [
        "--nnodes",
        str(topology.nnodes),
        "--nproc-per-node",
        str(node.nproc),
        "--node-rank",
        str(node.node_rank),
        "--rdzv-backend",
        "static",
        "--rdzv-id",
        run_id,
        "--master-addr",
        topology.master_addr,
        "--master-port",
        str(topology.master_port),
        "--max-restarts",
        "0",
        "--monitor-interval",
        "0.1",
        "--start-method",
        "spawn",
        "--role",
        "default",
        "--tee",
        "0",
    ]
    if script.module:
        args.append("--module")
    args += [_exact(word) for word in (script.name, *script.args)]
    if script.pass_local_rank:
        args.append("--local_rank=${local_rank}")
    return args


def node_env(
    topology: Topology, node: Node, user_env: Mapping[str, str], run_id: str, *, shares_machine: bool = False
) -> dict[str, str]:
    """Given a node and what the user set, return the node's environment. What the user set is never
    overridden.

    ``shares_machine``: another node of the launch is on the same machine (two local servers).
    """
    env = {
        "MASTER_ADDR": topology.master_addr,
        "MASTER_PORT": str(topology.master_port),
        "NODE_RANK": str(node.node_rank),
        "NNODES": str(topology.nnodes),
        "WORLD_SIZE": str(topology.world_size),
        "RUN_UUID": run_id,  # labml_remote's name
    }
    if node.nproc > 1 or shares_machine:  # else each rank takes every core, and they all wait for each other
        env["OMP_NUM_THREADS"] = "1"
    if node.interface and topology.nnodes > 1:
        # Without it gloo binds to what the server's own name resolves to: 127.0.1.1 on a stock Debian or
        # Ubuntu.
        env["GLOO_SOCKET_IFNAME"] = node.interface
        if node.interface != "lo":
            env["NCCL_SOCKET_IFNAME"] = f"={node.interface}"  # that very one: bond0 alone means bond0.100 too
    return {**env, **user_env}


def default_tags(script: Script) -> list[str]:
    """Return labml_remote's tags for a launch: the words of the command, "distributed" and "torch"."""
    return [*dict.fromkeys([*script.words, "distributed", "torch"])]


def _exact(word: str) -> str:
    """torchrun passes its arguments through string.Template: a doubled "$" arrives as the one that was
    typed."""
    return word.replace("$", "$$")
