"""The supervisors of one launch watch each other: one coordinates, the others are members. The laptop has no
part in it. Node 0 coordinates, and when it is lost a successor that the others choose (see ``succession``).

The first failure on any node, a node that is silent, gone or never came, and a person's kill of any node stop
all nodes. The coordinator decides what the cause was only when every node is stopped or lost: the first
report is often the wrong node's (torchrun on a healthy node exits a moment before the dead node is missed).

Messages (each carries "attempt", a member's "sent_at" too, by a clock of its own; see ``link`` for how they
are signed, "coord" is the coordinator):

kind      from     fields                              says
--------  -------  ----------------------------------  -------------------------------------------------------
beat      both     quiet_s, runs, dumped               I am there; once a second. A member also for how long
                                                       its ranks have been quiet (see ``stall``)
ended     member   failure (or null), age_s, asked,    my child ended; how long ago the failure was, on my
                   alone                               clock; had it been told to stop; for coord was lost
stopped   member   left_over                           nothing of the job is left on my node
kill      member   by, signal, grace_s                 a person killed my job: kill the launch
stacks    coord                                        the launch has stalled: write the stacks down
left      member                                       I was told to stop while nothing ran here: I leave
door      member   port                                where the other members can call me
lead      coord    reign, member, doors                I coordinate, and there all members can be called; the
                                                       first message on each connection, but in reign 0
stop      coord    killed, by, signal, grace_s, cause  stop your tree; cause as far as it is known
pause     coord    cause, words, delay_s               this attempt is over, another one will come: in how
                                                       long, and which ("restart 1 of 3")
plan      coord    plan                                the attempt that comes (see ``reign``): take note
agree     member   order, port                         I have; a port that is free here, should I be node 0
slots     both     see ``gangturn``                    of a launch that queues, before its first attempt
go        coord    attempt, port, address, cause,      begin this attempt, as this node; rank 0 listens there;
                   replaced, node_rank, first_rank,    who is out, and who took its place
                   nproc
end       coord    state, by, cause, note, replaced    the verdict on the launch; the last message

A member tells its state again after each reconnection, and the coordinator its own, so no message is lost
with a connection.

With ``max_restarts`` a failure is followed by another attempt of the whole launch, once every node is stopped
and verified gone. A node that was lost may come back for it: it stops by itself when it misses the
coordinator, and goes on calling. Or a spare, whose supervisor has joined but runs nothing, takes its place;
then the lost node finds, should it come back, that its part is over.
"""

from __future__ import annotations

import contextlib
import selectors

from .jobdir import Refusal, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from .coordinator import Coordinator
    from .link import Link
    from .restarts import Restarts
    from .stall import StallWatch
    from .turn import Turn

    class Host(Protocol):
        """What a gang needs of its supervisor."""

        selector: selectors.DefaultSelector
        attempt: int
        grace_s: float

        restarts: Restarts

        def stop(self, first: int, grace_s: float) -> None: ...
        def rest(self, cause: dict[str, Any] | None, pause: dict[str, Any]) -> None: ...
        def say(self, reason: str) -> None: ...
        def begin(self, place: dict[str, Any]) -> None: ...
        def stand_by(self, attempt: int) -> None: ...
        def coordinate(self, gang: Coordinator) -> None: ...
        def leave_queue(self, reason: str | None) -> None: ...
        def server_name(self, node_rank: int) -> str: ...
        def log(self, message: str) -> None: ...

        stalls: StallWatch
        turn: Turn | None


BEAT_S = 1.0
EOF_PATIENCE_S = 3.0  # for a broken connection to be mended
GANG_GRACE_S = 5.0  # torchrun, in its exit barrier, ignores TERM for 300 s


class GangSettings:
    """``spec.gang``, checked. Raises Refusal."""

    def __init__(self, spec: dict[str, Any]) -> None:
        data = spec["gang"]
        node = spec.get("node_rank")
        self.nnodes = data.get("nnodes")
        self.address = data.get("address")
        self.port = data.get("port")
        self.token = data.get("token")
        self.launch = spec.get("launch_id") or ""
        self.silence_s = number(data, "silence_s", 10.0) or 10.0
        self.join_timeout_s = number(data, "join_timeout_s", 60.0) or 60.0
        spares = data.get("spares") or 0
        self.fresh_port = spec.get("fresh_port") is True
        self.nprocs = data.get("nprocs") or []  # of the members, spares last
        self.addresses = data.get("addresses") or []  # of the members, on the data plane
        if not isinstance(self.nnodes, int) or not isinstance(spares, int) or spares < 0:
            raise Refusal("RequestError", "gang: nnodes and spares are numbers")
        self.members = self.nnodes + spares
        if not isinstance(node, int) or not 0 <= node < self.members:
            raise Refusal("RequestError", "gang: node_rank and nnodes don't fit")
        if not isinstance(self.nprocs, list) or not all(type(count) is int for count in self.nprocs):
            raise Refusal("RequestError", "gang: nprocs is not a list of numbers")
        if not isinstance(self.addresses, list) or not all(isinstance(one, str) for one in self.addresses):
            raise Refusal("RequestError", "gang: addresses is not a list of names")
        if not isinstance(self.port, int) or not 0 < self.port < 65536 or not isinstance(self.address, str):
            raise Refusal("RequestError", "gang: no address and port")
        if not isinstance(self.token, str) or len(self.token) < 16:
            raise Refusal("RequestError", "gang: no token")
        self.node: int = node

    @property
    def is_spare(self) -> bool:
        return bool(self.node >= self.nnodes)

    def address_of(self, member: int) -> str:
        """Return where a member is reached on the data plane; "" for unknown."""
        if member == 0:
            return str(self.address)
        return str(self.addresses[member]) if member < len(self.addresses) else ""

    def nproc(self, member: int) -> int:
        """Return how many ranks a member has; 0 for unknown, the same for all."""
        return self.nprocs[member] if member < len(self.nprocs) else 0

    def place(self, node: int) -> dict[str, int]:
        """Given a node of the launch, return what a spare that takes its place must be."""
        if len(self.nprocs) < self.nnodes:
            return {"node_rank": node}
        return {"node_rank": node, "first_rank": sum(self.nprocs[:node]), "nproc": self.nprocs[node]}


class Watched:
    """A link in the host's selector: reads when there is something, writes when something waits."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector

    def watch(self, link: Link, callback: Any) -> None:
        self._selector.register(link.sock, selectors.EVENT_READ, callback)

    def update(self, link: Link) -> None:
        """Call after each send: asks for write events only while something waits."""
        try:
            key = self._selector.get_key(link.sock)
        except (KeyError, ValueError):
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.wants_to_write else 0)
        if events != key.events:
            self._selector.modify(link.sock, events, key.data)

    def drop(self, link: Link) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(link.sock)
        link.close()
