"""Many jobs on few slots of several servers, while kill -9 strikes supervisors, guardians and workers: what
must hold of the queue is checked by the jobs themselves and from what they leave."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import secrets
import signal
import time
from typing import TYPE_CHECKING, Any

import yaml

from remote_launch.core.job_specs import GangSpec, JobSpec, QueueSpec
from remote_launch.core.jobs import new_id, now
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.kill import kill_jobs
from remote_launch.operations.refresh import refresh
from remote_launch.operations.start import record_of, start_jobs
from remote_launch.operations.sync import plan_sync, sync
from remote_launch.remote import procs
from remote_launch.remote.jobdir import read_or_empty
from tests.support.ports import free_port
from tests.support.served import words_of

if TYPE_CHECKING:
    from pathlib import Path

# Each slot has a file that its job locks for itself: who finds it locked shares the slot with another.
BODY = """
echo "$RL_JOB_ID" >> "$SCENE/ran"
n=5
for slot in $(echo "$RL_SLOTS" | tr , ' '); do
  eval "exec $n>>\\"$SCENE/$SERVER-$slot\\""
  flock -n $n || echo "$RL_JOB_ID: $SERVER slot $slot" >> "$SCENE/shared"
  n=$((n+1))
done
sleep "$1"
"""
WAYS = (
    "supervisor, queued", "supervisor, running", "supervisor and guardian, running", "guardian, any",
    "worker, running", "rl job-kill, queued",
)
HARMLESS = ("guardian, any",)


class Chaos:
    """A project with local servers whose slots are apart, the jobs, and who strikes them."""

    def __init__(self, folder: Path, *, servers: int = 3, slots: int = 4, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.scene = folder / "scene"
        self.scene.mkdir(parents=True)
        self.names = [f"s{number}" for number in range(servers)]
        self.slots = slots
        self.workdirs = {name: folder / "work" / name for name in self.names}
        entries = {
            name: {
                "connection": "local", "workdir": str(path), "slots": slots,
                "env": {
                    "RL_SLOTS_DIR": str(folder / "slots" / name), "SCENE": str(self.scene), "SERVER": name,
                },
            }
            for name, path in self.workdirs.items()
        }  # fmt: skip
        project = folder / "project"
        (project / ".remote").mkdir(parents=True)
        text = yaml.safe_dump({"name": "chaos", "servers": entries, "environment": {"manager": "none"}})
        (project / ".remote" / "configs.yaml").write_text(text)
        self.fleet = Fleet.load(str(project))
        sync(self.fleet, self.fleet.select(), plan_sync(self.fleet)).raise_on_error()
        self.specs: dict[str, JobSpec] = {}
        self.struck: dict[str, list[str]] = collections.defaultdict(list)
        self.most_waiting = 0

    def close(self) -> None:
        """End what still runs."""
        for job_id in self.specs:
            started = self.started(job_id)
            if started.get("supervisor_pid"):
                for pid in (self.guardian(started), started["supervisor_pid"]):
                    if pid and procs.is_alive(started["supervisor_pid"], started["supervisor_ticks"]):
                        procs.send(pid, signal.SIGKILL)
            procs.signal_all(procs.members(job_id), signal.SIGKILL)
        self.fleet.close()

    # -- the jobs

    def submit(self, lengths_s: tuple[float, float], *, gang: bool = False) -> None:
        """Start a job on each server, or one launch over two of them."""
        names = self.random.sample(self.names, 2) if gang else self.names
        specs = [self._spec(name, lengths_s) for name in names]
        if gang:
            link = GangSpec(
                address="127.0.0.1", port=free_port(), token=secrets.token_hex(32), nnodes=len(names),
                servers=tuple(names),
            )  # fmt: skip
            launch = {"launch_id": new_id(), "gang": link, "nnodes": len(names)}
            specs = [
                JobSpec(**{**_fields(spec), **launch, "node_rank": rank}) for rank, spec in enumerate(specs)
            ]
        self.specs.update({spec.job_id: spec for spec in specs})
        records = self.fleet.registry.add([record_of(spec) for spec in specs])
        start_jobs(self.fleet, specs, records).raise_on_error()

    def _spec(self, name: str, lengths_s: tuple[float, float]) -> JobSpec:
        need = self.random.choices((1, 2, self.slots), (6, 3, 1))[0]
        words = ("sh", "-c", BODY, "sh", f"{self.random.uniform(*lengths_s):.2f}")
        server = self.fleet.server(name)
        return JobSpec(
            job_id=new_id(), server=name, workdir=server.workdir, argv=words, command="body",
            env=dict(server.env), queue=QueueSpec(need=min(need, self.slots), slots=self.slots), grace_s=2.0,
            created_at=now(),
        )  # fmt: skip

    def started(self, job_id: str) -> dict[str, Any]:
        folder = self.workdirs[self.specs[job_id].server] / ".jobs" / job_id
        return read_or_empty(str(folder / "started.json"))

    def ended(self, job_id: str) -> bool:
        """Whether the job has an end, or nobody who could write one."""
        folder = self.workdirs[self.specs[job_id].server] / ".jobs" / job_id
        if (folder / "exit.json").exists():
            return True
        started = self.started(job_id)
        alive = procs.is_alive(started.get("supervisor_pid", 0), started.get("supervisor_ticks", -1))
        return any("guardian" in way for way in self.struck.get(job_id, ())) and not alive

    # -- who strikes

    def strike(self) -> str | None:
        """Kill something of one job; return the way, None where there was nothing of the kind."""
        way = self.random.choice(WAYS)
        kind = way.rpartition(", ")[2]
        alive = [job_id for job_id in list(self.specs) if not self.ended(job_id)]
        records = {job_id: started for job_id in alive if (started := self.started(job_id))}
        waiting = [job_id for job_id, started in records.items() if started.get("queued")]
        self.most_waiting = max(self.most_waiting, len(waiting))
        running = [job_id for job_id in records if records[job_id].get("child_pid")]
        victims = {"queued": waiting, "running": running, "any": list(records)}[kind]
        if not victims:
            return None
        victim = self.random.choice(victims)
        started = records[victim]
        self.struck[victim].append(way)
        if way.startswith("rl job-kill"):
            kill_jobs(self.fleet, [self.fleet.registry.get(victim)], grace_s=2.0)
            return way
        if "guardian" in way and (guardian := self.guardian(started)):
            procs.send(guardian, signal.SIGKILL)
        if "supervisor" in way:
            procs.send(started["supervisor_pid"], signal.SIGKILL)
        if way.startswith("worker"):
            procs.send(started["child_pid"], signal.SIGKILL)
        return way

    def guardian(self, started: dict[str, Any]) -> int | None:
        pid = started["supervisor_pid"]
        with contextlib.suppress(OSError):
            parent = int(procs._stat(pid)[1])
            if words_of(parent) == words_of(pid):  # a fork has its words
                return parent
        return None

    def wait(self, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        while not all(self.ended(job_id) for job_id in self.specs):
            left = [job_id for job_id in list(self.specs) if not self.ended(job_id)]
            assert time.monotonic() < end, f"{len(left)} jobs have not ended: {left[:5]}, {self.scene}"
            time.sleep(0.1)

    # -- what must hold

    def check(self) -> dict[str, Any]:
        """Check that no slot was shared, no job lost or run twice, and that the order was kept; return
        figures."""
        shared = self.scene / "shared"
        assert not shared.exists(), shared.read_text()
        refresh(self.fleet).raise_on_error()
        runs = collections.Counter((self.scene / "ran").read_text().split())
        assert max(runs.values()) == 1, [job for job, count in runs.items() if count > 1]
        launches = collections.defaultdict(list)
        states: collections.Counter[str] = collections.Counter()
        for job_id, spec in self.specs.items():
            launches[spec.launch_id or job_id].append(job_id)
        for jobs in launches.values():
            hurt = [way for job in jobs for way in self.struck.get(job, ()) if way not in HARMLESS]
            for job_id in jobs:
                record = self.fleet.registry.get(job_id)
                states[record.state.value] += 1
                assert record.state.is_terminal, (job_id, record.state)
                if not hurt:
                    assert record.state.value == "SUCCEEDED", (job_id, record.state, record.reason)
                    assert runs[job_id] == 1, job_id
                if record.state.value == "SUCCEEDED":
                    assert runs[job_id] == 1, job_id
        self._check_order()
        ways = collections.Counter(way for one in self.struck.values() for way in one)
        return {
            "jobs": len(self.specs), "states": dict(states), "strikes": dict(ways),
            "most_waiting": self.most_waiting,
        }

    def _check_order(self) -> None:
        """Slots were taken in the order of the tickets, and those were had in the order of the starts."""
        for name in self.names:
            taken = []
            alone = []
            for job_id, spec in self.specs.items():
                started = self.started(job_id)
                if spec.server == name and started.get("taken_at"):
                    taken.append((started["ticket"], started["taken_at"]))
                    if spec.gang is None:
                        alone.append(started["ticket"])
            times = [at for _, at in sorted(taken)]
            assert times == sorted(times), f"{name}: slots were not taken in the order of the tickets"
            assert alone == sorted(alone), f"{name}: tickets were not had in the order of the starts"
            assert os.listdir(self.fleet.server(name).env["RL_SLOTS_DIR"])


def _fields(spec: JobSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}
