"""How a job ended, in fields and in plain words: what exit.json says."""

from __future__ import annotations

import contextlib
import os
import re
import time

from . import oom, procs, room
from .causes import OUTSIDE
from .jobdir import CorruptError, JobDir, number, read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .tree import JobTree

TAIL_LINES = 20
TAIL_LIMIT_BYTES = 16384
_FAILURES_KEPT = 1024
_FULL_DISK_PATIENCE_S = 600.0
_NOT_FOUND = re.compile(r"(?:^|[:\s])([^\s:]+): (?:command )?not found\s*$")


def exit_record(
    tree: JobTree, spec: dict[str, Any], job: JobDir, *, started_at: float | None,
    killed: dict[str, Any] | None, launch: dict[str, Any] | None,
) -> dict[str, Any]:
    """Given a tree that is gone, return exit.json. ``killed`` is the person's kill that stopped it,
    ``launch`` the gang's verdict.

    A node that succeeded before the launch failed stays SUCCEEDED; the launch's ``cause`` stands in every
    node's record.
    """
    failures = read_failures(job)
    stood_by = not tree.child_pid and tree.refusal is None
    own = own_failure(tree, spec, job)
    if tree.stalled is not None:
        own, launch = tree.stalled, {"state": "FAILED", "cause": tree.stalled}
    # A job alone is its own cause.
    cause = own if launch is None and not tree.asked else (launch or {}).get("cause")
    record = {
        "exit_code": tree.exit_code, "signal": tree.signal,
        "ended_at": (None if stood_by else tree.ended_at) or time.time(),
        "started_at": started_at, "duration_s": tree.duration_s,
        "attempt": spec.get("attempt") or 0, "left_over": tree.left_over, "failures": failures,
        "cause": cause,
    }
    if own is not None and not tree.asked:
        record.update(exit_code=own["exit_code"], signal=own["signal"])
    if (launch or {}).get("replaced"):
        record["replaced"] = (launch or {}).get("replaced")  # {a server: the spare that took its place}
    state, reason = _judged(tree, spec, own, cause, killed, launch)
    if tree.left_over:
        reason = f"{reason or 'ended'}; {tree.left_over} processes could not be ended"
    return {"state": state, **record, "reason": reason}


def _judged(
    tree: JobTree, spec: dict[str, Any], own: dict[str, Any] | None, cause: dict[str, Any] | None,
    killed: dict[str, Any] | None, launch: dict[str, Any] | None,
) -> tuple[str, str | None]:
    """Return the state and the reason."""
    if tree.exit_code == 0 and not tree.asked:
        return "SUCCEEDED", None
    is_unused = not tree.child_pid and tree.refusal is None
    if is_unused and (launch or {}).get("state") == "SUCCEEDED":
        return "SUCCEEDED", "a spare that was not needed"
    if killed or (launch or {}).get("state") == "KILLED":
        by = (killed or launch or {}).get("by")
        return "KILLED", f"killed by {by}" if by else "killed"
    if own is not None and not tree.asked:
        reason = str(own["message"])
        if cause and cause.get("node_rank") != spec.get("node_rank"):
            reason += f"; the launch's cause: {cause_in_words(cause)}"
    elif launch is not None and cause is not None:
        reason = str(cause.get("message")) if cause.get("stalled") else f"stopped: {cause_in_words(cause)}"
    else:
        reason = OUTSIDE
    note = (launch or {}).get("note")
    return "FAILED", f"{reason}; {note}" if note else reason


def own_failure(tree: JobTree, spec: dict[str, Any], job: JobDir) -> dict[str, Any] | None:
    """Return this node's first failure: {node_rank, server, rank, exit_code, signal, time, message, tail};
    None for exit code 0.

    For torchrun it is the first failing rank's, from failures.json: torchrun's own exit code is always 1.
    """
    if tree.child_alive or tree.exit_code == 0 or (not tree.child_pid and tree.refusal is None):
        return None
    if tree.refusal is not None:
        return {
            "node_rank": spec.get("node_rank"), "server": spec.get("server"), "rank": None, "exit_code": None,
            "signal": None, "time": tree.ended_at, "tail": "", "message": tree.refusal, "refused": True,
        }
    failures = read_failures(job) if spec.get("torchrun") else []
    failure: dict[str, Any] = {"node_rank": spec.get("node_rank"), "server": spec.get("server"), "rank": None}
    if failures:
        first = failures[0]
        failure.update({name: first.get(name) for name in ("rank", "exit_code", "signal")})
        failure["time"] = number(first, "time", tree.ended_at)
        failure["tail"] = rank_tail(job, first)
        words = ended_in_words(failure["exit_code"], failure["signal"])
        failure["message"] = f"rank {first.get('rank')} {words}"
        failure = oom.explain(failure, tree.oom, first.get("pid"))
    else:
        failure.update(exit_code=tree.exit_code, signal=tree.signal, time=tree.ended_at)
        failure["tail"] = tail_of(job.err) or tail_of(job.out)
        words = ended_in_words(tree.exit_code, tree.signal, failure["tail"])
        failure["message"] = f"torchrun {words}" if spec.get("torchrun") and words[:7] != "command" else words
        failure = oom.explain(failure, tree.oom, tree.child_pid)
    return failure


def ended_in_words(exit_code: Any, signal: Any, tail: str = "") -> str:
    """Given how a process ended, return it in words: "exited with 37", "was killed by signal SEGV"."""
    if signal is not None:
        return f"was killed by signal {signal}"
    if exit_code == 127:
        for line in reversed(tail.splitlines()[-5:]):
            found = _NOT_FOUND.search(line)
            if found:
                return f"command not found: {found.group(1)} (exit 127)"
    if isinstance(exit_code, int) and 128 < exit_code < 193:
        return f"exited with {exit_code} (signal {procs.signal_name(exit_code - 128)})"
    return f"exited with {exit_code}"


def cause_in_words(cause: dict[str, Any]) -> str:
    """Given a launch's cause, return "rank 3 on gpu2 exited with 37"."""
    if cause.get("lost"):
        return str(cause.get("message"))
    if cause.get("stalled"):
        return f"{cause.get('server')}: {cause.get('message')}"
    if cause.get("from_outside") or cause.get("refused"):
        return f"{cause.get('server')}: {cause.get('message')}"
    who = f"rank {cause['rank']}" if cause.get("rank") is not None else "the command"
    if cause.get("killed_by"):
        return f"{who} on {cause.get('server')} was killed by {cause['killed_by']}"
    return f"{who} on {cause.get('server')} {ended_in_words(cause.get('exit_code'), cause.get('signal'))}"


def read_failures(job: JobDir) -> list[dict[str, Any]]:
    """Return what the torchrun verb wrote down, first failure first; [] when there is nothing, or nothing
    readable."""
    try:
        data = read_json(job.failures)
    except CorruptError:
        return []
    return [
        entry for entry in data if isinstance(entry, dict)
    ][:_FAILURES_KEPT] if isinstance(data, list) else []


def rank_tail(job: JobDir, failure: dict[str, Any]) -> str:
    """Return the last lines that a failing rank wrote to stderr (to stdout, when stderr is empty)."""
    local_rank = failure.get("local_rank")
    for name in ("stderr.log", "stdout.log"):
        newest: tuple[float, str] = (-1.0, "")
        for folder, _, files in os.walk(job.ranks):
            if name in files and os.path.basename(folder) == str(local_rank):
                path = os.path.join(folder, name)
                newest = max(newest, (_modified(path), path))
        tail = tail_of(newest[1]) if newest[1] else ""
        if tail:
            return tail
    return tail_of(job.err)


def write_end(path: str, end: dict[str, Any], log: Callable[[str], None]) -> None:
    """Write exit.json; on a full disk into the room that was set aside, without the long texts where they
    don't fit; else once there is room, if that comes to be."""
    deadline = time.monotonic() + _FULL_DISK_PATIENCE_S
    while True:
        try:
            room.write(path, end)
            return
        except OSError as error:
            with contextlib.suppress(OSError):
                room.write(path, in_short(end))
                return
            log(f"exit.json can't be written: {error}")
            if time.monotonic() > deadline or not os.path.isdir(os.path.dirname(path)):
                return  # without its folder nobody would find it
            time.sleep(1.0)


def in_short(end: dict[str, Any]) -> dict[str, Any]:
    """Given exit.json, return what must be known of it."""
    cause = end.get("cause")
    if isinstance(cause, dict):
        cause = {**cause, "tail": "", "message": str(cause.get("message"))[:500]}
    reason = end.get("reason")
    return {**end, "failures": [], "attempts": [], "cause": cause, "reason": reason and str(reason)[:1000]}


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return -1.0


def tail_of(path: str) -> str:
    """Return the last lines of a log; "" when it is empty or can't be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_LIMIT_BYTES))
            content = file.read(TAIL_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join([line for line in content.splitlines() if line.strip()][-TAIL_LINES:])


