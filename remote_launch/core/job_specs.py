"""The spec that a supervisor is started with: plain data.

Apart from ``jobs``, which every command imports: these classes alone take 3 ms to make."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from remote_launch.dataclass import dataclass
from remote_launch.transport.command import MASK, mask_env, mask_urls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class GangSpec:
    """How the supervisors of one launch find each other. ``token`` is secret: it travels on stdin and is
    never written down."""

    address: str  # of node 0, on the data plane
    port: int
    token: str = dataclasses.field(repr=False)
    nnodes: int
    servers: tuple[str, ...]  # names by node_rank
    silence_s: float = 10.0
    join_timeout_s: float = 60.0
    spares: int = 0  # servers after the first nnodes, that stand by
    nprocs: tuple[int, ...] = ()  # ranks, by server
    addresses: tuple[str, ...] = ()  # on the data plane, by server


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """What a job waits for on its server."""

    need: int
    kind: str | None = None  # "slot", "gpu"; None: slots where the server has ``slots:``, else cards
    slots: int | None = None  # ``slots:`` of the server

    @property
    def words(self) -> str:
        """What is waited for: "2 slots"."""
        noun = "slot" if self.kind == "slot" or (self.kind is None and self.slots) else "card"
        return f"{self.need} {noun}" + ("" if self.need == 1 else "s")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job, ready to start: plain data, printed by ``--dry-run`` and sent to the supervisor on stdin."""

    job_id: str
    server: str
    workdir: str
    argv: Sequence[str] | None = None  # exactly one of argv, shell and torchrun
    shell: str | None = None
    torchrun: Sequence[str] | None = None  # torchrun's arguments; run by the environment's python
    command: str = ""
    name: str = ""
    cwd: str | None = None  # relative to workdir
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secret_env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    unset_env: Sequence[str] = ()  # names, or prefixes with a trailing "*"
    python: str = "python3"  # the environment's interpreter, absolute or with "~/"
    path_prepend: Sequence[str] = ()  # folders put before PATH
    pythonpath_append: Sequence[str] = ()
    tags: Sequence[str] = ()
    launch_id: str | None = None
    run_id: str | None = None
    node_rank: int | None = None
    nnodes: int | None = None
    first_rank: int | None = None  # global rank of this node's local rank 0
    nproc: int | None = None  # ranks on this node
    attempt: int = 0
    max_restarts: int = 0  # further attempts, after failures only
    fresh_port: bool = False  # a new master port for every attempt: the user has set none
    restart_window_s: float | None = None  # restarts count within this time; None: over the whole job
    grace_s: float = 15.0
    log_max_bytes: int | None = None  # of each log file
    gang: GangSpec | None = None
    queue: QueueSpec | None = None  # None: it starts at once
    stall_timeout_s: float | None = None  # no output for so long: its stacks are written, and it is stopped
    notify: str | None = dataclasses.field(default=None, repr=False)  # shell; run on the server after the end
    choices: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what rl chose for it, and why
    created_at: float = 0.0

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object for the supervisor's stdin, secrets included."""
        return {"version": 1, **dataclasses.asdict(self)}

    def to_dict(self) -> dict[str, Any]:
        """Return it for people and ``--json``: no secret in it."""
        data = dataclasses.asdict(self)
        for name in ("argv", "torchrun"):
            data[name] = data[name] and [mask_urls(word) for word in data[name]]
        data["shell"] = data["shell"] and mask_urls(data["shell"])
        data["command"] = mask_urls(data["command"])
        data["env"] = {**mask_env(self.env), **dict.fromkeys(self.secret_env, MASK)}
        data["notify"] = self.notify and MASK  # a webhook's address is a secret
        data.pop("secret_env")
        if data["gang"]:
            data["gang"].pop("token")
        return data
