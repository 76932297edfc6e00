"""Writing small local files so that no reader ever sees half of one."""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write_atomic(path: Path, text: str) -> None:
    """Write a file aside and put it in place, over whatever was there. Its folder must exist."""
    with _aside(path, text) as aside:
        os.replace(aside, path)  # noqa: PTH105


def write_new(path: Path, text: str) -> bool:
    """Write a file that isn't there yet; False, with nothing written, when it is. Safe between processes."""
    with _aside(path, text) as aside:
        try:
            os.link(aside, path)  # puts a whole file in place, and never over another
        except FileExistsError:
            return False
        except OSError:  # a filesystem without hard links: a moment is left in which two writers may meet
            if path.exists():
                return False
            os.replace(aside, path)  # noqa: PTH105
        return True


@contextlib.contextmanager
def _aside(path: Path, text: str) -> Iterator[Path]:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        # "x" follows the umask, where tempfile would leave 0600 and lock the other members of a team out.
        with aside.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)
