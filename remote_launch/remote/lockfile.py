"""The file that a lease is: read with suspicion, written whole, taken away without taking another's."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

TEXT_LIMIT = 200
_LIMIT_BYTES = 4096


class Sight:
    """What a waiter saw of a lock: its state, which any renewal changes, and what it claims."""

    def __init__(self, mtime_ns: int, content: bytes | None) -> None:
        self.state = (mtime_ns, content)  # no inode number: over sshfs it changes with the name
        self.claims: dict[str, Any] = {}
        with contextlib.suppress(ValueError, RecursionError):
            claims = json.loads(content or b"")
            if isinstance(claims, dict):
                self.claims = claims

    def holder(self) -> dict[str, Any]:
        """Return {"who", "host", "since", "pid"}, each of its shape or None: anyone may write the file."""
        since, pid = self.claims.get("since"), self.claims.get("pid")
        return {
            "who": _text(self.claims.get("who")), "host": _text(self.claims.get("hostname")),
            "since": since if isinstance(since, (int, float)) and 0 < since < 1e11 else None,
            "pid": pid if type(pid) is int and 0 < pid < 1 << 31 else None,
        }


def look(path: str) -> Sight | None:
    """Read a lock; None when there is none. A link, a pipe or another's secret is seen, but not read. Raises
    OSError for a folder and for a failing disk."""
    with named(path):
        try:
            known = os.lstat(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise
        if stat.S_ISDIR(known.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            if error.errno in (errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO):
                return Sight(known.st_mtime_ns, None)
            raise
        try:
            known = os.fstat(fd)
            content = os.read(fd, _LIMIT_BYTES + 1) if stat.S_ISREG(known.st_mode) else None
        except OSError as error:
            if error.errno == errno.ESTALE:
                return None
            raise
        finally:
            os.close(fd)
    return Sight(known.st_mtime_ns, content if content is None or len(content) <= _LIMIT_BYTES else None)


def remove(path: str, stale: Sight) -> None:
    """Take a stale lock away; what has become another's meanwhile is put back."""
    aside = f"{path}.{os.urandom(16).hex()}.stale"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    ours = False
    try:
        sight = look(aside)
        ours = sight is None or sight.state == stale.state
    finally:
        if not ours:
            try:
                os.link(aside, path, follow_symlinks=False)
            except FileExistsError:
                pass  # taken by a third: the owner of the one moved sees in ``held`` that it has lost
            except OSError:
                if not os.path.lexists(path):  # no links here: not atomic, and the best there is
                    os.rename(aside, path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)


def write(fd: int, content: bytes, path: str) -> None:
    with named(path):
        if os.pwrite(fd, content, 0) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.fsync(fd)  # else an NFS client keeps it to itself


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """An OSError that names no file is given this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return "".join(c if c.isprintable() else "?" for c in value[:TEXT_LIMIT])
