"""Faults made for real on docker hosts, and what is seen of a launch from outside.

The containers' processes are this kernel's, so they are counted and ended from here, without going into the
hosts: a poll costs a few milliseconds and no process. That takes root.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.docker_hosts import USER, wait_for_sshd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.cli import Rl
    from tests.support.docker_hosts import DockerHost

SCRIPT = "steps.py"
NNODES = 2  # a third host is a spare
NPROC = 2
USER_ID = "1000"  # the image's first user, see tests/cluster/host/Dockerfile
POLL_S = 0.05

# What is trained: an all-reduce over all ranks every 0.2 s, a checkpoint of rank 0's after each. Faults that
# come from within are asked for by a file.
STEPS = '''
import ctypes, json, os, sys, time
import torch
import torch.distributed as dist

steps, out, patience_s = int(sys.argv[1]), sys.argv[2], float((sys.argv[3:] or [0])[0])
attempt = int(os.environ.get("RL_ATTEMPT") or os.environ["TORCHELASTIC_RESTART_COUNT"])
os.makedirs(out, exist_ok=True)
dist.init_process_group("gloo")
rank = dist.get_rank()
checkpoint, wanted = os.path.join(out, "checkpoint"), os.path.join(out, f"fault.{rank}")


def put(name, content):
    aside = os.path.join(out, name + ".tmp")
    with open(aside, "w") as file:
        file.write(content)
    os.replace(aside, os.path.join(out, name))


def fail(kind):
    os.unlink(wanted)
    put("failed", repr(time.time()))
    if kind == "exception":
        raise ValueError("a fault, as asked for")
    if kind == "exit":
        os._exit(37)
    if kind == "segv":
        ctypes.string_at(0)
    kept = []
    while True:  # memory
        kept.append(b"x" * (32 << 20))


def add_up():
    try:
        dist.all_reduce(torch.ones(1000))
    except RuntimeError:  # a peer is gone
        time.sleep(patience_s)
        raise


done = torch.zeros(1, dtype=torch.int64)
if rank == 0 and os.path.exists(checkpoint):
    done[0] = int(open(checkpoint).read())
dist.broadcast(done, 0)
for step in range(int(done), steps):
    if os.path.exists(wanted):
        fail(open(wanted).read())
    add_up()
    time.sleep(0.2)
    if rank == 0:
        put("checkpoint", str(step + 1))
        with open(os.path.join(out, "progress"), "a") as file:
            file.write(json.dumps([time.time(), attempt, step]) + "\\n")
    print("step", step, "." * 1000, flush=True)  # so that a full disk is felt soon
'''


def write_script(project: Path) -> None:
    (project / SCRIPT).write_text(STEPS.lstrip())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One of a host's processes; ``pid`` is this machine's."""

    pid: int
    command: str

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def environ(self) -> dict[str, str]:
        """Return the environment that it was started with; nothing of one that has ended."""
        with contextlib.suppress(OSError):
            raw = Path(f"/proc/{self.pid}/environ").read_bytes().decode(errors="replace")
            return dict(item.split("=", 1) for item in raw.split("\0") if "=" in item)
        return {}


def own_processes(host: DockerHost) -> list[Process]:
    """Return what runs on a host but sshd, its first processes and what docker puts in."""
    try:
        pids = list(map(int, (_cgroup(host.container) / "cgroup.procs").read_text().split()))
    except OSError:
        return []  # it is down
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if command and _uid(status) == USER_ID:
                found.append(Process(pid=pid, command=command.strip()))
    return [process for process in found if "sshd" not in process.command.split(" ")[0]]


def training(host: DockerHost) -> list[Process]:
    """Return torchrun and its workers on a host: what must stop."""
    return [process for process in own_processes(host) if SCRIPT in process.command]


def restart_sshd(host: DockerHost) -> None:
    """Have sshd begin anew, and every connection to it end."""
    sessions = "$(ps -eo pid=,args= | awk '/sshd: trainer/ && !/awk/ {print $1}')"
    host.exec(f"kill {sessions} 2>/dev/null || true; kill -HUP $(pgrep -o -x sshd)")
    wait_for_sshd(host.address)


def marked(host: DockerHost, job_id: str) -> int:
    """How many processes on the host carry the job's id in their environment. Only their own user may read
    it."""
    return int(
        host.exec(f"grep -lsz '^RL_JOB_ID={job_id}$' /proc/[0-9]*/environ | wc -l", user=host.username)
    )


def worker(host: DockerHost, rank: int) -> Process:
    (found,) = (process for process in training(host) if process.environ().get("RANK") == str(rank))
    return found


def torchrun(host: DockerHost) -> Process:
    (found,) = (process for process in training(host) if "RANK" not in process.environ())
    return found


def supervisor(host: DockerHost) -> Process:
    """Return the process that torchrun is a child of."""
    parent = int(_field(Path(f"/proc/{torchrun(host).pid}/status").read_text(), "PPid"))
    (found,) = (process for process in own_processes(host) if process.pid == parent)
    return found


@contextlib.contextmanager
def frozen(host: DockerHost) -> Iterator[None]:
    """Freeze every process of a host, as ``pause`` does, for the length of a ``with``; at once, where docker
    takes its time on a busy machine."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():  # version 2
        file, freeze, thaw = _cgroup(host.container) / "cgroup.freeze", "1", "0"
    else:
        file = _cgroup(host.container, "freezer.state") / "freezer.state"
        freeze, thaw = "FROZEN", "THAWED"
    file.write_text(freeze)
    try:
        yield
    finally:
        file.write_text(thaw)


@functools.cache
def _cgroup(container: str, having: str = "cgroup.procs") -> Path:
    folder = Path("/sys/fs/cgroup")
    for pattern in ("docker/{}*", "*/docker/{}*", "system.slice/docker-{}*", "*/system.slice/docker-{}*"):
        for path in folder.glob(pattern.format(container)):
            if (path / having).exists():
                return path
    raise AssertionError(f"no cgroup of container {container} with {having} in {folder}")


def _uid(status: str) -> str:
    return _field(status, "Uid").split("\t")[0]


def _field(status: str, name: str) -> str:
    return next(line.partition(":")[2].strip() for line in status.splitlines() if line.startswith(f"{name}:"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A line of the training's progress: ``at`` is this machine's clock."""

    at: float
    attempt: int
    number: int


@dataclasses.dataclass(slots=True, kw_only=True)
class Launch:
    """One launch of the script on some hosts (spares last), seen from outside."""

    hosts: Sequence[DockerHost]
    out: str
    launch_id: str = ""
    jobs: Sequence[dict[str, Any]] = ()

    def progress(self) -> list[Step]:
        """Return the steps that rank 0 has written down, also on a spare; none while its host is down."""
        found = []
        for host in [self.hosts[0], *self.hosts[NNODES:]]:
            text = host.exec(f"cat {self.out}/progress 2>/dev/null || true", check=False)
            for line in text.splitlines():
                with contextlib.suppress(ValueError):
                    at, attempt, number = json.loads(line)
                    found.append(Step(at=at, attempt=attempt, number=number))
        return sorted(found, key=lambda step: step.at)

    def wait_for_steps(self, count: int, *, timeout_s: float = 240) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self.progress()) < count:
            assert time.monotonic() < deadline, f"not {count} steps after {timeout_s} s"
            time.sleep(0.2)

    def ask_for_fault(self, kind: str, *, rank: int) -> float:
        """Have a rank fail by itself; return when it did."""
        host = self.hosts[rank // NPROC]
        wanted = f"{self.out}/wanted"
        put = f"printf {kind} > {wanted} && mv {wanted} {self.out}/fault.{rank}"
        host.exec(f"mkdir -p {self.out} && {put}", user=USER)
        deadline = time.monotonic() + 60
        while not (said := host.exec(f"cat {self.out}/failed 2>/dev/null || true")):
            assert time.monotonic() < deadline, "the rank did not fail"
            time.sleep(0.05)
        return float(said)

    def exits(self, workdirs: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return each node's exit.json; None where there is none, or nobody answers."""
        found: list[dict[str, Any] | None] = []
        for host, job, workdir in zip(self.hosts, self.jobs, workdirs, strict=True):
            text = host.exec(f"cat {workdir}/.jobs/{job['job_id']}/exit.json", check=False)
            found.append(json.loads(text) if text else None)
        return found


def start(
    rl: Rl, hosts: Sequence[DockerHost], *options: str, steps: int = 100_000, patience_s: int = 0
) -> Launch:
    """Launch the script on the hosts and wait until it trains.

    A rank fails ``patience_s`` after its peer is gone: where that is long, it is certain who fails first, and
    it is rl alone that stops the others.
    """
    out = f"/home/{USER}/out/{uuid.uuid4().hex[:8]}"
    servers = [word for host in hosts for word in ("--server", host.name)]
    launched = rl.json(
        "torch-launch", *servers, "--nproc-per-node", str(NPROC), *options, SCRIPT, str(steps), out,
        str(patience_s),
    )["data"]
    launch = Launch(hosts=hosts, out=out, launch_id=launched["launch_id"], jobs=launched["jobs"])
    launch.wait_for_steps(5)
    return launch
