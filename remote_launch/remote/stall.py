"""A job that has stopped getting on: no output for ``stall_timeout_s``. Before it is stopped, what every rank
is doing is written down (see ``stacks``).

Signs of life are changes of any file in the job's folder but rl's own notes, and of ``$RL_HEARTBEAT_FILE``,
which a script may touch when it has nothing to say; and that the job began or ended on a node: once the rank
that printed is done, the others have as long as ever to end. In many trainings rank 0 alone prints, so one
quiet node means nothing: a launch has stalled when no node has a sign of life. Members tell the coordinator
in their beats for how long they have been quiet, and it judges. Time in which the watcher itself did not run
(a paused machine) does not count.
"""

from __future__ import annotations

import os
import time

from .jobdir import JobDir, number
from .stacks import DEADLINE_S, Dump
from .verdict import tail_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from .coordinator import Coordinator
    from .member import Member
    from .tree import JobTree

    class Host(Protocol):
        """What a stall needs of its supervisor."""

        spec: dict[str, Any]
        job: JobDir
        attempt: int
        grace_s: float
        tree: JobTree
        gang: Coordinator | Member | None

        def stop(self, first: int, grace_s: float) -> None: ...
        def server_name(self, node_rank: int) -> str: ...
        def log(self, message: str) -> None: ...


FRESH_S = 5.0  # a beat that is older tells nothing
ENTRIES_LIMIT = 20_000
_NOTES = ("lock", "supervisor.log", "notify.log", "stacks", "logs.index", "logs.dropped")


def prepare(env: dict[str, str], spec: dict[str, Any], job: JobDir) -> None:
    """Given the job's environment, add what a watched job needs: where to leave a heartbeat, and a Python
    that keeps no lines back (it holds 8 KiB of them when its output is a file)."""
    if spec.get("stall_timeout_s"):
        env.setdefault("RL_HEARTBEAT_FILE", os.path.join(job.path, "heartbeat"))
        env.setdefault("PYTHONUNBUFFERED", "1")


class Life:
    """Signs of life of one job on this node. ``quiet_s``: how long there was none."""

    def __init__(self, job: JobDir, heartbeat: str, timeout_s: float) -> None:
        self.quiet_s = 0.0
        self.every_s = min(5.0, max(0.1, timeout_s / 10))
        self._job = job
        self._heartbeat = heartbeat
        self._seen = self._look()
        self._looked_at = time.monotonic()

    def renew(self) -> None:
        """There was a sign that no file shows."""
        self.quiet_s = 0.0

    def tick(self, now: float) -> None:
        passed_s = now - self._looked_at
        if passed_s < self.every_s:
            return
        self._looked_at = now
        seen = self._look()
        # More than a few intervals at once: the machine slept, and the job with it.
        self.quiet_s = self.quiet_s + min(passed_s, 3 * self.every_s) if seen == self._seen else 0.0
        self._seen = seen

    def wait_s(self, now: float) -> float:
        return max(0.0, self._looked_at + self.every_s - now)

    def _look(self) -> list[tuple[str, int, int]]:
        found = [_sign(self._heartbeat)] if self._heartbeat else []
        folders = [self._job.path]
        while folders and len(found) < ENTRIES_LIMIT:
            try:
                entries = list(os.scandir(folders.pop()))
            except OSError:
                continue
            for entry in entries:
                if entry.name in _NOTES or entry.name.endswith((".json", ".tmp")):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    found.append(_sign(entry.path))
        return sorted(found)


def _sign(path: str) -> tuple[str, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return path, -1, 0
    return path, status.st_size, status.st_mtime_ns


class StallWatch:
    """One attempt of a job, watched. Without a ``stall_timeout_s`` it does nothing."""

    def __init__(self, host: Host, env: dict[str, str], cwd: str) -> None:
        spec = host.spec
        self.timeout_s = number(spec, "stall_timeout_s", 0.0) or 0.0
        self._host = host
        self._search_path = env.get("PATH", "")
        self._life: Life | None = None
        if self.timeout_s > 0:
            heartbeat = env.get("RL_HEARTBEAT_FILE")
            self._life = Life(host.job, os.path.join(cwd, heartbeat) if heartbeat else "", self.timeout_s)
        nodes = range(int(number(spec.get("gang") or {}, "nnodes", 1) or 1))
        self._others = [node for node in nodes if node != (spec.get("node_rank") or 0)]
        self._judges = host.gang is None or host.gang.is_coordinator
        self._ran = False  # the job on this node, when we last looked
        self._told: dict[int, tuple[float, float, bool, bool]] = {}  # node: heard at, quiet for, runs, dumped
        self._dump: Dump | None = None
        self._dump_until: float | None = None  # the whole launch's
        self._over = False

    # -- what the gang carries

    def beat(self) -> dict[str, Any]:
        """Return what a member's beat says."""
        if self._life is None:
            return {}
        dumped = self._dump is not None and self._dump.done
        return {"quiet_s": self._life.quiet_s, "runs": self._host.tree.child_alive, "dumped": dumped}

    def heard(self, node: int, message: dict[str, Any]) -> None:
        """Node 0 has received a beat."""
        quiet_s = number(message, "quiet_s")
        if quiet_s is not None:
            runs, dumped = message.get("runs") is not False, bool(message.get("dumped"))
            self._told[node] = (time.monotonic(), quiet_s, runs, dumped)

    def dump(self) -> None:
        """Write down what this node's processes are doing."""
        if self._dump is None and self._life is not None and self._host.tree.child_alive:
            self._host.log("no output: writing the stacks down")
            self._dump = Dump(self._host.job, self._host.attempt, self._search_path)

    # -- the judgement

    @property
    def _rests(self) -> bool:
        """True while there is nothing to watch: a job alone that is queued, or between two attempts, too."""
        tree = self._host.tree
        return self._over or tree.asked or (tree.gone and self._host.gang is None)

    def tick(self, now: float) -> None:
        if self._life is None or self._rests:
            return
        self._life.tick(now)
        if self._ran != self._host.tree.child_alive:
            self._ran = not self._ran
            self._life.renew()
        if not self._judges:
            if self._life.quiet_s == 0.0 and self._dump is not None and self._dump.done:
                self._dump = None  # it got on again: another stall gets other stacks
            return
        stalled = self._has_stalled(self._life.quiet_s, now)
        if self._dump_until is None and stalled:
            self._dump_until = now + DEADLINE_S + 2.0
            if self._host.gang is not None:
                self._host.gang.ask_for_stacks()
            self.dump()
        elif self._dump_until is not None and not stalled:
            self._host.log("there is output again: not stopped")
            self._dump_until = self._dump = None
        elif self._dump_until is not None and (self._all_dumped() or now > self._dump_until):
            self._stop()

    def wait_s(self, now: float) -> float | None:
        if self._life is None or self._rests:
            return None
        return 0.1 if self._dump_until is not None else self._life.wait_s(now)

    def _has_stalled(self, quiet_s: float, now: float) -> bool:
        """True when some node still runs and none has had a sign of life for too long."""
        quiet, runs = [quiet_s], self._ran
        for node in self._others:
            heard_at, told_s, told_runs, _ = self._told.get(node, (0.0, 0.0, True, False))
            quiet.append(told_s if now - heard_at < FRESH_S else 0.0)
            runs = runs or told_runs
        return runs and min(quiet) >= self.timeout_s

    def _all_dumped(self) -> bool:
        own = self._dump is None or self._dump.done
        return own and all(dumped or not runs for _, _, runs, dumped in self._told.values())

    def _stop(self) -> None:
        self._over = True
        host = self._host
        folder = os.path.join(host.job.path, "stacks")
        where = " on any node" if host.gang is not None else ""
        others = ", and of the other nodes in theirs" if host.gang is not None else ""
        message = f"no output{where} for {self.timeout_s:g} s: stopped; stacks in {folder}{others}"
        node = host.spec.get("node_rank")
        failure = {
            "node_rank": node, "server": host.spec.get("server"), "rank": None, "exit_code": None,
            "signal": None, "stalled": True, "message": message, "tail": last_words(host.job),
            "time": time.time(),
        }
        if host.gang is not None:
            host.gang.stalled(failure)
        else:
            host.stop(15, host.grace_s)
            if host.tree.asked:  # else it has just ended
                host.log(message)
                host.tree.stalled = failure


def last_words(job: JobDir) -> str:
    """Return the last lines of the log that was written last."""
    newest = (0.0, "")
    for folder, _, names in os.walk(job.path):
        for name in names:
            path = os.path.join(folder, name)
            if name in ("job.out", "job.err") or (name.endswith(".log") and folder != job.path):
                newest = max(newest, (_modified(path), path))
    return tail_of(newest[1]) if newest[1] else ""


def _modified(path: str) -> float:
    try:
        status = os.lstat(path)
    except OSError:
        return -1.0
    return status.st_mtime if status.st_size else -1.0
