"""Processes of this machine, by what their command lines say."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def marked(variable: str) -> list[int]:
    """Return the processes that were started with a variable, "NAME=value", in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environ = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if os.fsencode(variable) in environ.split(b"\0"):
            found.append(int(entry.name))
    return found


def at_work_in(folder: Path) -> list[int]:
    """Return the processes whose working directory is the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(folder):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def naming(folder: Path) -> list[int]:
    """Return the processes whose command line names the folder, or what is in it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and bytes(folder) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def pids_of(folder: Path, *words: str) -> list[str]:
    """Return the processes whose command line has all of the words, and one that begins with the folder."""
    wanted = set(map(os.fsencode, words))
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if wanted <= set(line) and any(word.startswith(bytes(folder)) for word in line):
            found.append(entry.name)
    return found


@contextlib.contextmanager
def paused(pid: int | None, for_s: float) -> Iterator[None]:
    """Let a process stand still for so long, as on a busy machine, while the ``with`` goes on. That ends no
    earlier."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(for_s, os.kill, (pid, signal.SIGCONT))
    timer.start()
    try:
        yield
    finally:
        timer.join()
