"""The attempts of a job: whether there is another one, when, and with what changed.

Another attempt is made after failures only: never after a person's kill, after a success, or while a process
of the last attempt can't be ended.
"""

from __future__ import annotations

import os
import socket
import time

from . import machine
from .causes import OUTSIDE
from .jobdir import SPEC_LIMIT_BYTES, number, read_object, text, write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from .jobdir import JobDir
    from .turn import Turn

    class Host(Protocol):
        """What a job alone needs of its supervisor."""

        attempt: int
        turn: Turn | None

        def rest(self, cause: dict[str, Any] | None, pause: dict[str, Any]) -> None: ...
        def begin(self, place: dict[str, Any]) -> None: ...


LONGEST_DELAY_S = 30.0
INTERFACES = "/sys/class/net"
_OPTIONS = {
    "address": "--master-addr", "port": "--master-port", "node_rank": "--node-rank",
    "nproc": "--nproc-per-node",
}
_VARIABLES = {"address": "MASTER_ADDR", "port": "MASTER_PORT", "node_rank": "NODE_RANK"}


class Restarts:
    """``max_restarts`` and ``restart_window_s`` of a spec, and the restarts so far. With a window only those
    within it count."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.limit = max(0, int(number(spec, "max_restarts", 0) or 0))
        self._window_s = number(spec, "restart_window_s")
        self._times: list[float] = []

    def _recent(self) -> int:
        if self._window_s is None:
            return len(self._times)
        since = time.monotonic() - self._window_s
        return sum(1 for at in self._times if at > since)

    def delay_s(self) -> float | None:
        """Return how long to wait before the next attempt: 1 s, 2, 4 … 30; None when there is to be none."""
        recent = self._recent()
        return None if recent >= self.limit else min(LONGEST_DELAY_S, 2.0 ** min(recent, 10))

    def ages_s(self) -> list[float]:
        """Return how long ago each of the restarts was that count."""
        now = time.monotonic()
        return [round(now - at, 3) for at in self._times[len(self._times) - self._recent():]]

    def adopt(self, ages_s: list[float]) -> None:
        """Take another's count for ours."""
        now = time.monotonic()
        self._times = [now - age for age in ages_s]

    def is_spent(self, ages_s: list[float]) -> bool:
        """Whether there is to be no other one after these."""
        return sum(1 for age in ages_s if self._window_s is None or age < self._window_s) >= self.limit

    def count(self) -> None:
        """Note that a restart was decided."""
        self._times.append(time.monotonic())

    def words(self, attempt: int) -> str:
        """Given the number of the attempt that comes, as RL_ATTEMPT has it, return "restart 1 of 3". The
        first attempt is 0, so a restart has the number of its attempt."""
        if self._window_s is None:
            return f"restart {attempt} of {self.limit}"
        counted = f"{self._recent()} of at most {self.limit} restarts within {self._window_s:g} s"
        return f"attempt {attempt}, {counted}"


class Alone:
    """The attempts of a job that has no other nodes. As Coordinator and Member are for a launch."""

    def __init__(self, host: Host, restarts: Restarts, *, fresh_port: bool) -> None:
        self._fresh_port = fresh_port
        self.verdict: dict[str, Any] | None = None
        self._host = host
        self._restarts = restarts
        self._failure: dict[str, Any] | None = None
        self._resume_at: float | None = None
        self._last_word: dict[str, Any] | None = None  # the verdict, once there is to be no other attempt

    @property
    def may_go_on(self) -> bool:
        """True while another attempt may come, so that a kill has something to end even between two."""
        return self.verdict is None and (
            self._resume_at is not None or self._restarts.delay_s() is not None
        )

    def child_ended(self, failure: dict[str, Any] | None, asked: bool) -> None:
        self._failure = None if asked else failure

    def tree_gone(self, left_over: int) -> None:
        delay_s = self._restarts.delay_s()
        if self._failure is None or left_over or self._last_word is not None or delay_s is None:
            self.verdict = self._last_word or {}
            return
        self._restarts.count()
        self._resume_at = time.monotonic() + delay_s
        words = self._restarts.words(self._host.attempt + 1)
        self._host.rest(self._failure, {"words": words, "delay_s": delay_s})

    def kill(self, _: dict[str, Any]) -> None:
        self._end_with({})

    def leave(self) -> None:
        """The supervisor was told to stop, though not by rl."""
        self._end_with({"note": OUTSIDE})

    def _end_with(self, verdict: dict[str, Any]) -> None:
        self._last_word = verdict
        if self._resume_at is not None or self._host.attempt < 0:
            self.verdict = verdict

    def tick(self, now: float) -> None:
        if self._host.attempt < 0 and self._host.turn is not None and self._host.turn.has_slots:
            self._resume_at = now
        if self.verdict is None and self._resume_at is not None and now >= self._resume_at:
            self._resume_at = None
            self._failure = None
            port = free_port("") if self._fresh_port else None
            self._host.begin({"attempt": self._host.attempt + 1, "port": port})

    def wait_s(self, now: float) -> float | None:
        return None if self._resume_at is None else max(0.0, self._resume_at - now)

    def close(self) -> None:
        pass


def placed(spec: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
    """Given a spec and what another attempt changes of it {"attempt", "address", "port", "node_rank",
    "first_rank", "nproc"; what is absent or null stays}, return the spec of that attempt."""
    names = ("attempt", "port", *_PLACE)
    changes: dict[str, Any] = {name: int(place[name]) for name in names if is_count(place.get(name))}
    address = text(place, "address")
    if address:
        changes["address"] = address
    spec = {**spec, **{name: changes[name] for name in ("attempt", *_PLACE) if name in changes}}
    if spec.get("torchrun"):
        options = {_OPTIONS[name]: str(value) for name, value in changes.items() if name in _OPTIONS}
        spec["torchrun"] = _replaced(list(spec["torchrun"]), options)
    env = dict(spec.get("env") or {})
    env.update({
        variable: str(changes[name])
        for name, variable in _VARIABLES.items() if name in changes and variable in env
    })
    return {**spec, "env": env}


_PLACE = ("node_rank", "first_rank", "nproc")


def note_place(job: JobDir, spec: dict[str, Any]) -> None:
    """Have spec.json say which node a spare has become: readers of its logs need the ranks. Raises OSError,
    CorruptError."""
    public = read_object(job.spec, SPEC_LIMIT_BYTES) or {}
    if any(public.get(name) != spec.get(name) for name in _PLACE):
        write_atomic(job.spec, {**public, **{name: spec.get(name) for name in _PLACE}})


def is_count(value: Any) -> bool:
    """True for a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def with_interface(spec: dict[str, Any]) -> dict[str, Any]:
    """Given the spec of another attempt, return it with the interface towards node 0 in place of one that is
    there no more: a network that went and came back may have given it another name."""
    env = spec.get("env") or {}
    old, gang = env.get("GLOO_SOCKET_IFNAME"), spec.get("gang")
    if not old or not isinstance(gang, dict) or os.path.lexists(os.path.join(INTERFACES, old)):
        return spec
    new = _interface_towards(str(gang.get("address")))
    if new is None:
        return spec
    places = {"GLOO_SOCKET_IFNAME": (old, new), "NCCL_SOCKET_IFNAME": (f"={old}", f"={new}")}
    changed = {name: then for name, (now, then) in places.items() if env.get(name) == now}
    return {**spec, "env": {**env, **changed}}


def _interface_towards(address: str) -> str | None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 9))  # nothing is sent
            return machine.interface_of(str(sock.getsockname()[0]))
    except OSError:
        return None


def _replaced(args: list[str], options: dict[str, str]) -> list[str]:
    """Given torchrun's arguments, return them with the values of some of its options changed. They come in
    pairs, before the script, whose own options are left alone."""
    at = 0
    while at + 1 < len(args) and args[at].startswith("--") and args[at] != "--module":
        if args[at] in options:
            args[at + 1] = options[args[at]]
        at += 2
    return args


def free_port(address: str) -> int | None:
    """Return a TCP port that is free on an address of ours (all of them, where it is none); None when none
    is."""
    for host in (address, ""):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.bind((host, 0))
                return int(sock.getsockname()[1])
        except OSError:
            continue
    return None
