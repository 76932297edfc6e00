"""The processes of one running job, from the child's start until the last of them is verified gone."""

from __future__ import annotations

import os
import signal
import time

from . import procs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .oom import OomWatch

SWEEP_GRACE_S = 2.0  # for what a child leaves behind when it ends by itself
# After KILL: what is left then sits in the kernel (a dead disk, a hung driver). To give back very much
# memory, or a card's, takes seconds too.
KILL_PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.05


class JobTree:
    """The child and all that descends from it. Stopped by TERM to the child alone (torchrun passes it on; its
    workers would take two TERMs badly), then, after the grace, KILL to everything that is left.

    ``tick`` does the waiting: it never blocks. ``exit_code``/``signal`` are the child's own, exactly.
    """

    def __init__(
        self, job_id: str, child_pid: int, log: Callable[[str], None], born_at: float | None = None
    ) -> None:
        self.job_id = job_id
        self.child_pid = child_pid
        self.child_alive = True
        self.refusal: str | None = None  # why there never was a child
        self.exit_code: int | None = None
        self.signal: str | None = None
        self.ended_at: float | None = None
        self.duration_s: float | None = None  # by no clock that can be set
        self.asked = False  # a stop was asked for while the child lived
        self.killed_hard = False  # KILL had to be sent
        self.gone = False
        self.left_over = 0
        self.oom: OomWatch | None = None  # says what a KILL was
        self.stalled: dict[str, Any] | None = None  # the failure for which it was stopped
        self._log = log
        self.born_at = time.monotonic() if born_at is None else born_at
        self._told = 0  # the last signal that a stop sent
        self._deadline: float | None = None  # when KILL goes out
        self._next_look = 0.0
        self._empty_looks = 0

    @classmethod
    def without_child(cls, job_id: str, log: Callable[[str], None], refusal: str | None = None) -> JobTree:
        """Return a tree in which nothing runs: a spare's, or that of an attempt that could not be begun."""
        tree = cls(job_id, 0, log)
        tree.child_alive, tree.gone, tree.refusal = False, True, refusal
        tree.ended_at = time.time()
        return tree

    def stop(self, number: int, grace_s: float) -> None:
        """Have the tree end: ``number`` to the child now, KILL to all after ``grace_s``.

        The latest call's grace counts; the same signal is not sent twice."""
        self.reap()  # a child that has ended, and was not asked to, keeps its own end
        if self.gone:
            return
        now = time.monotonic()
        deadline = now + max(0.0, grace_s) if number != signal.SIGKILL else now
        if self.child_alive:
            self.asked = True
            if number not in (signal.SIGKILL, self._told):
                procs.send(self.child_pid, number)
            self._told = number
            self._deadline = deadline
        elif self._deadline is not None:
            self._deadline = min(self._deadline, deadline)
        self._next_look = now
        self._log(f"stop: signal {procs.signal_name(number)}, grace {grace_s:g} s")

    def orphaned(self, grace_s: float) -> None:
        """Go on where the supervisor died: the child, if it lives, was sent TERM by that."""
        now = time.monotonic()
        self.asked = True
        self._told = signal.SIGTERM
        if self.child_alive:
            self._deadline = now + max(0.0, grace_s)
        else:
            procs.signal_all(procs.members(self.job_id, os.getpid()), signal.SIGTERM)
            self._deadline = now + SWEEP_GRACE_S
        self._next_look = now

    def reap(self) -> bool:
        """Collect ended children, orphans included (we are a subreaper); True when the child itself was among
        them."""
        ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            if pid == self.child_pid and self.child_alive:
                ended = True
                self._child_ended(status)

    def _child_ended(self, status: int) -> None:
        self.child_alive = False
        self.ended_at, now = time.time(), time.monotonic()
        self.duration_s = now - self.born_at
        self.exit_code, self.signal = procs.exit_of(status)
        self._log(f"child {self.child_pid} ended: exit code {self.exit_code}, signal {self.signal}")
        left = procs.members(self.job_id, os.getpid())
        if left:
            self._log(f"{len(left)} processes are left: TERM")
            procs.signal_all(left, signal.SIGTERM)
        # A stop's grace goes on for what the child left; workers that save a checkpoint on TERM need it.
        self._deadline = max(
            self._deadline or 0.0, now + 1.0
        ) if self.asked and not self.killed_hard else now + SWEEP_GRACE_S
        self._next_look = now

    def tick(self, now: float) -> None:
        """Go on with the stop or the sweep, if one is under way."""
        if self.gone or self._deadline is None or now < self._next_look:
            return
        if self.child_alive and now < self._deadline:
            self._next_look = self._deadline
            return
        left = procs.members(self.job_id, os.getpid())
        self._next_look = now + _LOOK_EVERY_S
        if not left and not self.child_alive:
            self._empty_looks += 1  # twice: a fork can slip through one look
            self._next_look = now
            self.gone = self._empty_looks >= 2
            return
        self._empty_looks = 0
        if now < self._deadline:
            return
        if not self.killed_hard:
            self._log(f"KILL to {len(left)} processes")
            self.killed_hard = True
        procs.signal_all(left, signal.SIGKILL)
        if now > self._deadline + KILL_PATIENCE_S:
            self.left_over = len(left)
            self.gone = True
            self._log(f"{len(left)} processes can't be ended: {sorted(left)}")

    def wait_s(self, now: float) -> float | None:
        """Seconds until ``tick`` has something to do; None when only an event can change anything."""
        if self.gone or self._deadline is None:
            return None
        return max(0.0, self._next_look - now)
