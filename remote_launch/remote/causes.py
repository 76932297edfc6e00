"""What the failures in a launch mean: which of them is its cause, and which are no failures of their own."""

from __future__ import annotations

import time

from .jobdir import number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CLOCK_SLACK_S = 1.5  # torch's own timestamps are whole seconds
OUTSIDE = "its supervisor was told to stop (SIGTERM), not by rl"
_SECONDARY_SIGNALS = ("TERM", "ABRT")  # ABRT: gloo and NCCL's watchdog abort when a peer is gone


def choose_cause(failures: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Given all failures of a launch, return its cause: a lost node, else a worker ended by a signal that is
    not a mere consequence, else the earliest.

    A node is missed seconds after it is gone, and what it took down with it fails before that; but a node
    that was heard from well after a failure is not the cause of that failure.
    """
    others = [number(failure, "time", 0.0) or 0.0 for failure in failures if not failure.get("lost")]
    first_other = min(others) if others else float("inf")

    def weight(failure: dict[str, Any]) -> tuple[int, float]:
        at = number(failure, "time", 0.0) or 0.0
        if failure.get("lost"):
            kind = 0 if at <= first_other + CLOCK_SLACK_S else 3
        elif failure.get("signal") and failure["signal"] not in _SECONDARY_SIGNALS:
            kind = 1
        else:
            kind = 2
        return kind, at

    return min(failures, key=weight) if failures else None


def counts(failure: dict[str, Any] | None, asked: bool) -> bool:
    """True when an ended child is a failure of its own, not the mere result of having been stopped."""
    if failure is None:
        return False
    return not asked or (failure.get("rank") is not None and failure.get("signal") not in ("TERM", "KILL"))


def lost(node: int, server: str, message: str, heard_s_ago: float) -> dict[str, Any]:
    """Return the failure record of a node that was lost; its time is when it was last heard."""
    return {
        "node_rank": node, "server": server, "rank": None, "exit_code": None, "signal": None, "tail": "",
        "lost": True,
        "message": f"node {node} ({server}) was lost: {message}", "time": time.time() - heard_s_ago,
    }


def stopped_from_outside(node: int, server: str, age_s: float) -> dict[str, Any]:
    """Return the failure record of a node whose supervisor was told to stop, but not by rl: the machine shuts
    down."""
    return {
        "node_rank": node, "server": server, "rank": None, "exit_code": None, "signal": "TERM", "tail": "",
        "from_outside": True, "message": OUTSIDE, "time": time.time() - age_s,
    }


def stop_message(
    cause: dict[str, Any] | None, killed: dict[str, Any] | None, grace_s: float
) -> dict[str, Any]:
    """Return what nodes are told that are to stop, because of a failure or a person's kill."""
    told = killed or {}
    return {
        "killed": killed is not None, "by": text(told, "by"), "signal": text(told, "signal") or "TERM",
        "grace_s": grace_s, "cause": cause,
    }
