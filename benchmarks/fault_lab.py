"""The docker hosts that faults are made on, a project of theirs, and plain torchrun beside it.

The hosts share a folder with this machine that holds the environment with torch, made once (see ``hosts``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.hosts import SHARED, VENV, Host, make_environment
from tests.support.cli import Rl
from tests.support.docker_hosts import (
    COMPOSE_FILE,
    USER,
    Cluster,
    free_subnet,
    remove_leftovers,
    write_inventory,
    write_override,
)
from tests.support.docker_image import build_host_image, compose_command, running_daemon
from tests.support.faults import NPROC, SCRIPT, Launch, write_script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.docker_hosts import DockerHost

SMALL = "/small/steps"  # a workdir on a disk of 24 MB
PORT = 29_555
CLOCK = f"/home/{USER}/clock"  # by how many seconds it is off
CLOCK_PYTHON = f"/home/{USER}/clock-python3"
# -I -S ARCHIVE VERB, as rl calls an interpreter.
SHIFTED_PYTHON = f"""#!/usr/bin/python3 -IS
import runpy, sys, time
real = time.time
def shifted():
    with open("{CLOCK}") as file:
        return real() + float(file.read() or 0)
time.time = shifted
sys.argv = sys.argv[3:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class MeasuredRl(Rl):
    """``program`` in place of the interpreter's own rl: what is measured may be another checkout's."""

    def __init__(self, project: Path, program: Path, control: Path) -> None:
        path = f"{program.parent}:{os.environ['PATH']}"
        super().__init__(project, {"RL_CONTROL_DIR": str(control), "PATH": path})
        self.program = program

    def __call__(
        self, *words: str, code: int | None = 0, stdin: str = "", timeout_s: float = 240
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.program), *words], cwd=self.project, env=self.env, input=stdin, capture_output=True,
            text=True, timeout=timeout_s,
        )
        if code is not None and done.returncode != code:
            raise AssertionError(f"rl {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    cluster: Cluster
    hosts: list[DockerHost]  # the third is for spares
    rls: dict[str, MeasuredRl]  # by the project's name

    def workdirs(self, project: str) -> list[str]:
        own = f"/home/{USER}/{project}"
        return [own, SMALL if project == "faults_small" else own, own]


@contextlib.contextmanager
def running_lab(folder: Path, program: Path, torch: str) -> Iterator[Lab]:
    """For the length of a ``with``: three hosts, prepared. What was started ends with it."""
    shared = folder / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    work = folder / f"cluster-{os.getpid()}"
    work.mkdir()
    control = _short_folder()
    with running_daemon():
        remove_leftovers()
        override = work / "override.json"
        volumes = [f"{shared}:{SHARED}"]
        write_override(override, image=build_host_image(), subnet=free_subnet(), volumes=volumes)
        project = f"remote-launch-faults-{os.getpid()}"
        files = ["-f", str(COMPOSE_FILE), "-f", str(override), "-p", project]

        def compose(words: str) -> None:
            argv = [*compose_command().split(), *files, *words.split()]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)

        try:
            cluster = Cluster(project=project, compose=compose, folder=work)
            hosts = cluster.hosts(3)
            first = Host(name=hosts[0].name, address=hosts[0].address, container=hosts[0].container)
            make_environment(first, shared, torch)
            rls = _projects(work / "projects", hosts, program, control)
            yield Lab(cluster=cluster, hosts=hosts, rls=rls)
            for rl in rls.values():
                rl("disconnect", code=None)
        finally:
            with contextlib.suppress(Exception):
                compose("kill")
            remove_leftovers(of_pid=os.getpid())
            for made in (work, control):
                shutil.rmtree(made, ignore_errors=True)


def _short_folder() -> Path:
    """Return a folder for ssh's sockets, whose paths hold 104 bytes."""
    path = Path(f"/tmp/rl-faults-{os.getpid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _projects(
    folder: Path, hosts: list[DockerHost], program: Path, control: Path
) -> dict[str, MeasuredRl]:
    """Return a plain project, one whose second server's workdir is on a small disk, and one where rl's
    programs on that server have a clock that can be set."""
    made = {}
    environment = {"manager": "none", "python": f"{VENV}/bin/python"}
    hosts[1].write(CLOCK, "0")
    hosts[1].write(CLOCK_PYTHON, SHIFTED_PYTHON)
    hosts[1].exec(f"chmod +x {CLOCK_PYTHON}")
    entries = {"faults": {}, "faults_small": {"workdir": SMALL}, "faults_clock": {"python": CLOCK_PYTHON}}
    for name, entry in entries.items():
        project = folder / name
        write_inventory(project, hosts, name=name, environment=environment, servers={hosts[1].name: entry})
        write_script(project)
        made[name] = MeasuredRl(project, program, control)
        made[name]("prepare")
    return made


def start_torchrun(hosts: Sequence[DockerHost], steps: int) -> Launch:
    """Start the script under plain torchrun, with restarts of its own, and wait until it trains."""
    out = f"/home/{USER}/out/{uuid.uuid4().hex[:8]}"
    torchrun = [
        f"{VENV}/bin/torchrun", "--nnodes", str(len(hosts)), "--nproc-per-node", str(NPROC),
        "--max-restarts", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts[0].address}:{PORT}",
        "--rdzv-id", uuid.uuid4().hex, SCRIPT, str(steps), out,
    ]
    for host in hosts:
        # By another name once the cable was out.
        interface = host.exec(f"ip -o -4 addr show to {host.address}").split()[1]
        env = f"GLOO_SOCKET_IFNAME={interface} OMP_NUM_THREADS=1"
        command = f"cd faults && {env} setsid {shlex.join(torchrun)}"
        host.exec(f"cd ~ && ({command} > /tmp/torchrun.log 2>&1 &) < /dev/null", user=USER)
        time.sleep(0.1)
    launch = Launch(hosts=hosts, out=out)
    launch.wait_for_steps(5)
    return launch
