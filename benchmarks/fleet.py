"""What `rl servers --check` and `rl job-list --rsync` take on many servers, with and without ssh masters.

    python benchmarks/fleet.py                       64 servers, 5 runs each
    python benchmarks/fleet.py --servers 16 --runs 3

The servers are unprivileged sshd daemons on 127.0.0.2, .3 …; no docker. Servers and `rl` share the machine's
cores: beside the seconds on the clock stand those of CPU, of `rl` with its ssh processes and of the servers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measure import run  # noqa: E402
from remote_launch.remote import owner, procs  # noqa: E402
from tests.support.cli import rl_path  # noqa: E402
from tests.support.sshd import SshdServer, descendants, end_masters, sshd_servers  # noqa: E402

COMMANDS = (("servers", "--check"), ("job-list", "--all", "--rsync"))
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--servers", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=5, help="that have ended, on each server")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="rl-fleet-") as name:
        folder = Path(name)
        os.environ["RL_CONTROL_DIR"] = control = f"{name}/c"
        (folder / "home").mkdir()
        try:
            # A home of their own; bash leaves out .bashrc where SHLVL is set.
            options = [f"SetEnv SHLVL=3 HOME={folder / 'home'}"]
            with sshd_servers(folder / "sshd", given.servers, sshd_options=options) as servers:
                project = _project(folder, servers, given.jobs)
                print(f"{given.servers} servers with {given.jobs} ended jobs each, {given.runs} runs, "
                      f"{os.cpu_count()} cores for all of it, load {load:.1f} before")  # fmt: skip
                _measure(project, servers, given.runs)
        finally:
            if Path(control).is_dir():
                end_masters(Path(control))


def _project(folder: Path, servers: Sequence[SshdServer], jobs: int) -> Path:
    entries = {
        server.name: {
            "hostname": server.name,
            "ssh_config": str(server.ssh_config),
            "workdir": str(folder / "work" / server.name),
        }
        for server in servers
    }
    (folder / "project" / ".remote").mkdir(parents=True)
    content = {"name": "fleet", "servers": entries, "environment": {"manager": "none"}}
    (folder / "project" / ".remote" / "configs.yaml").write_text(json.dumps(content))
    for server in servers:
        for number in range(jobs):
            _ended_job(folder / "work" / server.name, server.name, number)
    return folder / "project"


def _ended_job(workdir: Path, server: str, number: int) -> None:
    """Make the folder of a job that has run for a minute."""
    job = workdir / ".jobs" / uuid.uuid4().hex
    job.mkdir(parents=True)
    began, pid = time.time() - 3600 + number, os.getpid()
    spec = {"server": server, "command": "python train.py", "tags": ["fleet"], "created_at": began}
    (job / "spec.json").write_text(json.dumps(spec))
    started = {"supervisor_pid": pid, "supervisor_ticks": procs.start_ticks(pid), "started_at": began}
    (job / "started.json").write_text(json.dumps({**started, **owner.this_machine()}))
    (job / "exit.json").write_text(
        json.dumps({"state": "SUCCEEDED", "exit_code": 0, "ended_at": began + 60})
    )
    (job / "out.log").write_text("".join(f"step {step}\n" for step in range(1000)))


def _measure(project: Path, servers: Sequence[SshdServer], runs: int) -> None:
    for words in COMMANDS:  # sends the programs, brings the logs
        run([rl_path(), *words], cwd=project)
    print("\n| | ssh masters | median, s | fastest to slowest | CPU of rl, s | CPU of the servers, s |")
    print("|---|---|--:|--:|--:|--:|")
    for words in COMMANDS:
        _row(project, servers, words, "none yet", lambda: _disconnect(project), runs)
        _row(project, servers, words, "up", lambda: None, runs)
        _row(project, servers, words, "up, unused for a minute", _age, runs)
    print(f"\nload {os.getloadavg()[0]:.1f} after")


def _row(
    project: Path,
    servers: Sequence[SshdServer],
    words: Sequence[str],
    kind: str,
    before: Callable[[], object],
    runs: int,
) -> None:
    costs, at_servers = [], []
    for _ in range(runs):
        before()
        used = _cpu_s(servers)
        costs.append(run([rl_path(), *words], cwd=project))
        at_servers.append(_cpu_s(servers) - used)
    walls = sorted(cost.wall_s for cost in costs)
    cpu_s = statistics.median(cost.cpu_s for cost in costs)
    cells = [f"`{' '.join(words)}`", kind, f"{statistics.median(walls):.2f}"]
    cells += [f"{walls[0]:.2f} to {walls[-1]:.2f}", f"{cpu_s:.2f}", f"{statistics.median(at_servers):.2f}"]
    print(f"| {' | '.join(cells)} |", flush=True)


def _age() -> None:
    """Let the masters' last use be a minute ago: rl then asks each whether it still leads to its server."""
    for stamp in Path(os.environ["RL_CONTROL_DIR"]).glob("*.used"):
        os.utime(stamp, (time.time() - 60, time.time() - 60))


def _disconnect(project: Path) -> None:
    run([rl_path(), "disconnect"], cwd=project)


def _cpu_s(servers: Sequence[SshdServer]) -> float:
    """Seconds of CPU of the daemons and all they started, as far as these live or were waited for."""
    ticks = 0
    for server in servers:
        for pid in (server.pid, *descendants(server.pid)):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS


if __name__ == "__main__":
    main()
