"""The tools that are compared, each in its own project: rl, labml_remote, and what people type by hand."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.hosts import SHARED, VENV
from benchmarks.measure import LIMIT_S, BenchmarkError, run
from tests.support.docker_hosts import USER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.hosts import Host, Lab

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [ROOT / "benchmarks" / "rank.py", ROOT / "benchmarks" / "allreduce.py"]
LABML_VERSION = "0.1.1"
# labml_remote's scripts source this file and activate an environment; here that is the one with torch.
FAKE_CONDA = f"conda() {{ PATH={VENV}/bin:$PATH; export PATH; }}\n"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The tools' own virtual environments on this machine."""

    rl: Path
    labml: Path


def install(folder: Path, rl: Path | None) -> Programs:
    """Install labml_remote from the index and, unless an rl is given, this checkout; each on its own."""
    labml = folder / "labml-venv"
    if not (labml / "bin" / "labml_remote").exists():
        _venv(labml, f"labml_remote=={LABML_VERSION}")
    if rl is None:
        # Made anew each time: what is measured is this checkout, installed as users install it.
        _venv(folder / "rl-venv", str(ROOT))
        rl = folder / "rl-venv" / "bin" / "rl"
    return Programs(rl=rl, labml=labml / "bin" / "labml_remote")


def _venv(path: Path, package: str) -> None:
    print(f"installing {package}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(path)], check=True)
    subprocess.run(
        [str(path / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", package], check=True
    )


def _new_project(folder: Path, name: str) -> Path:
    project = folder / "projects" / name
    shutil.rmtree(project, ignore_errors=True)
    (project / ".remote").mkdir(parents=True)
    for script in SCRIPTS:
        shutil.copy(script, project)
    return project


class Rl:
    """rl in a project of its own, with ``hosts`` as its servers."""

    def __init__(self, program: Path, folder: Path, lab: Lab, hosts: Sequence[Host], purpose: str) -> None:
        self.program, self.lab, self.hosts = program, lab, hosts
        name = f"bench_rl_{purpose}_{len(hosts)}"
        self.project = _new_project(folder, name)
        servers = {
            host.name: {
                "hostname": host.address,
                "username": USER,
                "private_key": str(lab.key),
                "ssh_config": str(lab.ssh_config),
            }
            for host in hosts
        }
        inventory = {
            "name": name,
            "servers": servers,
            "environment": {"manager": "none", "python": f"{VENV}/bin/python"},
        }
        (self.project / ".remote" / "configs.yaml").write_text(json.dumps(inventory))  # JSON is YAML
        self("prepare")

    def __call__(self, *words: str) -> Any:
        return run([str(self.program), *words], cwd=self.project, env={"RL_CONTROL_DIR": control_folder()})

    def start_launch(self, script: str, nproc: int, out: str) -> list[subprocess.Popen[bytes]]:
        words = ["torch-launch", "--nproc-per-node", str(nproc), "--env", f"BENCH_OUT={out}", script]
        return [spawn([str(self.program), *words], self.project, {"RL_CONTROL_DIR": control_folder()})]

    def warm(self) -> None:
        """Have the ssh masters up, as they are after any earlier command."""
        self("job-list", "--rsync")

    def disconnect(self) -> None:
        self("disconnect")

    def add_jobs(self, count: int) -> None:
        """Give every host ``count`` jobs, one of them running. Most are copies: rl adopts them."""
        for host in self.hosts:
            self(
                "job-run",
                "--server",
                host.name,
                "--",
                "sh",
                "-c",
                "for i in 1 2 3 4 5; do echo line $i; done",
            )
            self("job-run", "--server", host.name, "--", "sleep", "100000")
        jobs = json.loads(self("job-list", "--rsync", "--all", "--json").stdout)["data"]
        ended = {job["server"]: job for job in jobs if job["state"] == "SUCCEEDED"}
        for host in self.hosts:
            job = ended[host.name]
            host.exec(
                "\n".join(
                    [
                        f"cd ~/{self.project.name}/.jobs",
                        *(
                            f"cp -a {job['job_id']} {new} && sed -i s/{job['job_id']}/{new}/g {new}/*.json"
                            for new in (uuid.uuid4().hex for _ in range(count - 2))
                        ),
                    ]
                )
            )
        self("job-list", "--rsync")
        seen = json.loads(self("job-list", "--all", "--json").stdout)["data"]
        if len(seen) != count * len(self.hosts):
            raise BenchmarkError(f"rl lists {len(seen)} jobs, not {count * len(self.hosts)}")


class Labml:
    """labml_remote in its own project. Its ``setup`` would download conda: what it makes is made here."""

    def __init__(self, program: Path, folder: Path, lab: Lab, hosts: Sequence[Host], purpose: str) -> None:
        self.program, self.lab, self.hosts = program, lab, hosts
        self.name = f"bench_labml_{purpose}_{len(hosts)}"
        self.project = _new_project(folder, self.name)
        servers = {
            host.name: {"hostname": host.address, "username": USER, "private_key": str(lab.key)}
            for host in hosts
        }
        (self.project / ".remote" / "configs.yaml").write_text(
            json.dumps({"name": self.name, "servers": servers})
        )
        (self.project / ".remote" / "exclude.txt").write_text(".remote\n.jobs\n")
        for host in hosts:
            host.exec(
                f"mkdir -p ~/{self.name}/.remote-scripts ~/{self.name}/.jobs ~/miniconda/etc/profile.d\n"
                f"cat > ~/miniconda/etc/profile.d/conda.sh <<'END'\n{FAKE_CONDA}END\n"
            )
        self.bin = _ssh_wrapper(folder, lab)
        self("rsync")

    def _env(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}:{os.environ['PATH']}"}

    def __call__(self, *words: str) -> Any:
        return run([str(self.program), *words], cwd=self.project, env=self._env())

    def start_launch(self, script: str, nproc: int, out: str) -> list[subprocess.Popen[bytes]]:
        # Its registry grows with each launch, and every command of it reads all of that: start from nothing.
        shutil.rmtree(self.project / ".remote" / "jobs", ignore_errors=True)
        words = [
            "helper-torch-launch",
            "--cmd",
            script,
            "--nproc-per-node",
            str(nproc),
            "--use-env",
            "--env",
            "BENCH_OUT",
            out,
        ]
        return [spawn([str(self.program), *words], self.project, self._env())]

    def add_jobs(self, count: int) -> None:
        """Give every host ``count`` jobs, one of them running: the files that labml_remote would write."""
        key = 0
        for host in self.hosts:
            script = [f"cd ~/{self.name}/.jobs"]
            for number in range(count):
                key += 1
                job_id = uuid.uuid4().hex
                record = {
                    "job_id": job_id,
                    "job_key": str(key),
                    "server": host.name,
                    "command": "sh lines.sh",
                    "env_vars": {},
                    "tags": ["custom"],
                    "pid": 4000 + number,
                    "exit_code": 0,
                    "started": True,
                    "stopped": number > 0,
                }
                local = self.project / ".remote" / "jobs" / job_id
                local.mkdir(parents=True)
                (local / "job.yaml").write_text(
                    "".join(f"{name}: {json.dumps(value)}\n" for name, value in record.items())
                )
                script.append(
                    f"mkdir {job_id}; cd {job_id}; seq 5 > job.out; : > job.err; echo 4000 > job.pid; cd .."
                )
                if number > 0:
                    script.append(f": > {job_id}/stopped")
            host.exec("\n".join(script))
        self("job-list", "--rsync")
        listed = self("job-list").stdout.count("sh lines.sh")
        if listed != len(self.hosts):
            raise BenchmarkError(f"labml_remote lists {listed} running jobs, not {len(self.hosts)}")


class ByHand:
    """What people type: ``ssh host torchrun …`` for every node at once, with or without ssh masters."""

    def __init__(self, folder: Path, lab: Lab, hosts: Sequence[Host], *, masters: bool) -> None:
        self.lab, self.hosts = lab, hosts
        self.sockets = Path(control_folder()) if masters else None
        self.name = "bench_hand"
        self.project = _new_project(folder, self.name)
        for host in hosts:
            run(
                [
                    "rsync",
                    "-a",
                    "-e",
                    shlex.join(self._ssh(host)),
                    f"{self.project}/",
                    f"{host.address}:{self.name}/",
                ]
            )

    def open_masters(self) -> None:
        for host in self.hosts:
            run(
                [
                    *self._ssh(host),
                    "-o",
                    "ControlMaster=auto",
                    "-o",
                    "ControlPersist=600",
                    host.address,
                    "true",
                ]
            )

    def command(self, host: Host, command: str) -> list[str]:
        return [*self._ssh(host), host.address, command]

    def start_launch(self, script: str, nproc: int, out: str) -> list[subprocess.Popen[bytes]]:
        processes = []
        for rank, host in enumerate(self.hosts):
            torchrun = (
                f"cd {self.name} && BENCH_OUT={out} {VENV}/bin/torchrun "
                f"--nnodes {len(self.hosts)} --node-rank {rank} "
                f"--nproc-per-node {nproc} --master-addr {self.hosts[0].address} --master-port 29500 {script}"
            )
            processes.append(spawn(self.command(host, torchrun), self.project, {}))
        return processes

    def _ssh(self, host: Host) -> list[str]:
        path = [] if self.sockets is None else ["-S", str(self.sockets / f"hand-{host.name}")]
        return ["ssh", "-F", str(self.lab.ssh_config), *path]


def spawn(argv: list[str], cwd: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command; its output goes to a file in ``cwd``, for when it fails."""
    with (cwd / "said.log").open("ab") as log:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def launch(tool: Rl | Labml | ByHand, lab: Lab, script: str, nproc: int) -> dict[str, float]:
    """Launch a script on all hosts of a tool and wait until everything has ended.

    Returns the seconds until the last rank had begun, and until the prompt was back.
    """
    world_size = nproc * len(tool.hosts)
    out = lab.shared / "out" / uuid.uuid4().hex
    out.mkdir()
    out.chmod(0o777)
    started = time.time()
    processes = tool.start_launch(script, nproc, f"{SHARED}/out/{out.name}")
    deadline = time.monotonic() + LIMIT_S
    prompt_s: float | None = None
    try:
        while True:
            ranks = [path for path in out.iterdir() if path.suffix != ".tmp"]
            if prompt_s is None and all(process.poll() is not None for process in processes):
                prompt_s = time.time() - started
                # gloo can abort in its teardown: once every rank has told its time, that is of no matter here
                if any(process.returncode for process in processes) and len(ranks) < world_size:
                    raise BenchmarkError(f"the launch failed:\n{_last_words(tool.project)}")
            if len(ranks) == world_size and prompt_s is not None:
                break
            if time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{len(ranks)} of {world_size} ranks began in {LIMIT_S} s:\n{_last_words(tool.project)}"
                )
            time.sleep(0.005)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
    last = max(float(path.read_text()) for path in ranks)
    shutil.rmtree(out)
    lab.wait_until_idle()
    found = {"ranks_s": last - started}
    if not isinstance(tool, ByHand):  # typed by hand, torchrun stays in the foreground
        found["prompt_s"] = prompt_s
    return found


def close_masters() -> None:
    """End every ssh master that was opened here, rl's and those by hand."""
    folder = Path(control_folder())
    for socket in folder.iterdir():
        if socket.is_socket():
            subprocess.run(
                ["ssh", "-F", "none", "-S", str(socket), "-O", "exit", "master"], capture_output=True
            )
    shutil.rmtree(folder)


def control_folder() -> str:
    """Return the folder of this run's ssh sockets: short, since a socket's path holds 104 bytes."""
    path = Path(f"/tmp/rl-bench-{os.getpid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    return str(path)


def _ssh_wrapper(folder: Path, lab: Lab) -> Path:
    """Return a folder for PATH whose ssh reads the benchmark's configuration: labml_remote can't be told."""
    path = folder / "bin"
    path.mkdir(exist_ok=True)
    (path / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {lab.ssh_config} "$@"\n')
    (path / "ssh").chmod(0o755)
    return path


def _last_words(project: Path) -> str:
    return (project / "said.log").read_text(errors="replace")[-2000:]
