"""A download as it lies on the disk: what has come of it, what it is a part of, what it was verified with.

What has come so far lies in ``<dest>.part``, what it is a part of in ``<dest>.part.json``; the checksum of a
file that was verified in ``<dest>.sha256`` (as sha256sum writes it).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re

from .jobdir import CorruptError, read_bytes, read_or_empty, text, write_atomic, write_bytes_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

DIGEST = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])")


class PartFile:
    """The file ``dest``, which is to come from ``url``, and its part."""

    def __init__(self, url: str, dest: str) -> None:
        self.dest = dest
        self.part = f"{dest}.part"
        self._note = f"{dest}.part.json"
        self._mark = f"{dest}.sha256"
        self._source = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def size(self) -> int:
        """How many bytes of it are there."""
        try:
            return os.lstat(self.part).st_size
        except FileNotFoundError:
            return 0

    def origin(self) -> tuple[bool, str | None]:
        """Return whether the part is of this very URL, and which version of the file it is of."""
        note = read_or_empty(self._note)
        return note.get("source") == self._source, text(note, "validator")

    @contextlib.contextmanager
    def added_to(self, have: int, version: str | None) -> Iterator[Any]:
        """For the length of a ``with``: the part of a ``version``, open behind its first ``have`` bytes."""
        if not have:
            _unlink(self.part)  # before the note: it must never speak of an older part
        write_atomic(self._note, {"source": self._source, "validator": version}, durable=False)
        with open(os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644), "wb") as file:
            file.seek(have)
            yield file
            file.flush()
            os.fsync(file.fileno())

    def put_in_place(self) -> None:
        """The part is the whole file: give it its name."""
        os.replace(self.part, self.dest)
        folder = os.open(os.path.dirname(self.dest), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def forget(self) -> None:
        """Delete the part."""
        _unlink(self.part)
        _unlink(self._note)

    def verified(self) -> str | None:
        """Return the checksum that a file of this very URL was verified with."""
        try:
            lines = (read_bytes(self._mark, 4096) or b"").decode("utf-8", "replace").splitlines()
        except CorruptError:
            return None
        if len(lines) != 2 or lines[1] != f"# {self._source}" or not DIGEST.match(lines[0]):
            return None
        return lines[0][:64]

    def note_verified(self, digest: str | None) -> None:
        """Note what the file was verified with; None for one that could not be."""
        if digest is None:
            _unlink(self._mark)
        elif self.verified() != digest:
            content = f"{digest}  {os.path.basename(self.dest)}\n# {self._source}\n"
            write_bytes_atomic(self._mark, content.encode("utf-8", "replace"))


def digest_of(path: str) -> str:
    """Return the sha256 of the file as it lies on the disk, not of what was received: a second writer would
    show."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
