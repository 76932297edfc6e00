"""Whose job a folder is. Servers may share a home, so a jobs folder holds jobs of other machines too.

What a job has written down (``exit.json``) is true wherever it is read. Whether it still runs can be seen on
its own machine alone: pids mean nothing elsewhere, and a flock may not be seen there. So a job belongs to the
machine that it was started on, and elsewhere it is neither judged nor touched.

Which machine: the boot id tells boots of kernels apart, the pid namespace the containers of one kernel. Where
these differ it may still be the same machine after a reboot, or a container started again: then the hostname
says so, with the machine-id or the inventory's name for the server. None of the three will do alone: machines
of one image may share a machine-id, any can be called localhost, and two users may name servers differently.
So a machine that is renamed keeps its running jobs; one that is renamed and rebooted looks like another.
"""

from __future__ import annotations

import contextlib
import functools
import os

from . import procs
from .jobdir import SPEC_LIMIT_BYTES, CorruptError, JobDir, read_object, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@functools.lru_cache(maxsize=1)
def this_machine() -> dict[str, str]:
    """Return what tells this machine, its boot and its pid namespace from others; "" for what is unknown."""
    machine = {"hostname": os.uname().nodename, "boot_id": "", "pid_namespace": "", "machine_id": ""}
    with contextlib.suppress(OSError):
        machine["boot_id"] = procs.boot_id()
    with contextlib.suppress(OSError):
        machine["pid_namespace"] = os.readlink("/proc/self/ns/pid")
    with contextlib.suppress(OSError, UnicodeError), open("/etc/machine-id") as file:
        machine["machine_id"] = file.read(64).strip()
    return machine


def shares_processes(record: dict[str, Any]) -> bool:
    """Given started.json, say whether its pids are pids of this machine and of this boot."""
    here = this_machine()
    if record.get("boot_id") != here["boot_id"]:
        return False
    return bool(record.get("pid_namespace", here["pid_namespace"]) == here["pid_namespace"])


def is_here(record: dict[str, Any], server: str | None) -> bool:
    """Given what a job's start wrote down, say whether it was on this machine, which the inventory calls
    ``server`` (None: nobody said). What isn't known speaks neither for nor against."""
    here = this_machine()

    def same(name: str) -> bool:
        known = text(record, name)
        return not known or not here[name] or known == here[name]

    if shares_processes(record):
        return True
    if not same("hostname"):
        return False
    if same("machine_id") and not same("boot_id"):
        return True  # it was rebooted
    return not server or (text(record, "server") or server) == server


def elsewhere(job: JobDir, started: dict[str, Any], server: str | None) -> dict[str, str | None] | None:
    """Given a job and its started.json ({}: it has none, then its spec tells), return {"server", "hostname"}
    of a job of another machine; None for one of this. Never raises."""
    record = started or _claim(job)
    if is_here(record, server):
        return None
    return {"server": text(record, "server"), "hostname": text(record, "hostname")}


def whose(other: dict[str, str | None]) -> str:
    """Given what ``elsewhere`` returned, say it to people."""
    machine = f"machine {other['hostname']}" if other["hostname"] else "another machine"
    server = other["server"] or "unknown"
    return f"it was started on {machine} (server {server}), this is {this_machine()['hostname']}"


def _claim(job: JobDir) -> dict[str, Any]:
    """Return what a start that got no further than the spec wrote down of its machine."""
    with contextlib.suppress(CorruptError, OSError):
        spec = read_object(job.spec, SPEC_LIMIT_BYTES) or {}
        machine = spec.get("machine")
        return {**(machine if isinstance(machine, dict) else {}), "server": spec.get("server")}
    return {}
