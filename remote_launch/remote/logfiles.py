"""The log files of a job, by attempt and rank, and where in them to begin.

Attempt 0 writes job.out and job.err, attempt k job.<k>.out and job.<k>.err. torchrun makes a folder of its
own for the ranks of each attempt: ranks/<run>_<random>/attempt_0/<local rank>/ (or below ranks.<k>/).
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .jobdir import JobDir

BLOCK_BYTES = 65536
LINE_LIMIT_BYTES = 256 << 10  # a longer line is cut: nobody waits for 5 GB of progress bar
FILES_LIMIT = 4096  # files of one job that are looked at
_JOB_LOG = re.compile(r"job(?:\.([1-9][0-9]{0,5}))?\.(out|err)\Z")
_RANKS = re.compile(r"ranks(?:\.([1-9][0-9]{0,5}))?\Z")
_STREAMS = {"out": "stdout", "err": "stderr", "stdout.log": "stdout", "stderr.log": "stderr"}


class LogFile:
    """``name`` is the path in the job's folder; ``local_rank`` is None for the command's own output."""

    def __init__(self, name: str, stream: str, local_rank: int | None, attempt: int) -> None:
        self.name = name
        self.stream = stream
        self.local_rank = local_rank
        self.attempt = attempt


def log_files(job: JobDir) -> list[LogFile]:
    """Return the log files that a job has now. Links are not among them."""
    found = []
    for entry in _scan(job.path):
        match = _JOB_LOG.match(entry.name)
        if match:
            found.append(LogFile(entry.name, _STREAMS[match[2]], None, int(match[1] or 0)))
            continue
        match = _RANKS.match(entry.name)
        if match and entry.is_dir(follow_symlinks=False):
            found += _rank_files(entry, int(match[1] or 0))
    return sorted(found, key=lambda file: file.name)[:FILES_LIMIT]


def _rank_files(ranks: os.DirEntry[str], first_attempt: int) -> Iterator[LogFile]:
    """torchrun's own restarts are never asked for: each of its folders is one attempt, the oldest the
    first."""
    runs = sorted(_folders(ranks.path), key=lambda entry: (_made_at(entry), entry.name))
    for number, run in enumerate(runs):
        for attempt in _folders(run.path):
            for rank in _folders(attempt.path):
                if not rank.name.isdigit() or len(rank.name) > 6:
                    continue
                for name in ("stdout.log", "stderr.log"):
                    if os.path.lexists(os.path.join(rank.path, name)):
                        path = os.path.join(ranks.name, run.name, attempt.name, rank.name, name)
                        yield LogFile(path, _STREAMS[name], int(rank.name), first_attempt + number)


def _made_at(run: os.DirEntry[str]) -> float:
    # Only attempt_0 is ever made in it, right after it.
    try:
        return run.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0


def _folders(path: str) -> list[os.DirEntry[str]]:
    return [entry for entry in _scan(path) if entry.is_dir(follow_symlinks=False)]


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(path))
    except OSError:
        return []


def start_of_last_lines(fd: int, lines: int) -> int:
    """Given an open file, return the offset at which its last ``lines`` lines start; 0 for -1. Reads blocks
    from the end; of a line that is longer than LINE_LIMIT_BYTES, the end only."""
    size = os.fstat(fd).st_size
    if lines < 0:
        return 0
    if lines == 0:
        return size
    at = newline_at = size
    wanted = lines + 1  # the newline at the very end closes the last line, it does not start one
    while at > 0 and newline_at - at < LINE_LIMIT_BYTES:
        start = max(0, at - BLOCK_BYTES)
        block = os.pread(fd, at - start, start)
        if at == size and not block.endswith(b"\n"):
            wanted = lines  # an unfinished last line
        at = start
        place = len(block)
        while (place := block.rfind(b"\n", 0, place)) >= 0:
            newline_at = at + place
            wanted -= 1
            if wanted == 0:
                return newline_at + 1
    return at


def start_of_line(fd: int, offset: int) -> int:
    """Given an offset in an open file, return where its line starts (the offset itself when that is far)."""
    start = max(0, offset - BLOCK_BYTES)
    before = os.pread(fd, offset - start, start)
    place = before.rfind(b"\n")
    return start + place + 1 if place >= 0 else 0 if start == 0 else offset
