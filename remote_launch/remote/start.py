"""Start one job from its spec, detached, exactly once whatever the connection does.

The claim is a flock on ``<job>/lock``, held by the supervisor for its life, and then the file started.json,
which is written before any of the user's code runs. A second start finds one of them and says ALREADY. A
start that fails leaves nothing: the folder goes away.

Machines that share a home may not see each other's flocks (a server's name can stand for several login
nodes, and a start that is asked for again may come to another one). Between them spec.json is the claim: it
names the machine that the start is under way on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time

from . import child, owner
from .guardian import guard
from .jobdir import (
    JobDir,
    Refusal,
    is_current,
    job_dir,
    jobs_folder,
    read_or_empty,
    workdir,
    write_atomic,
)
from .supervisor import Supervisor
from .verdict import tail_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .slots import Slots

RIVAL_PATIENCE_S = 10.0


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"spec": …, "jobs_folder": …}, return {"state": STARTED or ALREADY, "supervisor_pid",
    "child_pid", "started_at", "attempt"} once the child has really become the user's program, or, with
    "queued" (see ``turn``), the job waits for slots. Raises Refusal."""
    spec = child.check_spec(request.get("spec"))
    request = {"workdir": spec.get("workdir"), **request}
    root = workdir(request)
    job = job_dir(jobs_folder(request), spec.get("job_id"))
    if not os.path.isdir(root):
        raise Refusal("WorkspaceError", f"the workdir {root} does not exist", "rl rsync")
    lock = _claim(job, spec.get("server"))
    if lock is None:
        return _already(job)
    try:
        _clear_remains(job)
        slots = _open_slots(spec, job, root)
        _write_spec(job, spec)
        return _detach(spec, job, root, lock, slots)
    except Refusal:
        _remove(job)
        raise
    except OSError as error:
        _remove(job)
        raise Refusal(
            "StartError", f"the job can't be started: {error.strerror}: {error.filename or job.path}"
        ) from error
    finally:
        os.close(lock)


def _claim(job: JobDir, server: str | None) -> int | None:
    """Return the locked lock's fd, or None when the job is started (or ended) already. Raises Refusal when
    the folder can't be made, or another start is at it."""
    deadline = time.monotonic() + RIVAL_PATIENCE_S
    while True:
        try:
            os.makedirs(os.path.dirname(job.path), 0o755, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(job.path, 0o700)
            lock = os.open(job.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # a start that failed has just removed the folder
        except OSError as error:
            raise Refusal(
                "StartError", f"the job's folder can't be made: {error.strerror}: {job.path}"
            ) from error
        rival: str | None = "another start of this job is under way and does not get on"
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            other = owner.elsewhere(job, {}, server)
            rival = f"a start of this job does not get on: {owner.whose(other)}" if other else None
        if rival is None and is_current(lock, job.lock) and not _is_recorded(job):
            return lock
        os.close(lock)
        if _is_recorded(job):
            return None
        if rival is not None:
            if time.monotonic() > deadline:
                raise Refusal("StartUnderWayError", rival, "rl job-list --rsync shows what came of it")
            time.sleep(0.01)


def _is_recorded(job: JobDir) -> bool:
    return os.path.lexists(job.started) or os.path.lexists(job.exit)


def _already(job: JobDir) -> dict[str, Any]:
    started = read_or_empty(job.started)
    names = ("supervisor_pid", "child_pid", "started_at", "attempt", "queued", "reason")
    return {"state": "ALREADY", **{name: started.get(name) for name in names}}


def _clear_remains(job: JobDir) -> None:
    """A supervisor that died between its claim and its record may have left log files; its child never ran
    (see ``child.Child``)."""
    for name in (job.out, job.err, job.log, job.kill, job.failures):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _open_slots(spec: dict[str, Any], job: JobDir, root: str) -> Slots | None:
    if spec.get("queue") is None:
        return None
    from .turn import open_slots  # most jobs do without

    return open_slots(spec, child.environment(spec, root, job, dict(os.environ)))


def _write_spec(job: JobDir, spec: dict[str, Any]) -> None:
    public = {name: value for name, value in spec.items() if name not in ("secret_env", "notify")}
    public["secret_names"] = sorted(spec.get("secret_env") or {})
    public["machine"] = owner.this_machine()
    if isinstance(public.get("gang"), dict):
        public["gang"] = {name: value for name, value in public["gang"].items() if name != "token"}
    write_atomic(job.spec, public, durable=False)


def _remove(job: JobDir) -> None:
    import shutil  # a start that goes well saves its 3 ms

    shutil.rmtree(job.path, ignore_errors=True)


def _detach(
    spec: dict[str, Any], job: JobDir, root: str, lock: int, slots: Slots | None
) -> dict[str, Any]:
    """Fork the supervisor off and return what it reports. Raises Refusal with its reason when it could not
    start the child."""
    report_read, report_write = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                os.close(report_read)
                _supervise(spec, job, root, (lock, report_write), slots)
        finally:
            os._exit(1)
    os.close(report_write)
    os.waitpid(between, 0)
    with os.fdopen(report_read, "rb") as pipe:
        answer = pipe.read()
    try:
        report = json.loads(answer)
    except ValueError:
        if os.path.lexists(job.started):  # its child may have run: the guardian writes down what came of it
            return {**_already(job), "state": "STARTED"}
        said = tail_of(job.log).splitlines()[-1:]  # the folder goes, and the log with it
        message = ": ".join(["the supervisor ended before it could start the job", *said])
        raise Refusal("StartError", message) from None
    if "error" in report:
        error = report["error"]
        raise Refusal(error["type"], error["message"], error["hint"])
    return {"state": "STARTED", **report}


def _supervise(
    spec: dict[str, Any], job: JobDir, root: str, keep: tuple[int, int], slots: Slots | None = None
) -> None:
    """In the supervisor: let go of everything of the connection, then supervise to the end. Never returns."""
    code = 1
    try:
        login = dict(os.environ)
        umask = os.umask(0o077)
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, fd in enumerate((null, log, log)):
            os.dup2(fd, target)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in (*keep, *(slots.fds if slots else ())):
                with contextlib.suppress(OSError):  # the listing's own is closed already
                    os.close(int(name))
        guard(spec, job, keep[1])
        supervisor = Supervisor(spec, job, root, login, umask, slots)
        try:
            report = supervisor.start()
        except Refusal as refusal:
            report = refusal.to_wire()
        except OSError as error:
            report = Refusal("StartError", f"the job can't be started: {error.strerror}").to_wire()
        if "error" in report:
            with contextlib.suppress(OSError):  # else the guardian would write an end into a folder that goes
                os.unlink(job.started)
        with contextlib.suppress(OSError):  # the starter may be gone: its end is not the job's
            os.write(keep[1], json.dumps(report).encode())
        os.close(keep[1])
        if "error" not in report:
            supervisor.run()
        code = 0
    except BaseException:  # noqa: BLE001 - nobody above; supervisor.log keeps it
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)
