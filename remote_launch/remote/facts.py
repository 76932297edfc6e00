"""Facts about a server for ``probe``: each asked by itself, so that a broken driver or disk hides nothing
else."""

from __future__ import annotations

import os
import pwd
import sys
import time

from . import gpus, logind, machine, procs
from .jobdir import workdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

RSYNC_TIMEOUT_S = 10.0  # else a busy machine seems to have none


def facts(request: dict[str, Any]) -> dict[str, Any]:
    """Return the facts by name; what could not be found out is None (GPUs: an empty list). With {"facts":
    "brief"} rsync isn't run for its version: that takes as long as all the rest."""
    folder = existing(workdir(request))
    memory, cards = _guarded(machine.memory) or {}, _guarded(gpus.survey) or {}
    disk = _guarded(lambda: os.statvfs(folder))
    system = os.uname()
    told = {} if request.get("facts") == "brief" else {"rsync": _guarded(rsync_version)}
    return {
        **told,
        "hostname": system.nodename, "user": _guarded(_user), "os": _guarded(os_name),
        "arch": system.machine, "kernel": system.release,
        "python": sys.executable, "python_version": sys.version.split()[0].rstrip("+"),
        "cpus": _guarded(machine.cpus), "load": _guarded(lambda: list(os.getloadavg())),
        "memory_total_bytes": memory.get("total_bytes"),
        "memory_available_bytes": memory.get("available_bytes"),
        "disk_free_bytes": disk.f_bavail * disk.f_frsize if disk else None,
        "disk_total_bytes": disk.f_blocks * disk.f_frsize if disk else None,
        "gpus": cards.get("cards") or [], "gpu_problems": cards.get("problems") or [],
        "uv": _guarded(uv_path),
        "boot_id": _guarded(procs.boot_id), "time": time.time(),
        "logind": _guarded(logind.facts) or {},
    }


def _guarded(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Exception:  # noqa: BLE001 - a fact that can't be had is None, whatever the machine throws
        return None


def existing(path: str) -> str:
    """Given a path, return it or its nearest parent that is there."""
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def os_name() -> str:
    """Return "Debian GNU/Linux 12 (bookworm)", or what the kernel calls itself."""
    try:
        with open("/etc/os-release", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("PRETTY_NAME="):
                    return line.split("=", 1)[1].strip().strip("\"'")
    except OSError:
        pass
    return os.uname().sysname


def _user() -> str:
    for name in ("LOGNAME", "USER"):
        if os.environ.get(name):
            return os.environ[name]
    return pwd.getpwuid(os.getuid()).pw_name


def rsync_version() -> str | None:
    """Return "3.2.7"; None when there is no rsync."""
    program = machine.which("rsync")
    words = machine.output([program, "--version"], RSYNC_TIMEOUT_S).split() if program else []
    return words[words.index("version") + 1].lstrip("v") if "version" in words[:-1] else None


def uv_path() -> str | None:
    """Return where uv is: on PATH or where its installers put it; None when it is nowhere."""
    places = [os.path.expanduser(f"~/{folder}/uv") for folder in (".local/bin", ".cargo/bin")]
    return machine.which("uv") or next((place for place in places if os.access(place, os.X_OK)), None)
