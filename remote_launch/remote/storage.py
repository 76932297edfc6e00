"""What rl keeps on this server, and its removal: the environment, the code that syncs have sent, the folders
of ended jobs, caches. Nothing else is ever removed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import sys
import time

from . import deletion, home, owned, removal, states
from .deletion import Amount
from .jobdir import JobDir, Refusal, expand, jobs_folder, safe_relative, text, workdir
from .lease import Lease
from .manifest import Manifest
from .workspace import check as check_workspace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KINDS = ("environment", "code", "jobs", "cache")
# A job's folder says how it ended until the last moment.
_JOB_LAST = ("exit.json", "spec.json", "started.json", "lock")
_CACHES = ("cache", "wheelhouse", "downloads")  # in <workdir>/.rl
_FRESH_S = 3600.0  # a download for all projects of this user: another one may be at it
_LOCK = ".rl-lock"
_OWN = ("workspace.json", "home.json", "bin")


def storage(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"op": "describe", …}, return what ``owned.describe`` does.

    Given {"op": "look" | "remove", "kinds", "project_id", "project", "server", "archive", "who"} and the
    recipe's {"prefix", "python", "lock", "marks"}, return the amounts by kind, what runs, and what is left
    alone and why. Raises Refusal."""
    root = workdir(request)
    if request.get("op") == "describe":
        return owned.describe(request, root)
    kinds = request.get("kinds")
    if not isinstance(kinds, list) or any(kind not in KINDS for kind in kinds):
        raise Refusal("RequestError", f"kinds are of {', '.join(KINDS)}")
    asked = {"project_id": request.get("project_id"), "project": request.get("project")}
    judged = check_workspace(asked, root)
    if judged["status"] == "refused":
        raise Refusal("WorkspaceError", f"{root} is left alone: {judged['reason']}")
    here = _Storage(root, request)
    if request.get("op") == "look":
        return here.look(kinds)
    if request.get("op") != "remove":
        raise Refusal("RequestError", f"storage has no operation {request.get('op')!r}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the lease is given back
    return here.remove(kinds)


class _Storage:
    def __init__(self, root: str, request: dict[str, Any]) -> None:
        self.root = root
        self.request = request
        self.archive = os.path.basename(text(request, "archive") or "")
        self.lock = expand(text(request, "lock") or f"{root}/.rl/prepare{_LOCK}")
        self.jobs_folder = jobs_folder(request)
        self.manifest = Manifest(root, request.get("jobs_folder") or ".jobs")
        self.prefix = owned.Prefix(root, text(request, "prefix"), request.get("marks"))
        self.former = owned.former(root, self.prefix)
        self.jobs = states.all_jobs(request)
        self.running = [job for job in self.jobs if states.may_run(job)]

    def look(self, kinds: list[str]) -> dict[str, Any]:
        """Say what there is."""
        amounts: dict[str, Any] = {}
        for kind in kinds:
            amount = Amount()
            getattr(self, f"_measure_{kind}")(amount)
            amounts[kind] = amount.to_wire()
        ended = len(self._ended())
        return {
            "amounts": amounts, "kept": self._kept(kinds), "ended_jobs": ended, "running": self._running(),
            "environment": "there" if self.former else self.prefix.state(), "home": home.known_id(self.root),
        }

    def remove(self, kinds: list[str]) -> dict[str, Any]:
        """Remove what may be removed; say how much it was, and what is left alone and why."""
        kept = self._kept(kinds)
        amounts = {kind: Amount() for kind in kinds if kind not in {item["kind"] for item in kept}}
        with contextlib.ExitStack() as stack:
            if os.path.isdir(os.path.join(self.root, ".rl")) and {"environment", "cache"} & amounts.keys():
                who = text(self.request, "who") or "somebody"
                lease = Lease(self.lock, who)
                self._acquire(lease, amounts)
                stack.enter_context(lease)
            self._remove(amounts, kept)
            everything = not kept and set(kinds) == set(KINDS) and self._remove_own()
        if everything:
            self._remove_folders()
        told = {kind: amount.to_wire() for kind, amount in amounts.items()}
        return {"amounts": told, "kept": kept, "running": self._running()}

    def _acquire(self, lease: Lease, amounts: dict[str, Amount]) -> None:
        """On a full disk there may be no room for the lock, but neither has anybody else one then, or can
        get one: of what is to go so much goes first."""
        for kind in ("cache", "environment", None):
            try:
                lease.acquire(_refuse)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or kind is None:
                    raise
            if kind in amounts:
                with contextlib.suppress(OSError):
                    getattr(self, f"_remove_{kind}")(amounts[kind])

    def _running(self) -> list[dict[str, str]]:
        return [{"job_id": job["job_id"], "state": job["state"]} for job in self.running]

    def _remove(self, amounts: dict[str, Amount], kept: list[dict[str, str]]) -> None:
        for kind, amount in amounts.items():
            try:
                why = getattr(self, f"_remove_{kind}")(amount)
            except OSError as error:
                where = f": {error.filename}" if error.filename else ""
                why = f"{error.strerror or error}{where}"
            if why:
                kept.append({"kind": kind, "why": why})

    def _kept(self, kinds: list[str]) -> list[dict[str, str]]:
        """Say what of the kinds is not to be removed, and why."""
        why: dict[str, str] = {}
        if self.running:
            count = len(self.running)
            runs = "1 job still runs" if count == 1 else f"{count} jobs still run"
            why = dict.fromkeys(("environment", "code"), runs)
        if self.prefix.foreign:
            why["environment"] = self.prefix.foreign
        return [{"kind": kind, "why": why[kind]} for kind in kinds if kind in why]

    # -- the environment

    def _measure_environment(self, amount: Amount) -> None:
        for prefix in (self.prefix, *self.former):
            prefix.measure(amount)

    def _remove_environment(self, amount: Amount) -> None:
        self.prefix.remove(amount)
        for prefix in self.former:
            lease = Lease(f"{prefix.path}{_LOCK}", text(self.request, "who") or "somebody")
            lease.acquire(_refuse)
            with lease:
                prefix.remove(amount)

    # -- the code

    def _measure_code(self, amount: Amount) -> None:
        for name in self.manifest.names():
            try:
                amount.add(os.lstat(os.path.join(self.root, name)))
            except OSError:
                continue

    def _remove_code(self, amount: Amount) -> None:
        self._measure_code(amount)
        amount.files = self.manifest.remove_all()

    # -- jobs

    def _ended(self) -> list[str]:
        """Return the ids of this machine's jobs that have ended, with all their processes."""
        return [
            job["job_id"] for job in self.jobs
            if job["state"] in states.TERMINAL and not states.may_run(job) and not job.get("elsewhere")
        ]

    def _open_jobs(self) -> int | None:
        name = os.path.relpath(self.jobs_folder, self.root)
        return deletion.open_folder(self.root, name) if safe_relative(name) else None

    def _measure_jobs(self, amount: Amount) -> None:
        folder = self._open_jobs()
        if folder is not None:
            for job_id in self._ended():
                deletion.measure(folder, job_id, amount)
            os.close(folder)

    def _remove_jobs(self, amount: Amount) -> str | None:
        """Remove the folders of ended jobs; say why some stay, None when none do."""
        folder = self._open_jobs()
        if folder is None:
            return None
        deadline, stay = time.monotonic() + removal.PATIENCE_S, 0
        for job_id in self._ended():
            with removal.unsupervised(JobDir(os.path.join(self.jobs_folder, job_id)), deadline) as is_free:
                if is_free:
                    deletion.remove_folder(folder, job_id, amount, _JOB_LAST)
                else:
                    stay += 1
        removal.sweep(folder)
        os.close(folder)
        jobs = "1 ended job" if stay == 1 else f"{stay} ended jobs"
        return f"of {jobs} the supervisor is still there" if stay else None

    # -- caches

    def _cached(self) -> list[tuple[str, str, str]]:
        """Return (root, folder below it, name) of what can be had again. The programs of running jobs are
        none of it."""
        found = [(self.root, ".rl", name) for name in _CACHES]
        folder = deletion.open_folder(self.root, ".rl/bin")
        if folder is not None:
            current = (self.archive, os.path.splitext(self.archive)[0])
            names = [] if self.running or not self.archive else os.listdir(folder)
            found += [(self.root, ".rl/bin", name) for name in names if name not in current]
            os.close(folder)
        found.append((os.path.expanduser("~"), ".rl", "downloads"))
        # One that the user has led to another disk stays with its link.
        return [place for place in found if not os.path.islink(os.path.join(*place))]

    def _measure_cache(self, amount: Amount) -> None:
        for root, below, name in self._cached():
            folder = deletion.open_folder(root, below)
            if folder is not None:
                deletion.measure(folder, name, amount)
                os.close(folder)

    def _remove_cache(self, amount: Amount) -> None:
        fresh = time.time() - _FRESH_S
        for root, below, name in self._cached():
            folder = deletion.open_folder(root, below)
            if folder is not None:
                keep = None if root == self.root else (lambda found: found.st_mtime > fresh)
                deletion.remove(folder, name, amount, keep)
                os.close(folder)

    def _remove_own(self) -> bool:
        """Remove what rl has made for itself; False when something else is left: another lock, jobs,
        what the user has put there. Under our lock, which stays."""
        folder = deletion.open_folder(self.root, ".rl")
        if folder is None:
            return False
        try:
            names = [name for name in os.listdir(folder) if os.path.join(self.root, ".rl", name) != self.lock]
            jobs = os.path.isdir(self.jobs_folder) and os.listdir(self.jobs_folder)
            if jobs or not all(self._is_own(folder, name) for name in names):
                return False
            for name in names:
                deletion.remove(folder, name, Amount())
        finally:
            os.close(folder)
        return True

    @staticmethod
    def _is_own(folder: int, name: str) -> bool:
        return name in _OWN or (stat.S_ISREG(_mode(folder, name)) and not name.endswith(_LOCK))

    def _remove_folders(self) -> None:
        """Remove the folders that are empty now; a prepare that has begun since keeps them."""
        for path in (self.jobs_folder, os.path.join(self.root, ".rl"), self.root):
            try:
                os.rmdir(path)
            except OSError:
                continue


def _mode(folder: int, name: str) -> int:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode


def _refuse(holder: dict[str, Any]) -> None:
    who, host = text(holder, "who") or "somebody", text(holder, "host") or "this server"
    raise Refusal("WorkspaceError", f"{who} is preparing it on {host}", "try again when that has ended")
