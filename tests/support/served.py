"""A workdir on "a server" (this machine), the packed program in it, and the means to call its verbs and to
end what they start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

from remote_launch.core.job_specs import GangSpec, JobSpec
from remote_launch.core.programs import pack
from remote_launch.remote import procs
from remote_launch.remote.jobdir import JobDir
from remote_launch.remote.states import TERMINAL, state_of
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEADLINE_S = 60.0
# An older one shows that the programs run on it.
PYTHON = os.environ.get("RL_TEST_SERVER_PYTHON", sys.executable)


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Poll until the condition gives something true, and return that."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s:g} s: {what}")


def words_of(pid: int) -> bytes:
    """Return a process's command line; b"" when it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def is_over(folder: Path) -> bool:
    """Whether a job, given its folder on the server, has ended, or its start was broken off."""
    return state_of(JobDir(str(folder)))["state"] in TERMINAL


class Served:
    """One server: a workdir with the program."""

    def __init__(self, workdir: Path, env: dict[str, str] | None = None) -> None:
        self.workdir = workdir
        workdir.mkdir(parents=True, exist_ok=True)
        name, content = pack()
        self.program = workdir / ".rl" / "bin" / name
        self.program.parent.mkdir(parents=True)
        self.program.write_bytes(content)
        self.env = {**os.environ, **(env or {})}
        self.jobs: list[str] = []

    # -- verbs

    def popen(self, verb: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [PYTHON, str(self.program), verb], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env, **options,
        )

    def raw(self, verb: str, stdin: bytes) -> dict[str, Any]:
        with self.popen(verb) as process:
            out, err = process.communicate(stdin, timeout=60)
        assert process.returncode == 0, err.decode()
        assert err == b"", err.decode()
        assert out.count(b"\n") == 1, out
        return json.loads(out)

    def call(self, verb: str, **request: Any) -> dict[str, Any]:
        return self.raw(
            verb, json.dumps({"workdir": str(self.workdir), "jobs_folder": ".jobs", **request}).encode()
        )

    def spec(self, shell: str | None = None, **fields: Any) -> dict[str, Any]:
        fields.setdefault("job_id", uuid.uuid4().hex)
        self.jobs.append(fields["job_id"])
        fields.setdefault("server", "s0")
        return JobSpec(workdir=str(self.workdir), shell=shell, **fields).to_wire()

    def start(self, shell: str | None = None, **fields: Any) -> str:
        """Start a job; return its id."""
        spec = self.spec(shell, **fields)
        answer = self.call("start", spec=spec)
        assert answer.get("state") == "STARTED", answer
        return spec["job_id"]

    def probe(self, job_id: str) -> dict[str, Any]:
        answer = self.call("probe", job_ids=[job_id])
        assert answer["jobs"], answer
        return answer["jobs"][0]

    def kill(self, job_id: str, signal: str = "TERM", grace_s: float = 30) -> dict[str, Any]:
        return self.call(
            "kill", jobs=[{"job_id": job_id, "signal": signal, "grace_s": grace_s}], by="me@laptop"
        )["jobs"][0]

    # -- the job's folder

    def folder(self, job_id: str) -> Path:
        return self.workdir / ".jobs" / job_id

    def read(self, job_id: str, name: str) -> dict[str, Any]:
        return json.loads((self.folder(job_id) / name).read_text())

    def out(self, job_id: str) -> str:
        return (self.folder(job_id) / "job.out").read_text()

    def wait(self, job_id: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Wait for the job's end; return exit.json."""
        path = self.folder(job_id) / "exit.json"
        try:
            until(path.exists, f"end of {job_id}", deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log(job_id)}") from None
        return self.read(job_id, "exit.json")

    def log(self, job_id: str) -> str:
        """What the supervisor has said so far."""
        path = self.folder(job_id) / "supervisor.log"
        return path.read_text() if path.exists() else ""

    def kill_supervisor(self, job_id: str, *, guardian: bool = False) -> None:
        """kill -9 of the job's supervisor; before it of its guardian, which would end what is left."""
        pid = self.read(job_id, "started.json")["supervisor_pid"]
        if guardian:
            with open(f"/proc/{pid}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            # A fork has its words. Without a guardian the parent is who takes orphans: the test run's own.
            if words_of(parent) == words_of(pid):
                os.kill(parent, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)

    def pids(self, job_id: str) -> list[int]:
        """The job's live processes, found by its mark."""
        return sorted(procs.members(job_id))

    def end_all(self) -> None:
        """End what is left of this server's jobs: supervisors and processes."""
        for job_id in self.jobs:
            with contextlib.suppress(OSError, ValueError, KeyError):
                started = self.read(job_id, "started.json")
                if procs.is_alive(started["supervisor_pid"], started["supervisor_ticks"]):
                    processes = procs.members(job_id, started["supervisor_pid"])
                    self.kill_supervisor(job_id, guardian=True)
                    procs.signal_all(processes, signal.SIGKILL)
            procs.signal_all(procs.members(job_id), signal.SIGKILL)


class Launch:
    """A launch over several served workdirs, on loopback, with surrogate children."""

    def __init__(self, servers: list[Served], **gang: Any) -> None:
        self.servers = servers
        self.launch_id = uuid.uuid4().hex
        self.ids = [uuid.uuid4().hex for _ in servers]
        gang.setdefault("addresses", ("127.0.0.1",) * len(servers))
        self.gang = GangSpec(
            address="127.0.0.1", port=free_port(), token=gang.pop("token", "t" * 32),
            nnodes=len(servers) - gang.get("spares", 0),
            servers=tuple(f"s{rank}" for rank in range(len(servers))), **gang,
        )

    def spec(self, rank: int, shell: str, **fields: Any) -> dict[str, Any]:
        return self.servers[rank].spec(
            shell, job_id=self.ids[rank], server=f"s{rank}", launch_id=self.launch_id, node_rank=rank,
            nnodes=self.gang.nnodes,
            **{"gang": self.gang, **fields},
        )

    def start(self, *shells: str, **fields: Any) -> None:
        for rank, shell in enumerate(shells):
            answer = self.servers[rank].call("start", spec=self.spec(rank, shell, **fields))
            assert answer.get("state") == "STARTED", answer

    def joined(self, count: int = 1) -> None:
        """Wait until ``count`` members have joined node 0; one may do so again."""
        until(lambda: self.logs(0).count(" joined\n") >= count, "the members join")

    def wait(self, rank: int, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        try:
            return self.servers[rank].wait(self.ids[rank], deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def logs(self, *ranks: int) -> str:
        """What the supervisors have said so far, those of all nodes or of some."""
        told = ranks or range(len(self.servers))
        return "\n".join(f"-- node {rank}\n{self.servers[rank].log(self.ids[rank])}" for rank in told)
