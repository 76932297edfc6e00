"""The slots of one machine: files of one folder, a file a slot, flocked by who has it.

A lock ends with the last process that has the file open: the supervisor, its guardian (the files are opened
before it is forked off, so that the lock is one for both), and the job's own child. So a slot is free when
nothing is left of its job, whatever ended it, and there is nothing to tidy up.

All of a user's projects on a machine must meet in the same folder, and over NFS a lock may not be seen: so it
is on /tmp, under the user's number, and a boot has its own (a machine's /tmp may be another's too). Not
/run/user, which goes away with the last login. $RL_SLOTS_DIR in the server's ``env:`` names another.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time

from . import procs
from .jobdir import Refusal, expand, is_current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NOTE_LIMIT_BYTES = 65536
TOUCH_EVERY_S = 3600.0  # what cleans /tmp goes by the age, also of what a folder holds


def slots_folder(env: dict[str, str]) -> str:
    """Given the job's environment, return the folder of the slots, made where it isn't there. Raises Refusal
    for one that another user could have a hand in."""
    asked = env.get("RL_SLOTS_DIR")
    path = expand(asked) if asked else os.path.join(_parent(), procs.boot_id().replace("-", "")[:12])
    make_folder(path)
    return path


def _parent() -> str:
    return f"/tmp/rl-slots-{os.getuid()}"


def make_folder(path: str) -> None:
    """Make the folder of the slots where it isn't there, perhaps no more: whoever came first may have made
    it. Raises Refusal as ``slots_folder`` does."""
    parent = os.path.dirname(path)
    for folder in (parent, path) if parent == _parent() else (path,):
        with contextlib.suppress(FileExistsError):
            os.makedirs(folder, 0o700)
        _check(folder)


def _check(path: str) -> None:
    found = os.lstat(path)
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    if not mine:
        raise Refusal(
            "SlotsError", f"{path} is not a folder that you alone can write", "have it removed, and try again"
        )


def machine_of(folder: str) -> str:
    """Return what tells this folder from those of other machines, the same for all who use it."""
    path = os.path.join(folder, "id")
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    aside = f"{path}.{os.urandom(8).hex()}"
    with open(aside, "w") as file:
        file.write(os.urandom(16).hex())
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    os.unlink(aside)
    return _read(path)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read(64).strip()


class Slots:
    """The slots of one kind ("slot" or "gpu") as one job sees them, opened. ``names``: all that the machine
    has; ``usable``: those that this job may have."""

    def __init__(
        self, folder: str, kind: str, names: list[str], usable: list[str] | None = None, variable: str = ""
    ) -> None:
        self.variable = variable  # shows cards to the job
        self.folder = folder
        self.kind = kind
        self.names = names
        self.usable = list(names) if usable is None else usable
        self.held: list[str] = []
        self._fds = {name: self._open(name) for name in self.usable}
        self._touch_at = time.monotonic()

    def path(self, name: str) -> str:
        return os.path.join(self.folder, f"{self.kind}-{name}")

    def _open(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.path(name), flags, 0o600)

    @property
    def fds(self) -> list[int]:
        """The open files, all of them."""
        return list(self._fds.values())

    @property
    def held_fds(self) -> list[int]:
        return [self._fds[name] for name in self.held]

    def take(self, name: str) -> bool:
        """Take a slot; False when somebody has it. Raises Refusal, OSError."""
        if not _lock(self._fds[name]):
            return False
        if not is_current(self._fds[name], self.path(name)):  # somebody has tidied the folder up
            make_folder(self.folder)
            tidied, self._fds[name] = self._fds[name], self._open(name)
            os.close(tidied)
            if not _lock(self._fds[name]):
                return False
        self.held.append(name)
        return True

    def give_back(self, name: str) -> None:
        self.held.remove(name)
        fcntl.flock(self._fds[name], fcntl.LOCK_UN)

    def note(self, content: dict[str, Any]) -> None:
        """Write down, for people, who has the slots taken."""
        for name in self.held:
            write_note(self._fds[name], content)

    def tick(self, now: float, *more: str) -> None:
        """Keep the files, and ``more``, from looking old."""
        if now - self._touch_at > TOUCH_EVERY_S:
            self._touch_at = now
            for path in (self.folder, *map(self.path, self.held), *more):
                with contextlib.suppress(OSError):
                    os.utime(path)


def holder_of(folder: str, kind: str, name: str) -> dict[str, Any] | None:
    """Return what the holder of a slot has written of itself ({}: nothing yet); None for a free slot."""
    return note_of(os.path.join(folder, f"{kind}-{name}"))


def note_of(path: str) -> dict[str, Any] | None:
    """Return the note in a file that somebody has locked; None when nobody has."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _lock(fd, fcntl.LOCK_SH):
            return None
        note = json.loads(os.pread(fd, NOTE_LIMIT_BYTES, 0) or b"{}")
    except (OSError, ValueError, RecursionError):
        note = {}
    finally:
        os.close(fd)
    return note if isinstance(note, dict) else {}


def write_note(fd: int, content: dict[str, Any]) -> None:
    """Write a note into a file that we have locked; a full disk takes nothing but the note."""
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(content).encode()[:NOTE_LIMIT_BYTES], 0)


def _lock(fd: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
