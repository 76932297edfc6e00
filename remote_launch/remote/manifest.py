"""Which files a sync has put into a workdir, and the deletion of those that it no longer sends.

``.rl/manifest.json`` is {"digest", "files"} of the last sync that came through; ``.rl/manifest.pending``
names, beside the new files, all that any sync may have put there: one that broke off forgets nothing. Only
what stands there is ever deleted: never a checkpoint, never what the user made on the server.
"""

from __future__ import annotations

import hashlib
import os
import stat

from .deletion import open_folder
from .globs import covers
from .jobdir import CorruptError, Refusal, read_object, read_or_empty, safe_relative, write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT_BYTES = 128 << 20
PROTECTED = (".rl", ".jobs")


def stat_line(root: str, name: str) -> bytes:
    """Return what tells whether a file has changed, as rsync judges it: the same line on both sides."""
    path = os.path.join(root, name)
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        line = f"{name}\0link {os.readlink(path)}\n"
    else:
        line = f"{name}\0{found.st_size} {int(found.st_mtime)} {stat.S_IMODE(found.st_mode):o}\n"
    return line.encode("utf-8", "surrogateescape")


class Manifest:
    """The manifest of one workdir."""

    def __init__(self, workdir: str, jobs_folder: str = ".jobs", outputs: Any = None) -> None:
        """``outputs`` are globs as in ``globs.covers``: what they mean is the jobs', whoever sent it."""
        self.workdir = workdir
        self._outputs = outputs if isinstance(outputs, list) else []
        self._protected = {*PROTECTED, jobs_folder.strip("/").split("/")[0]}
        self._path = os.path.join(workdir, ".rl", "manifest.json")
        self._pending = os.path.join(workdir, ".rl", "manifest.pending")

    def digest(self) -> str | None:
        """Return the digest of the last committed manifest; None when there is none, or a later sync broke
        off: what that one sent must still be sorted out."""
        return None if os.path.lexists(self._pending) else self._committed()

    def _committed(self) -> str | None:
        digest = read_or_empty(self._path, LIMIT_BYTES).get("digest")
        return digest if isinstance(digest, str) else None

    def stats(self) -> str | None:
        """Return the hash of sizes, times and modes of the files of the last sync, as ``core``'s listing
        computes it from the project: rsync's own quick check for all of them at once. None when one is
        missing."""
        digest = hashlib.sha256()
        for name in sorted(self._files(self._path, "files")):
            try:
                digest.update(stat_line(self.workdir, name))
            except OSError:
                return None
        return digest.hexdigest()

    def begin(self, files: Any, digest: Any) -> dict[str, Any]:
        """Note what a sync is about to send. Raises Refusal when a path is not one inside the workdir."""
        if not isinstance(files, list) or not isinstance(digest, str):
            raise Refusal("RequestError", "a sync begins with its files and their digest")
        for name in files:
            if not self._is_ours(name):
                raise Refusal("RequestError", f"{name!r} is not a path that a sync may write in the workdir")
        old = self._files(self._path, "files") | self._files(self._pending, "all")
        write_atomic(self._pending, {"digest": digest, "files": files, "all": sorted(old | set(files))})
        return {"files": len(files), "digest": digest}

    def commit(self, digest: Any) -> dict[str, Any]:
        """The files have come: delete those that no longer belong, and install the new manifest."""
        try:
            pending = read_object(self._pending, LIMIT_BYTES)
        except CorruptError as error:
            raise Refusal("WorkspaceError", f"{self._pending}: {error}", "rl rsync") from error
        if pending is None and digest is not None and digest == self._committed():
            return {"deleted": 0, "digest": digest}  # said twice
        if pending is None or pending.get("digest") != digest:
            raise Refusal("WorkspaceError", "another sync came between: the files are mixed", "rl rsync")
        new = self._files(self._pending, "files")
        deleted = 0
        folders: set[str] = set()
        for name in sorted(self._files(self._pending, "all") - new):
            if not any(covers(glob, name) for glob in self._outputs) and self._delete(name):
                deleted += 1
                folders.add(os.path.dirname(name))
        for folder in folders:
            self._remove_empty(folder)
        write_atomic(self._path, {"digest": digest, "files": sorted(new)})
        os.unlink(self._pending)
        return {"deleted": deleted, "digest": digest}

    def names(self) -> set[str]:
        """Return all that any sync may have put there."""
        return self._files(self._path, "files") | self._files(self._pending, "all")

    def remove_all(self) -> int:
        """Delete what syncs have sent, and then what they noted; return the number of files."""
        names = sorted(self.names())
        deleted = [name for name in names if self._delete(name)]
        for folder in {os.path.dirname(name) for name in names}:
            self._remove_empty(folder)
        for path in (self._pending, self._path):
            if os.path.lexists(path):
                os.unlink(path)
        return len(deleted)

    def _files(self, path: str, field: str) -> set[str]:
        """Return the paths that a manifest names, those that it must not name left out: the file may have
        been tampered with."""
        names = read_or_empty(path, LIMIT_BYTES).get(field)
        return {name for name in names if self._is_ours(name)} if isinstance(names, list) else set()

    def _is_ours(self, name: Any) -> bool:
        if not isinstance(name, str) or not safe_relative(name):
            return False
        parts = name.split("/")
        return "" not in parts and "." not in parts and parts[0] not in self._protected

    def _delete(self, name: str) -> bool:
        """Delete one file or link, through real folders only; True when it was there."""
        folder = open_folder(self.workdir, os.path.dirname(name))
        if folder is None:
            return False
        try:
            base = os.path.basename(name)
            mode = os.stat(base, dir_fd=folder, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                return False
            os.unlink(base, dir_fd=folder)
        except (OSError, ValueError):
            return False
        else:
            return True
        finally:
            os.close(folder)

    def _remove_empty(self, name: str) -> None:
        """Remove a folder that a deletion has emptied, and its parents that are empty then."""
        while name:
            parent = open_folder(self.workdir, os.path.dirname(name))
            if parent is None:
                return
            try:
                os.rmdir(os.path.basename(name), dir_fd=parent)
            except OSError:
                return
            finally:
                os.close(parent)
            name = os.path.dirname(name)
