"""How late ``rl job-tail --all-ranks`` shows a line after it was written, and how it copes with a 5 GB log.

    python benchmarks/follow.py                 8 servers x 8 ranks for 20 s, 2 lines a second and rank
    python benchmarks/follow.py --servers 2 --seconds 5

The servers are unprivileged sshd daemons on 127.0.0.2, .3 …; no docker. Every line holds the time at which
it was written; this program reads what ``rl`` prints. Writers, servers and ``rl`` share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from remote_launch.remote import owner, procs  # noqa: E402
from tests.support.cli import Rl, rl_path  # noqa: E402
from tests.support.sshd import SshdServer, end_masters, sshd_servers  # noqa: E402

# Writes to the logs of one server's ranks, in turn, until the time is up; then writes the job's end.
WRITER = """
import json, os, sys, time
folder, ranks, per_second, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
logs = []
for rank in range(ranks):
    path = os.path.join(folder, "ranks", "run_x", "attempt_0", str(rank))
    os.makedirs(path)
    logs.append(open(os.path.join(path, "stdout.log"), "w"))
began = time.time() + 3
turn = 0
while True:
    at = began + turn / (ranks * per_second)
    if at > began + seconds:
        break
    time.sleep(max(0, at - time.time()))
    logs[turn % ranks].write(f"{time.time():.6f} step {turn} of a training that says as much as this\\n")
    logs[turn % ranks].flush()
    turn += 1
with open(os.path.join(folder, "exit.new"), "w") as file:
    json.dump({"state": "SUCCEEDED", "exit_code": 0, "ended_at": time.time()}, file)
os.replace(os.path.join(folder, "exit.new"), os.path.join(folder, "exit.json"))
"""


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--servers", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=8, help="on each server")
    parser.add_argument("--per-second", type=float, default=2.0, help="lines a second and rank")
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rl-follow-") as name:
        folder = Path(name)
        os.environ["RL_CONTROL_DIR"] = control = f"{name}/c"
        try:
            with sshd_servers(folder / "sshd", given.servers) as servers:
                rl = _project(folder, servers)
                ids = [_job(folder, server, number, given.ranks) for number, server in enumerate(servers)]
                _measure_delay(rl, folder, ids, servers, given)
                _measure_large(rl, folder / servers[0].name / ".jobs" / ids[0], ids[0])
        finally:
            if Path(control).is_dir():
                end_masters(Path(control))


def _project(folder: Path, servers: list[SshdServer]) -> Rl:
    entries = {
        server.name: {
            "hostname": server.name,
            "ssh_config": str(server.ssh_config),
            "workdir": str(folder / server.name),
        }
        for server in servers
    }
    (folder / "project" / ".remote").mkdir(parents=True)
    content = {"name": "follow", "servers": entries, "environment": {"manager": "none"}}
    (folder / "project" / ".remote" / "configs.yaml").write_text(json.dumps(content))
    return Rl(folder / "project")


def _job(folder: Path, server: SshdServer, number: int, ranks: int) -> str:
    """Make the folder of a job that runs for as long as this program does."""
    job_id = uuid.uuid4().hex
    job = folder / server.name / ".jobs" / job_id
    job.mkdir(parents=True)
    spec = {
        "server": server.name, "command": "train.py", "torchrun": ["train.py"], "launch_id": "a" * 32,
        "node_rank": number, "tags": ["master"] if number == 0 else [], "first_rank": number * ranks,
        "nproc": ranks, "created_at": time.time(),
    }  # fmt: skip
    (job / "spec.json").write_text(json.dumps(spec))
    pid = os.getpid()
    started = {"supervisor_pid": pid, "supervisor_ticks": procs.start_ticks(pid), "started_at": time.time()}
    (job / "started.json").write_text(json.dumps({**started, **owner.this_machine()}))
    return job_id


def _measure_delay(
    rl: Rl, folder: Path, ids: list[str], servers: list[SshdServer], given: argparse.Namespace
) -> None:
    rl("job-list", "--rsync")  # connects, sends the programs, adopts the jobs
    words = [str(given.ranks), str(given.per_second), str(given.seconds)]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder / server.name / ".jobs" / job_id), *words]
        )
        for server, job_id in zip(servers, ids, strict=True)
    ]
    tail = subprocess.Popen(
        [rl_path(), "job-tail", "--all-ranks", "-n", "-1"], cwd=rl.project, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert tail.stdout is not None
    delays_ms = []
    while line := tail.stdout.readline():
        delays_ms.append((time.time() - float(line.partition("│ ".encode())[2].split()[0])) * 1000)
    _, _, used = os.wait4(tail.pid, 0)
    for writer in writers:
        writer.wait(30)
    expected = len(ids) * (int(given.ranks * given.per_second * given.seconds) + 1)
    delays_ms.sort()
    print(f"{len(ids)} servers x {given.ranks} ranks, {len(delays_ms)} lines in {given.seconds:g} s "
          f"({expected} were written), load {os.getloadavg()[0]:.1f}")  # fmt: skip
    middle, most = statistics.median(delays_ms), _percentile(delays_ms, 0.99)
    print(f"  delay: median {middle:.1f} ms, 99 % {most:.1f} ms, longest {delays_ms[-1]:.1f} ms")
    print(f"  CPU of rl: {(used.ru_utime + used.ru_stime) / given.seconds * 100:.1f} % of a core")


def _percentile(values: list[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))]


def _measure_large(rl: Rl, job: Path, job_id: str) -> None:
    """Tail a log of 5 GB, bring it, and bring what it has grown by."""
    log = job / "ranks" / "run_x" / "attempt_0" / "0" / "stdout.log"
    with log.open("wb") as file:
        file.seek(5 << 30)
        file.write(b"\n" + b"a line\n" * 1000)

    def seconds(*words: str) -> float:
        began = time.monotonic()
        rl(*words)
        return time.monotonic() - began

    took = [seconds("job-tail", "--no-follow") for _ in range(5)]
    print(f"a log of 5 GB: job-tail --no-follow {statistics.median(took):.2f} s")
    here = rl.project / ".remote" / "jobs" / job_id / log.relative_to(job)
    here.parent.mkdir(parents=True, exist_ok=True)
    with here.open("wb") as file:
        file.truncate(log.stat().st_size)  # as if it had been brought before
    (job / "exit.json").unlink()
    with log.open("ab") as file:
        file.write(b"new\n" * 1000)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    took_s = seconds("job-rsync")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    whole = here.stat().st_size == log.stat().st_size
    print(f"  4 kB more: job-rsync {took_s:.2f} s, {cpu_s:.2f} s of CPU; {'whole' if whole else 'NOT WHOLE'}")


if __name__ == "__main__":
    main()
