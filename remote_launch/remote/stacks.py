"""What the processes of a job are doing, written down for people: ``<job>/stacks/rank-<n>.txt``.

py-spy says it best, where the environment or PATH has it and the kernel allows it (often only to root). Else
a script can answer by itself: it opens ``$RL_JOB_DIR/stacks/pid-<its pid>.txt`` and has faulthandler write
there on SIGUSR1. That file is the announcement: SIGUSR1 ends a process that does not handle it, so it goes to
no other. What the kernel tells of each thread is always written.
"""

from __future__ import annotations

import os
import signal
import time

from . import machine, procs
from .jobdir import JobDir, write_bytes_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT_BYTES = 256 << 10  # of one file
PROCESSES_LIMIT = 64
THREADS_LIMIT = 64
SPY_S = 10.0
LATE_S = 0.1  # after that, for each process that py-spy was to look at: it may have answered
ANSWER_S = 10.0
DEADLINE_S = 30.0  # for all of it: then nothing more is written
_MISSING = (
    "no Python stack: have py-spy in the environment (requirements.txt), or let the script answer SIGUSR1 "
    "(docs/commands.md, torch-launch)"
)


class Dump:
    """A child process that writes the stacks down, so that its supervisor goes on meanwhile."""

    def __init__(self, job: JobDir, attempt: int, search_path: str) -> None:
        supervisor = os.getpid()
        self._until = time.monotonic() + DEADLINE_S + 1.0
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _leave_the_supervisor()
                write_stacks(job, attempt, search_path, supervisor)
            finally:
                os._exit(0)
        self._ticks = procs.start_ticks(self._pid)

    @property
    def done(self) -> bool:
        if self._ticks is None or not procs.is_alive(self._pid, self._ticks):
            return True
        if time.monotonic() > self._until:
            procs.send(self._pid, signal.SIGKILL)
        return False


def _leave_the_supervisor() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(int(DEADLINE_S))
    os.closerange(3, 4096)  # the lock and the links to the other nodes are the supervisor's alone


def write_stacks(job: JobDir, attempt: int, search_path: str, supervisor: int) -> None:
    """Write a file a rank of this node (``job.txt`` for what is no rank's)."""
    folder = os.path.join(job.path, "stacks")
    os.makedirs(folder, 0o700, exist_ok=True)
    found = procs.members(job.job_id, supervisor)
    found = dict(sorted(found.items())[:PROCESSES_LIMIT])
    told = {pid: [_threads(pid)] for pid in found}
    spied = _spy(list(found), search_path)
    answered = _ask({pid: ticks for pid, ticks in found.items() if not spied[pid][0]}, folder)
    for pid in found:
        stack, why_not = spied[pid]
        told[pid].append(stack or answered.get(pid) or f"{_MISSING}{why_not}\n")
    ranks: dict[str, list[int]] = {}
    for pid in found:
        ranks.setdefault(_rank_of(pid), []).append(pid)
    prefix = f"attempt-{attempt}-" if attempt else ""
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    for name, pids in ranks.items():
        content = f"{at}\n\n" + "\n".join("".join(told[pid]) for pid in pids)
        path = os.path.join(folder, f"{prefix}{name}.txt")
        write_bytes_atomic(path, content.encode("utf-8", "replace")[:LIMIT_BYTES], durable=False)


def _rank_of(pid: int) -> str:
    """Return "rank-3" by the RANK in a process's environment; "job" without one."""
    for entry in _read(f"/proc/{pid}/environ").split("\0"):
        name, _, value = entry.partition("=")
        if name == "RANK" and value.isdigit() and len(value) < 7:
            return f"rank-{value}"
    return "job"


def _threads(pid: int) -> str:
    """Return what the kernel tells of a process and its threads: their state and what they wait for."""
    words = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
    lines = [f"== process {pid}: {words[:500]}\n"]
    try:
        threads = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
    except (OSError, ValueError):
        return lines[0] + "it has ended\n"
    for thread in threads[:THREADS_LIMIT]:
        base = f"/proc/{pid}/task/{thread}"
        state = _read(f"{base}/stat").rpartition(")")[2].split()[:1]
        waits = _read(f"{base}/wchan").strip()
        where = f", waits in {waits}" if waits not in ("", "0") else ""
        lines.append(f"thread {thread} {_read(f'{base}/comm').strip()}: state {''.join(state)}{where}\n")
    if len(threads) > THREADS_LIMIT:
        lines.append(f"and {len(threads) - THREADS_LIMIT} more threads\n")
    return "".join(lines)


def _spy(pids: list[int], search_path: str) -> dict[int, tuple[str, str]]:
    """Return py-spy's word on each process, or "" and why there is none."""
    program = machine.which("py-spy", search_path)
    if program is None:
        return dict.fromkeys(pids, ("", ""))
    import subprocess  # 4 ms of every start, else

    env = {"PATH": search_path, "LC_ALL": "C.UTF-8"}
    running: dict[int, Any] = {}
    said: dict[int, tuple[str, str]] = {}
    for pid in pids:
        try:
            running[pid] = subprocess.Popen(
                [program, "dump", "--pid", str(pid)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, env=env,
            )
        except OSError as error:
            said[pid] = ("", f"; py-spy: {error.strerror}")
    until = time.monotonic() + SPY_S
    for pid, process in running.items():
        try:
            out, err = process.communicate(timeout=max(LATE_S, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            said[pid] = ("", f"; py-spy gave no answer within {SPY_S:g} s")
            continue
        if process.returncode == 0 and out.strip():
            said[pid] = (out.decode("utf-8", "replace"), "")
        else:
            lines = err.decode("utf-8", "replace").strip().splitlines()
            said[pid] = ("", f"; py-spy: {lines[0][:300] if lines else process.returncode}")
    return said


def _ask(found: dict[int, int], folder: str) -> dict[int, str]:
    """Have those processes that have announced it write their stacks; return what they wrote."""
    asked: dict[int, tuple[str, int]] = {}
    for pid, ticks in found.items():
        path = os.path.join(folder, f"pid-{pid}.txt")
        try:
            size = os.lstat(path).st_size
        except OSError:
            continue
        if _handles_usr1(pid) and procs.is_alive(pid, ticks) and procs.send(pid, signal.SIGUSR1):
            asked[pid] = (path, size)
    if not asked:
        return {}
    until = time.monotonic() + ANSWER_S
    before: dict[int, int] = {}
    while time.monotonic() < until:
        sizes = {pid: _size(path) for pid, (path, _) in asked.items()}
        if sizes == before and all(sizes[pid] > asked[pid][1] for pid in asked):
            break
        before = sizes
        time.sleep(0.2)
    return {pid: _read(path, size) for pid, (path, size) in asked.items()}


def _handles_usr1(pid: int) -> bool:
    """True when a process has a handler for SIGUSR1: the kernel's word, whoever had this pid before."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        name, _, mask = line.partition(":")
        if name == "SigCgt":
            try:
                return bool(int(mask, 16) >> (signal.SIGUSR1 - 1) & 1)
            except ValueError:
                return False
    return False


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _read(path: str, offset: int = 0) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        try:
            if offset:
                file.seek(offset)
            return file.read(LIMIT_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""
