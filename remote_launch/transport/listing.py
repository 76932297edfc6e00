"""Which files a sync would send: rsync's own filters, asked of a local dry run, so that there is one reading
of exclude.txt."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

from remote_launch.errors import MissingProgramError, SyncError, last_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PARTIAL, VANISHED = 23, 24
_ESCAPE = re.compile(rb"\\#(\d{3})")  # rsync prints bytes it holds unprintable as \#ooo


@dataclasses.dataclass(frozen=True, slots=True)
class SentFile:
    """A file or link that belongs to the project: path relative to its root, size in bytes."""

    path: str
    size_bytes: int


def list_files(
    root: Path, *, exclude_from: Path | None = None, excludes: Sequence[str] = (), gitignore: bool = False
) -> list[SentFile]:
    """Return the files and links under ``root`` that pass the filters, sorted. Links that lead out of
    ``root`` are left out.

    Raises MissingProgramError without rsync, SyncError with its last lines.
    """
    if shutil.which("rsync") is None:
        raise MissingProgramError(
            "this machine", "rsync is not installed", hint="apt-get install rsync (or brew install rsync)"
        )
    argv = ["rsync", "-rl", "--safe-links", "--dry-run", "--out-format=%l %n"]
    argv += [f"--exclude={pattern}" for pattern in excludes]
    if exclude_from is not None and exclude_from.exists():
        argv.append(f"--exclude-from={exclude_from}")
    if gitignore:
        argv.append("--filter=:- .gitignore")
    with tempfile.TemporaryDirectory(prefix="rl-list-") as empty:
        done = subprocess.run([*argv, "--", f"{root}/", f"{empty}/"], capture_output=True, check=False)
    # Not PARTIAL (a folder that can't be read): what is missing here is taken for deleted, there too.
    if done.returncode not in (0, VANISHED):
        tail = last_lines(done.stderr.decode("utf-8", "replace"))
        hint = "make it readable, or leave it out: a line in exclude.txt"
        raise SyncError(
            f"rsync could not list {root}: exit code {done.returncode}\n{tail}",
            command="rsync --dry-run",
            exit_code_of_command=done.returncode,
            tail=tail,
            hint=hint if done.returncode == PARTIAL else None,
        )
    files = []
    for line in done.stdout.splitlines():
        size, _, name = line.partition(b" ")
        name = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), name)
        if not size.isdigit() or not name or name.endswith(b"/"):
            continue
        files.append(SentFile(name.decode("utf-8", "surrogateescape"), int(size)))
    return sorted(files, key=lambda file: file.path)
