"""Ports for servers that start later: nobody else is given them meanwhile.

A port that the system chose is free when it is asked for; until it is used, the system may give it to any
other program, and the tests run in several processes. So these come from below the system's own range, each
process of the tests has a part of them, and none is given twice in a row."""

from __future__ import annotations

import itertools
import os
import random
import socket
from pathlib import Path

_FIRST, _WORKERS, _EACH = 10_000, 16, 600  # rl itself chooses from 20,000 on
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _offered() -> range:
    """Return the ports of this process: of its number among pytest's workers. Processes that are none of
    these run side by side, too."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    number = (int(worker) if worker.isdecimal() else os.getpid()) % _WORKERS
    return range(_FIRST + number * _EACH, _FIRST + (number + 1) * _EACH)


def _is_ours_alone() -> bool:
    """Whether the system gives out none of them by itself."""
    try:
        return int(_RANGE.read_text().split()[0]) >= _FIRST + _WORKERS * _EACH
    except (OSError, ValueError):
        return False


# From anywhere on: another test run may be under way on this machine.
_turns = itertools.count(random.randrange(_EACH))


def free_port(address: str = "127.0.0.1") -> int:
    """Return a TCP port of ``address`` that nobody uses, there or on any other address. Raises OSError where
    there is no such address."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
    if not _is_ours_alone():
        return port
    offered = _offered()
    for _ in offered:
        port = offered[next(_turns) % _EACH]
        with socket.socket() as probe:
            try:
                probe.bind(("", port))  # tests tell who listens where by the port alone
            except OSError:
                continue
        return port
    raise AssertionError(f"none of the ports {offered} is free")
