"""Measure rl beside labml_remote and beside what people type by hand: same hosts, same run, taking turns.

    python benchmarks/run.py                          everything, five runs each; writes benchmarks/README.md
    python benchmarks/run.py --only list --runs 2     one part, printed only (--write: its table is renewed)

Needs docker (see tests/support/docker_image.py), ssh, rsync, and a package index once. What it installs is
kept under benchmarks/results/; the containers, ssh masters and jobs that it starts are ended with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(
    0, str(ROOT)
)  # started as a file: the tests' support and this folder's modules are found from the root

from benchmarks import report  # noqa: E402
from benchmarks.hosts import VENV, Lab, running_lab  # noqa: E402
from benchmarks.measure import BenchmarkError, run, take_turns  # noqa: E402
from benchmarks.prepare import Preparation  # noqa: E402
from benchmarks.tools import ByHand, Labml, Programs, Rl, close_masters, install, launch  # noqa: E402
from tests.support.docker_image import DockerUnavailableError  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Values = dict[str, dict[str, list[float]]]  # {tool: {what was measured: values}}
JOBS_EACH = 50


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What every part needs."""

    lab: Lab
    programs: Programs
    folder: Path
    runs: int

    def rl(self, count: int, purpose: str) -> Rl:
        return Rl(self.programs.rl, self.folder, self.lab, self.lab.hosts[:count], purpose)

    def labml(self, count: int, purpose: str) -> Labml:
        return Labml(self.programs.labml, self.folder, self.lab, self.lab.hosts[:count], purpose)

    def by_hand(self, count: int, *, masters: bool) -> ByHand:
        return ByHand(self.folder, self.lab, self.lab.hosts[:count], masters=masters)


def measure_launch(setting: Setting, nnodes: int, nproc: int, script: str, runs: int) -> Values:
    """Seconds until the last rank has begun (allreduce.py: has reduced), and until the prompt is back."""
    lab = setting.lab
    rl, labml = setting.rl(nnodes, "launch"), setting.labml(nnodes, "launch")
    plain, over_masters = setting.by_hand(nnodes, masters=False), setting.by_hand(nnodes, masters=True)
    over_masters.open_masters()

    def warm() -> Mapping[str, float]:
        rl.warm()
        return launch(rl, lab, script, nproc)

    def cold() -> Mapping[str, float]:
        rl.disconnect()
        return launch(rl, lab, script, nproc)

    tools: dict[str, Callable[[], Mapping[str, float]]] = {
        report.RL: warm,
        report.LABML: lambda: launch(labml, lab, script, nproc),
        report.HAND: lambda: launch(plain, lab, script, nproc),
        report.HAND_MASTERS: lambda: launch(over_masters, lab, script, nproc),
    }
    if script == "rank.py":
        tools[report.RL_COLD] = cold
    launch(over_masters, lab, script, nproc)  # torch's files are in the page cache from here on
    return take_turns(tools, runs)


def measure_list(setting: Setting, count: int) -> Values:
    """Seconds of ``job-list --rsync``: 50 jobs on every host, one of them running, nothing new."""
    rl, labml = setting.rl(count, "list"), setting.labml(count, "list")
    rl.add_jobs(JOBS_EACH)
    labml.add_jobs(JOBS_EACH)
    tools = {
        report.RL: lambda: {"wall_s": rl("job-list", "--rsync").wall_s},
        report.LABML: lambda: {"wall_s": labml("job-list", "--rsync").wall_s},
    }
    return take_turns(tools, setting.runs)


def measure_help(setting: Setting) -> Values:
    """Seconds of CPU of ``--help``, in a folder that is no project. torchrun's is measured in a container."""
    host, folder = setting.lab.hosts[0], setting.folder / "empty"
    folder.mkdir(exist_ok=True)
    count_cpu = (
        f"import resource as r, subprocess as s; s.run(['{VENV}/bin/torchrun', '--help'], stdout=s.DEVNULL); "
        "u = r.getrusage(r.RUSAGE_CHILDREN); print(u.ru_utime + u.ru_stime)"
    )
    tools = {
        report.RL: lambda: {"cpu_s": run([str(setting.programs.rl), "--help"], cwd=folder).cpu_s},
        report.LABML: lambda: {"cpu_s": run([str(setting.programs.labml), "--help"], cwd=folder).cpu_s},
        report.TORCHRUN: lambda: {"cpu_s": float(host.exec(f'python3 -c "{count_cpu}"'))},
    }
    for tool in tools.values():
        tool()
    return take_turns(tools, 2 * setting.runs)


def measure_prepare(setting: Setting, count: int) -> Values:
    """Seconds until servers that have nothing are ready, and of the next ``prepare``, with nothing to do."""
    lab = setting.lab
    preparation = Preparation(setting.folder, lab, lab.hosts[:count], setting.programs.rl)
    tools = {
        report.RL: lambda: preparation.by_rl("venv"),
        report.RL_UV: lambda: preparation.by_rl("uv"),
        report.ONE_BY_ONE: preparation.by_hand,
    }
    return take_turns(tools, max(2, setting.runs // 2))


def measure_run(setting: Setting) -> Values:
    """Seconds of one command on one server: ``true``."""
    rl, labml = setting.rl(2, "run"), setting.labml(2, "run")
    plain, over_masters = setting.by_hand(1, masters=False), setting.by_hand(1, masters=True)
    over_masters.open_masters()
    host = setting.lab.hosts[0]
    tools = {
        report.RL: lambda: {"wall_s": rl("run", "--server", host.name, "--", "true").wall_s},
        report.LABML: lambda: {"wall_s": labml("run", "--server", host.name, "--cmd", "true").wall_s},
        report.HAND: lambda: {"wall_s": run(plain.command(host, "true")).wall_s},
        report.HAND_MASTERS: lambda: {"wall_s": run(over_masters.command(host, "true")).wall_s},
    }
    return take_turns(tools, 2 * setting.runs)


def parts(hosts: int) -> dict[str, Callable[[Setting], Values]]:
    """Return the parts by name, in their order; those that need more hosts than there are left out."""
    found: dict[str, tuple[int, Callable[[Setting], Values]]] = {
        "help": (1, measure_help),
        "run": (2, measure_run),
        "prepare-1": (1, lambda setting: measure_prepare(setting, 1)),
        "prepare-4": (4, lambda setting: measure_prepare(setting, 4)),
        "prepare-8": (8, lambda setting: measure_prepare(setting, 8)),
        "launch-2x2": (2, lambda setting: measure_launch(setting, 2, 2, "rank.py", setting.runs)),
        "launch-4x2": (4, lambda setting: measure_launch(setting, 4, 2, "rank.py", setting.runs)),
        "allreduce-2x2": (2, lambda setting: measure_launch(setting, 2, 2, "allreduce.py", setting.runs)),
        "list-2": (2, lambda setting: measure_list(setting, 2)),
        "list-16": (16, lambda setting: measure_list(setting, 16)),
    }
    return {name: part for name, (needed, part) in found.items() if needed <= hosts}


def conditions(setting: Setting) -> dict[str, object]:
    """Return what the figures depend on."""
    torch = (
        setting.lab.hosts[0].exec(f"{VENV}/bin/python -c 'import torch; print(torch.__version__)'").strip()
    )
    return {
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch,
        "rl": run([str(setting.programs.rl), "--version"]).stdout.strip(),
        "runs": setting.runs,
        "hosts": len(setting.lab.hosts),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of every tool in every part [default: 5]")
    parser.add_argument("--hosts", type=int, default=16, help="how many containers to start [default: 16]")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PART",
        help=f"of {', '.join(parts(99))}; the beginning of a name will do",
    )
    parser.add_argument("--rl", type=Path, help="the rl to measure [default: this checkout, installed anew]")
    parser.add_argument(
        "--torch", default="torch==2.13.0", help="for the hosts, as pip names it [default: %(default)s]"
    )
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "benchmarks" / "results", help="keeps environments and results"
    )
    parser.add_argument(
        "--write", action="store_true", help="with --only: write these parts' tables into the README"
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    chosen = {
        name: part
        for name, part in parts(args.hosts).items()
        if not args.only or any(name.startswith(word) for word in args.only)
    }
    if not chosen:
        print(f"no such part; there are: {', '.join(parts(args.hosts))}", file=sys.stderr)
        return 2
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    try:
        programs = install(folder, args.rl)
        with running_lab(folder, args.hosts, args.torch) as lab:
            setting = Setting(lab=lab, programs=programs, folder=folder, runs=args.runs)
            results: dict[str, object] = {"conditions": conditions(setting)}
            try:
                for name, part in chosen.items():
                    print(f"{name}:", flush=True)
                    try:
                        results[name] = part(setting)
                    except BenchmarkError as error:
                        print(f"{name}: {error}", file=sys.stderr)
                        failed = True
            finally:
                close_masters()
    except DockerUnavailableError as error:
        print(f"no benchmarks: {error}", file=sys.stderr)
        return 1
    (folder / f"{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.markdown(results)
    print(text)
    if args.write or (not args.only and not failed):
        report.write(ROOT / "benchmarks" / "README.md", text, keep=bool(args.only) or failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
