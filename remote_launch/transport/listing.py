"""Which files a sync would send: rsync's own filters, asked of a local dry run, so that there is one reading
of exclude.txt."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from typing import TYPE_CHECKING

from remote_launch.errors import MissingProgramError, SyncError, last_lines
from remote_launch.transport.rsync_report import PARTIAL, VANISHED, unescape

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LINK_OUT = re.compile(rb'ignoring unsafe symlink "(.*)" -> ".*"')  # said with -v; not by every rsync


@dataclasses.dataclass(frozen=True, slots=True)
class SentFile:
    """A file or link that belongs to the project: path relative to its root, size in bytes."""

    path: str
    size_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """The files and links that pass the filters, and the links that don't since they lead out of the
    project; both sorted."""

    files: list[SentFile]
    links_out: list[str]


def list_files(
    root: Path, *, exclude_from: Path | None = None, excludes: Sequence[str] = (), gitignore: bool = False
) -> Listing:
    """Return what is under ``root`` and passes the filters.

    Raises MissingProgramError without rsync, SyncError with its last lines.
    """
    if shutil.which("rsync") is None:
        raise MissingProgramError(
            "this machine", "rsync is not installed", hint="apt-get install rsync (or brew install rsync)"
        )
    argv = ["rsync", "-rl", "-v", "--safe-links", "--dry-run", "--out-format=%l %n"]
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
    files, links_out = [], []
    for line in done.stdout.splitlines():
        size, _, name = line.partition(b" ")
        if size.isdigit() and name and not name.endswith(b"/"):
            files.append(SentFile(unescape(name), int(size)))
        elif link := _LINK_OUT.fullmatch(line):
            links_out.append(unescape(link[1]))
    return Listing(sorted(files, key=lambda file: file.path), sorted(links_out))


def stats_of(root: Path, names: Sequence[str]) -> str | None:
    """Return the hash of sizes, times (s) and modes of files under ``root``, as ``remote/manifest.py`` does
    it on a server: the same where rsync would find nothing to send. None when one is gone meanwhile."""
    digest = hashlib.sha256()
    for name in sorted(names):
        path = root / name
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                line = f"{name}\0link {os.readlink(path)}\n"  # noqa: PTH115 - as it is, not normalised
            else:
                line = f"{name}\0{found.st_size} {int(found.st_mtime)} {stat.S_IMODE(found.st_mode):o}\n"
        except OSError:
            return None
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
