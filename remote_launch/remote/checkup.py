"""Facts of this server for ``rl doctor``, all in one answer. Each question is guarded and asked beside the
others: one that fails or hangs hides nothing else."""

from __future__ import annotations

import getpass
import os
import platform
import socket
import tempfile
import threading
import time

from . import (
    facts,
    gpus,
    logind,
    machine,
    network,
    oom,
    owned,
    preflight,
    procs,
    states,
    tools,
    torchfiles,
    userlimits,
)
from .jobdir import JOB_ID, CorruptError, JobDir, jobs_folder, workdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

PATIENCE_S = 12.0  # disks, and whole machines, stand still for seconds now and then
# nvidia-smi on a machine that has slept takes some seconds; when it hangs, the survey itself says so.
CARDS_PATIENCE_S = tools.TIMEOUT_S + 1
DEEP_PATIENCE_S = 90.0  # torch from a cold network filesystem
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def checkup(request: dict[str, Any]) -> dict[str, Any]:
    """Given a recipe's {"prefix", "python", "parts"} (see ``owned.describe``), "address", "deep" and "env"
    (for a deep one), return the facts by name; what could not be found out is None, and what took too long is
    named in "late"."""
    began = time.time()
    root = workdir(request)
    questions: dict[str, Callable[[], Any]] = {
        "system": system, "workdir": lambda: folder(root), "disk": lambda: disk(root),
        "temporary": lambda: disk(tempfile.gettempdir()), "shm": lambda: disk("/dev/shm"),
        "memory": memory, "limits": userlimits.limits, "logind": logind.facts, "name": own_name,
        "proxies": proxies, "rsync": facts.rsync_version, "gpus": gpus.survey,
        "driver": torchfiles.nvidia_driver, "jobs": lambda: jobs(request),
        "environment": lambda: owned.describe(request, root),
        "torch": lambda: torchfiles.build(request.get("python")), "plane": lambda: plane(request),
    }
    patience_s = PATIENCE_S
    if request.get("deep"):
        patience_s = DEEP_PATIENCE_S
        questions["import"] = lambda: torchfiles.imported(request, root, DEEP_PATIENCE_S - 5)
    answers = ask_all(questions, patience_s, {"gpus": CARDS_PATIENCE_S})
    late = sorted(name for name in questions if name not in answers)
    return {**{name: answers.get(name) for name in questions}, "late": late, "began": began,
            "time": time.time()}


def ask_all(
    questions: dict[str, Callable[[], Any]], patience_s: float, longer: dict[str, float] | None = None
) -> dict[str, Any]:
    """Ask all at once; return the answers that came in time, some of which may take ``longer``. One that
    raised is None."""
    answers: dict[str, Any] = {}

    def ask(name: str, question: Callable[[], Any]) -> None:
        try:
            answer = question()
        except Exception:  # noqa: BLE001 - a fact that can't be had is None, whatever the machine throws
            answer = None
        answers[name] = answer

    threads = {
        name: threading.Thread(target=ask, args=(name, question), daemon=True)
        for name, question in questions.items()
    }
    began = time.monotonic()
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        own_s = max(patience_s, (longer or {}).get(name, 0.0))
        thread.join(max(0.0, began + own_s - time.monotonic()))
    return dict(answers)


def system() -> dict[str, Any]:
    """Return what the machine and its system are."""
    return {
        "os": facts.os_name(), "kernel": platform.release(), "arch": platform.machine(),
        "cpus": machine.cpus(), "load": os.getloadavg()[0], "user": getpass.getuser(),
        "infiniband": _names("/sys/class/infiniband"), "python_version": platform.python_version(),
    }


def folder(root: str) -> dict[str, Any]:
    """Return what the workdir is."""
    there = facts.existing(root)
    return {
        "path": root, "exists": os.path.isdir(root), "writable": os.access(there, os.W_OK | os.X_OK),
        "readonly": bool(os.statvfs(there).f_flag & os.ST_RDONLY),
    }


def disk(path: str) -> dict[str, Any] | None:
    """Return the space where a path is or would be; None where there is nothing."""
    there = facts.existing(path) if path != "/dev/shm" else path
    try:
        found = os.statvfs(there)
    except OSError:
        return None
    return {
        "path": path, "total_bytes": found.f_blocks * found.f_frsize,
        "free_bytes": found.f_bavail * found.f_frsize, "inodes": found.f_files, "inodes_free": found.f_favail,
    }


def memory() -> dict[str, Any]:
    """Return the memory; the cgroup's limit is counted in, and told by itself."""
    return {**machine.memory(), "limit_bytes": oom.limit_bytes(machine.cgroup_folders())}


def own_name() -> dict[str, Any]:
    """Return the machine's name, what that resolves to here, and how long it takes."""
    name = socket.gethostname()
    began = time.monotonic()
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except (OSError, UnicodeError):
        found = []
    return {"hostname": name, "addresses": found, "took_s": time.monotonic() - began}


def plane(request: dict[str, Any]) -> dict[str, Any]:
    """Return what the choice of an address for the other servers rests on, as ``preflight`` tells it."""
    reached = preflight.own_address()
    address = request.get("address") or reached
    return {
        "address": address, "interface": machine.interface_of(address), "workdir": workdir(request),
        "network": {"reached": reached, **network.network()},
    }


def proxies() -> list[str]:
    """Return the names of the proxy variables that a login has; their values may hold passwords."""
    return [name for word in _PROXIES for name in (word, word.upper()) if os.environ.get(name)]


def jobs(request: dict[str, Any]) -> dict[str, Any]:
    """Return how many jobs of this project run, and which have ended but still have processes."""
    parent = jobs_folder(request)
    running, left_over = 0, []
    for job_id, count in sorted(procs.marked().items()):
        job = JobDir(os.path.join(parent, job_id))
        if not JOB_ID.match(job_id) or not os.path.isdir(job.path):
            continue  # another project's
        try:
            state = states.state_of(job)["state"]
        except (CorruptError, OSError):
            continue
        if state in states.TERMINAL:
            left_over.append({"job_id": job_id, "state": state, "processes": count})
        else:
            running += 1
    return {"running": running, "left_over": left_over}


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []
