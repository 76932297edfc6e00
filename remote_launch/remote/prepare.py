"""Make this server's environment by a recipe (``core/environments/steps.py``): what is done already is seen
by the marks, what is not is done under a lock, and told line by line.

``op: check`` is one answer, and all that an unchanged server needs. ``op: run`` prints frames, a JSON object
a line: {"step"}, {"out"}, {"wait"}, {"done", "seconds"}, {"same"}, {"alive"}, and at the end one of {"end"},
{"failed"}, {"need"}, {"error"}. When nobody reads them any more (rl was killed, its connection is gone) the
step is stopped, and the next prepare begins it anew."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time

from . import environment, prefixes, procs, programs
from .facts import existing
from .home import visited_by
from .jobdir import (
    Refusal,
    expand,
    read_or_empty,
    safe_relative,
    text,
    workdir,
    write_atomic,
    write_bytes_atomic,
)
from .lease import Lease
from .manifest import Manifest
from .retries import broke_off
from .script import run_told
from .workspace import check as check_workspace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

GRACE_S = 3.0
KILL_PATIENCE_S = 10.0  # after that, what is left sits in the kernel
ATTEMPTS = 3
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Stopped(BaseException):
    """A signal asks to stop, or nobody listens any more."""


class _StepError(Exception):
    """A step that did not come through; ``frame`` is the last frame."""

    def __init__(self, frame: dict[str, Any]) -> None:
        super().__init__()
        self.frame = frame


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"claim", "manifest": {"digest", "stats"}, "recipe", "run", "server"}, say what there is and what
    is still to be done: see the last lines for the answer."""
    root = workdir(request)
    recipe = request.get("recipe") or {}
    answer: dict[str, Any] = {"workspace": check_workspace(request.get("claim") or {}, root)}
    if answer["workspace"]["status"] == "refused":
        return answer
    wanted = request.get("manifest") or {}
    manifest = Manifest(root, request.get("jobs_folder") or ".jobs")
    files_same = manifest.digest() == wanted.get("digest") and manifest.stats() == wanted.get("stats")
    answer.update(
        files_same=files_same,
        parts=[_is_done(part, recipe) for part in recipe.get("parts") or []],
        programs={name: programs.find(name, root) for name in recipe.get("programs") or []},
        machine=environment.machine(),
        versions=environment.versions(recipe.get("python")),
        home=answer["workspace"].get("home"),
        shared_with=visited_by(root, request.get("run"), request.get("server")),
    )
    return answer


def run(request: dict[str, Any]) -> int:
    """Carry the recipe out; print frames; return the exit code of the program."""
    for number in _SIGNALS:
        signal.signal(number, _stop)
    procs.become_subreaper()
    runner = _Runner(request)
    try:
        last = runner.run()
    except _StepError as failed:
        last = failed.frame
    except Refusal as refusal:
        last = refusal.to_wire()
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        last = Refusal("ServerError", f"{error.strerror or error}{where}").to_wire()
    except _Stopped:
        return 1
    try:
        _tell(last)
    except _Stopped:
        return 1
    return 0


def _stop(_number: int, _frame: Any) -> None:
    for number in _SIGNALS:  # a second one must not break off the clearing up
        signal.signal(number, signal.SIG_IGN)
    raise _Stopped


def _tell(frame: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(frame) + "\n")
        sys.stdout.flush()
    except OSError:  # nobody reads any more
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - so that the interpreter's own flush is quiet
        raise _Stopped from None


class _Runner:
    def __init__(self, request: dict[str, Any]) -> None:
        self.request, self.root = request, workdir(request)
        self.recipe = request.get("recipe") or {}
        self.force = bool(request.get("force"))
        self.who = text(request, "who") or "somebody"
        self.server = text(request, "server")
        self.files = request.get("files") or {}
        self.lock = expand(text(self.recipe, "lock") or os.path.join(self.root, ".rl", "prepare.rl-lock"))
        self.env = {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "PIP_NO_INPUT": "1"}
        self.leases: list[Lease] = []

    def run(self) -> dict[str, Any]:
        os.makedirs(os.path.join(self.root, ".rl"), exist_ok=True)
        with self._leased(self.lock):
            self._write_files()
            redone, parts = self.force, self.recipe.get("parts") or []
            for part in parts:
                if part.get("empties"):
                    prefixes.settle(expand(part["empties"]))
            for part in parts:
                redone = self._part(part, redone) or redone
        return {"end": {"versions": environment.versions(self.recipe.get("python"))}}

    @contextlib.contextmanager
    def _leased(self, lock: str) -> Iterator[None]:
        """For the length of a ``with``: hold a lock. What a killed holder left running ends before, what
        steps have left ends after."""
        lease, former = Lease(lock, self.who), self.env.get("RL_JOB_ID")
        lease.acquire(lambda holder: _tell({"wait": holder}))
        with lease:
            self.leases.append(lease)
            self.env["RL_JOB_ID"] = _mark_of(lock)
            try:
                self._end_processes()
                yield
            finally:
                self._end_processes()
                self.leases.pop()
                if former is not None:
                    self.env["RL_JOB_ID"] = former

    def _check_leases(self) -> None:
        """Before what can't be taken back. Raises Refusal where a lock has become another's: machines that
        share a home take one over that was not renewed for long."""
        lost = next((lease.path for lease in self.leases if not lease.held), None)
        if lost is not None:
            raise Refusal(
                "WorkspaceError", f"another prepare took over while this one stood still ({lost})",
                "rl prepare again: it waits for the other one",
            )

    def _part(self, part: dict[str, Any], redo: bool) -> bool:
        """Do one part; False when nothing was to do."""
        if _is_done(part, self.recipe) and (not redo or part.get("only_check")):
            for step in part["steps"]:
                _tell({"same": step["name"]})
            return False
        if part.get("only_check"):
            python = self.recipe.get("python")
            raise Refusal("MissingProgramError", f"there is no environment yet ({python})", "rl prepare")
        mark = expand(part["mark"])
        self._check_leases()
        if part.get("empties"):
            prefix = expand(part["empties"])
            prefixes.refuse_in_use(prefix, self.request)
            with prefixes.anew(prefix, self.root, self._may_return, lambda text: _tell({"out": f"{text}\n"})):
                self._steps(part, mark)
        else:
            self._steps(part, mark)
        return True

    def _may_return(self) -> bool:
        """Whether the old environment may come back in the place of one that could not be made."""
        self._end_processes()
        return all(lease.held for lease in self.leases)

    def _steps(self, part: dict[str, Any], mark: str) -> None:
        """Do the steps of a part, and mark it as done."""
        if os.path.lexists(mark):
            os.unlink(mark)
        for step in part["steps"]:
            self._step(step)
        self._check_leases()
        os.makedirs(os.path.dirname(mark), exist_ok=True)
        write_atomic(
            mark,
            {
                "fingerprint": part["fingerprint"],
                "platform": environment.platform_name(),
                "python": environment.versions(self.recipe.get("python")).get("python"),
                "interpreter": environment.real_interpreter(self.recipe.get("python")),
                "server": self.server,
                "made_at": time.time(),
            },
        )

    def _write_files(self) -> None:
        for name, content in self.files.items():
            if not safe_relative(name):
                raise Refusal("RequestError", f"{name!r} is not a path inside .rl")
            path = os.path.join(self.root, ".rl", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_bytes_atomic(path, content.encode("utf-8", "surrogateescape"), durable=False)

    def _shared_step(self, step: dict[str, Any]) -> None:
        """A step that the prepare of another project may be at, or may have left half done."""
        with self._leased(expand(step["lock"])):
            self._step(step, shared=True)

    def _step(self, step: dict[str, Any], *, shared: bool = False) -> None:
        name = step["name"]
        if step.get("provides") and programs.find(step["provides"], self.root, step.get("env")):
            _tell({"same": name})
            return
        if step.get("lock") and not shared:
            self._shared_step(step)
            return
        self._check_leases()
        _tell({"step": name})
        begun = time.monotonic()
        if step.get("download"):
            self._download(step)
        code = 0
        for attempt in range(1, ATTEMPTS + 1):
            code, tail = self._script(step)
            if not code or not broke_off(tail, step.get("retry_on") or []):
                break
            if attempt < ATTEMPTS:
                _tell({"out": f"the connection broke off: attempt {attempt + 1} of {ATTEMPTS}\n"})
        if code:
            failed, ended = procs.exit_of(code)
            left = shutil.disk_usage(existing(self.root)).free
            raise _StepError({"failed": name, "exit_code": failed, "signal": ended, "left": left})
        _tell({"done": name, "seconds": round(time.monotonic() - begun, 3)})

    def _download(self, step: dict[str, Any]) -> None:
        from . import downloads
        from .download import DownloadError

        try:
            got = downloads.get(step["download"], step.get("env") or {}, _tell)
            self.env["RL_DOWNLOAD"] = got["path"]
        except DownloadError as error:
            if error.kind == "offline":
                need = {name: downloads.filled(step["download"][name]) for name in ("url", "to")}
                raise _StepError({"need": need, "step": step["name"], "why": str(error)}) from error
            raise _StepError({"failed": step["name"], "message": str(error), "exit_code": None}) from error

    def _script(self, step: dict[str, Any]) -> tuple[int, str]:
        """Run a step's script, if it has one; return its wait status and its last output."""
        if not step.get("script"):
            return 0, ""
        args = [expand(word) if word.startswith("~/") else word for word in step.get("args") or []]
        argv = ["/bin/sh", "-c", step["script"], "rl", *args]
        return run_told(argv, self.root, self._env_of(step), _tell)

    def _env_of(self, step: dict[str, Any]) -> dict[str, str]:
        env = {**self.env, **(step.get("env") or {})}
        for name in [*(step.get("needs") or []), *(step.get("wants") or [])]:
            path = programs.find(name, self.root, env)
            if path is None and name in (step.get("needs") or []):
                raise Refusal("MissingProgramError", f"{step['name']}: there is no {name} on the server")
            env[name.upper()] = path or ""
        env.update(programs.caches(env, self.recipe.get("prefix"), self.root))
        return env

    def _end_processes(self) -> None:
        """End what steps have left running: ours, since we are their subreaper every descendant, and those of
        a prepare that was killed."""
        for number, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, KILL_PATIENCE_S)):
            deadline = time.monotonic() + seconds
            while True:
                left = procs.members(self.env["RL_JOB_ID"], os.getpid())
                if not left:
                    return
                procs.signal_all(left, number)
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)


def _mark_of(lock: str) -> str:
    """Steps carry a mark as jobs do: what a killed prepare left running is found by the next one."""
    return f"prepare-{hashlib.sha256(lock.encode()).hexdigest()[:16]}"


def _is_done(part: dict[str, Any], recipe: dict[str, Any]) -> bool:
    """True when the part's mark has its fingerprint, and is of this kind of machine and of the python that is
    there."""
    mark = read_or_empty(expand(part["mark"]))
    return mark.get("fingerprint") == part.get("fingerprint") and environment.is_of(
        mark, recipe.get("python")
    )
