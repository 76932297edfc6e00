"""Run a command, then name and end what outlives it. Usage: python -m tests.support.leftovers COMMAND...

A subreaper (Linux): a process whose parents are gone becomes our child, whatever session and group it made,
so that what is found is exactly what the command started. Exits with the command's code, or with 1 when
something was left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 30.0  # of a machine with much else to do; what nobody ended sleeps longer


def main(argv: list[str]) -> int:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    command = subprocess.Popen(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the command too
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    code = _wait_for(command)
    leftovers = _wait_for_end()
    for pid, line in leftovers:
        print(f"left running by the tests: {pid} {line} ({origin(pid)})", file=sys.stderr, flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return code if code > 0 else 128 - code if code < 0 else int(bool(leftovers))


def _wait_for(command: subprocess.Popen[bytes]) -> int:
    """Return the command's exit code. Orphans that end meanwhile are ours to bury: tests wait for them to be
    gone."""
    while True:
        pid, status = os.wait()
        if pid == command.pid:
            command.returncode = os.waitstatus_to_exitcode(status)
            return command.returncode


def _wait_for_end() -> list[tuple[int, str]]:
    """Return the descendants that are still there after the grace period."""
    deadline = time.monotonic() + GRACE_S
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = descendants(os.getpid())
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def descendants(ancestor: int) -> list[tuple[int, str]]:
    """Return pid and command line of every process below ``ancestor``, zombies left out; Linux only."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    below = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    found = []
    for pid in sorted(below - {ancestor}):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            found.append((pid, words.decode(errors="replace").strip()[:200]))
    return found


def origin(pid: int) -> str:
    """Return what tells of the test that started a process: its folder, and what its environment names."""
    known = []
    with contextlib.suppress(OSError):
        known.append(str(Path(f"/proc/{pid}/cwd").readlink()))
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        known += [one for one in variables if one.startswith(("PYTEST_CURRENT_TEST=", "RL_JOB_DIR="))]
    return ", ".join(known)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
