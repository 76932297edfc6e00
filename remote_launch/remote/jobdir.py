"""The job folder: its paths, and JSON files that are written whole and read with suspicion.

Users, full disks and crashes write into these folders too: a reader meets half files, links, pipes and
rubbish, and answers with CorruptError, never with a crash.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

JOB_ID = re.compile(r"[0-9a-f]{32}\Z")
TRASH = re.compile(r"\.trash-[0-9a-f]{32}(-[0-9a-f]{8})?\Z")  # the folder of a removed job (removal.py)
STATE_LIMIT_BYTES = 1 << 20
SPEC_LIMIT_BYTES = 16 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Refusal(Exception):  # noqa: N818 - a refusal is an answer to the caller, not an error of ours
    """A request that can't be met. ``kind`` is one of those in the package's docstring, as "RequestError"."""

    def __init__(self, kind: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint

    def to_wire(self) -> dict[str, Any]:
        return {"error": {"type": self.kind, "message": self.message, "hint": self.hint}}


class CorruptError(Exception):
    """A file of the job folder that can't be what we wrote."""


class JobDir:
    """The one owner of the paths inside ``<workdir>/<jobs_folder>/<job_id>/``; each attempt has logs of its
    own."""

    def __init__(self, path: str, attempt: int = 0) -> None:
        self.path = path
        suffix = f".{attempt}" if attempt else ""
        self.job_id = os.path.basename(path)
        self.lock = os.path.join(path, "lock")
        self.spec = os.path.join(path, "spec.json")
        self.started = os.path.join(path, "started.json")
        self.kill = os.path.join(path, "kill.json")
        self.failures = os.path.join(path, "failures.json")
        self.exit = os.path.join(path, "exit.json")
        self.out = os.path.join(path, f"job{suffix}.out")
        self.err = os.path.join(path, f"job{suffix}.err")
        self.ranks = os.path.join(path, f"ranks{suffix}")
        self.log = os.path.join(path, "supervisor.log")


def jobs_folder(request: dict[str, Any]) -> str:
    """Given a request, return the absolute folder of all jobs. Raises Refusal when it leaves the workdir."""
    name = request.get("jobs_folder") or ".jobs"
    if not isinstance(name, str) or not safe_relative(name):
        raise Refusal("RequestError", f"jobs_folder {name!r} is not a path inside the workdir")
    return os.path.join(workdir(request), name)


def workdir(request: dict[str, Any]) -> str:
    """Given a request, return its workdir, absolute. Raises Refusal when none is given."""
    path = request.get("workdir")
    if not isinstance(path, str) or not path:
        raise Refusal("RequestError", "the request names no workdir")
    return expand(path)


def expand(path: str) -> str:
    """Given a path of the user's, return it absolute, "~" being the home folder here; links are not
    resolved."""
    path = os.path.expanduser(path)
    return os.path.normpath(os.path.join(os.path.expanduser("~"), path))


def lock_if_free(job: JobDir, *, create: bool = False) -> int | None:
    """Return the fd of the job's lock, locked; None while a start or a supervisor holds it, or when there is
    none and ``create`` is False."""
    flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        lock = os.open(job.lock, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def is_current(fd: int, path: str) -> bool:
    """False when the file was removed (and perhaps made anew) between its opening and its locking."""
    try:
        here, there = os.fstat(fd), os.stat(path)
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def job_dir(folder: str, job_id: Any) -> JobDir:
    """Given the jobs folder and an id, return the job's folder. Raises Refusal for an id that isn't 32 hex
    digits."""
    if not isinstance(job_id, str) or not JOB_ID.match(job_id):
        raise Refusal("RequestError", f"{job_id!r} is not a job id (32 hex digits)")
    return JobDir(os.path.join(folder, job_id))


def safe_relative(path: str) -> bool:
    """True for a relative path that can't leave its folder: no "..", no leading "/", no NUL, not empty."""
    parts = path.split("/")
    return bool(path) and path[0] != "/" and "\0" not in path and ".." not in parts and parts != ["."]


def is_env_name(name: Any) -> bool:
    """True for a name that an environment variable can have."""
    return isinstance(name, str) and bool(_NAME.match(name))


def write_atomic(path: str, data: Any, durable: bool = True) -> None:
    """Write JSON aside, then rename: a reader sees the old file or the new one. ``durable``: it survives a
    power cut."""
    write_bytes_atomic(path, (json.dumps(data) + "\n").encode(), durable)


def write_bytes_atomic(path: str, content: bytes, durable: bool = True) -> None:
    """Write a file aside (0600), then rename."""
    aside = f"{path}.{os.urandom(8).hex()}.tmp"  # a pid is not unique: machines may share the folder
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    if durable:
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_bytes(path: str, limit: int = STATE_LIMIT_BYTES) -> bytes | None:
    """Return a regular file's content, None when there is none. Raises CorruptError when it is too large or
    no regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CorruptError(f"{os.path.basename(path)}: {error.strerror}") from error
    with os.fdopen(fd, "rb", closefd=True) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise CorruptError(f"{os.path.basename(path)}: not a regular file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise CorruptError(f"{os.path.basename(path)}: larger than {limit} bytes")
    return content


def read_json(path: str, limit: int = STATE_LIMIT_BYTES) -> Any:
    """Return what a JSON file holds, None when it isn't there. Raises CorruptError for anything else than
    JSON."""
    content = read_bytes(path, limit)
    if content is None:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{os.path.basename(path)}: not JSON") from error


def read_object(path: str, limit: int = STATE_LIMIT_BYTES) -> dict[str, Any] | None:
    """As ``read_json``, for files that hold one object."""
    data = read_json(path, limit)
    if data is not None and not isinstance(data, dict):
        raise CorruptError(f"{os.path.basename(path)}: not a JSON object")
    return data


def read_or_empty(path: str, limit: int = STATE_LIMIT_BYTES) -> dict[str, Any]:
    """As ``read_object``, for files that are no loss: {} for none, and for what can't be read as an
    object."""
    try:
        return read_object(path, limit) or {}
    except CorruptError:
        return {}


def number(data: dict[str, Any], name: str, default: float | None = None) -> float | None:
    """Given an object from a file, return a field that must be a finite number; anything else is
    ``default``."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) > 1e15:
        return default
    return value


def text(data: dict[str, Any], name: str) -> str | None:
    """Given an object from a file, return a field that must be text (at most 4000 characters of it), else
    None."""
    value = data.get(name)
    return value[:4000] if isinstance(value, str) else None
