"""Folders measured and removed through real folders only: a symbolic link is removed itself, never what it
leads to, and what another filesystem has mounted in them stays."""

from __future__ import annotations

import contextlib
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_BLOCK_BYTES = 512


class Amount:
    """How much there is. ``linked_bytes`` of it have another name elsewhere (a cache that links its files):
    removing these frees nothing yet."""

    def __init__(self) -> None:
        self.files = 0
        self.size_bytes = 0
        self.linked_bytes = 0
        self._seen: dict[tuple[int, int], int] = {}

    def add(self, found: os.stat_result) -> None:
        """Count one file, a second name of it once."""
        self.files += 1
        size = found.st_blocks * _BLOCK_BYTES
        if found.st_nlink > 1:
            key = found.st_dev, found.st_ino
            names = self._seen[key] = self._seen.get(key, 0) + 1
            if names == 1:
                self.size_bytes += size
                self.linked_bytes += size
            if names == found.st_nlink:
                self.linked_bytes -= size  # all its names are in here
            return
        self.size_bytes += size

    def to_wire(self) -> dict[str, int]:
        return {"files": self.files, "size_bytes": self.size_bytes, "linked_bytes": self.linked_bytes}


def open_folder(root: str, name: str = "") -> int | None:
    """Open a folder below ``root`` part by part; None when a part is missing, or a symbolic link."""
    try:
        folder = os.open(root, _FOLDER)
    except OSError:
        return None
    for part in filter(None, name.split("/")):
        try:
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        except (OSError, ValueError):
            return None
        finally:
            os.close(folder)
        folder = below
    return folder


def measure(folder: int, name: str, amount: Amount) -> None:
    """Add all that a folder's entry holds; what can't be read counts as nothing."""
    with contextlib.suppress(OSError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            amount.add(found)
            return
        below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        try:
            for entry in os.listdir(below):
                measure(below, entry, amount)
        finally:
            os.close(below)


def remove(
    folder: int, name: str, amount: Amount, keep: Callable[[os.stat_result], bool] | None = None
) -> None:
    """Remove a folder's entry with all that it holds, and count it. Files that ``keep`` names stay, with the
    folders that they are in. Raises OSError."""
    _remove(folder, name, amount, os.fstat(folder).st_dev, keep, ())


def remove_folder(folder: int, name: str, amount: Amount, last: tuple[str, ...]) -> None:
    """As ``remove``, of a folder; its entries ``last`` go after all others: what says whose it is, or how it
    ended, is true until the end."""
    _remove(folder, name, amount, os.fstat(folder).st_dev, None, last)


def _remove(
    folder: int, name: str, amount: Amount, device: int, keep: Callable[[os.stat_result], bool] | None,
    last: tuple[str, ...],
) -> None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        if keep is None or not keep(found):
            os.unlink(name, dir_fd=folder)
            amount.add(found)
        return
    if found.st_dev != device:
        return  # a mount: somebody else's
    below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    try:
        if found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with contextlib.suppress(OSError):
                os.fchmod(below, stat.S_IMODE(found.st_mode) | stat.S_IRWXU)
        for entry in sorted(os.listdir(below), key=lambda entry: (entry in last, entry)):
            _remove(below, entry, amount, device, keep, ())
        empty = not os.listdir(below)
    except OSError as error:
        if isinstance(error.filename, str):  # as seen from the folder above
            error.filename = os.path.join(name, error.filename)
        raise
    finally:
        os.close(below)
    if empty:
        os.rmdir(name, dir_fd=folder)
