"""Break launches in every way that can be made for real on docker hosts, and measure what becomes of them.

    python benchmarks/faults.py                          every fault, three times each way; writes the table
    python benchmarks/faults.py --only worker kill-1     some of them
    python benchmarks/faults.py --keep --minutes 9       go on where the last call ended, for nine minutes

Two hosts (a third for spares) with two ranks each, real torchrun, gloo. Needs docker, ssh, rsync, root, and a
package index once. What it installs is kept under benchmarks/results/, as are the figures (faults.json).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a file

from benchmarks import fault_report  # noqa: E402
from benchmarks.fault_kinds import FAULTS  # noqa: E402
from benchmarks.fault_lab import running_lab  # noqa: E402
from benchmarks.fault_trial import Trial, make_trial  # noqa: E402
from benchmarks.measure import run  # noqa: E402
from tests.support.cli import rl_path  # noqa: E402
from tests.support.docker_image import DockerUnavailableError  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ", ".join(FAULTS)
    parser.add_argument("--only", nargs="+", metavar="FAULT", choices=FAULTS, help=f"of {names}")
    parser.add_argument("--mode", nargs="+", choices=["stop", "restart", "torchrun", "survive"])
    parser.add_argument("--runs", type=int, default=3, help="of every fault in every mode [default: 3]")
    parser.add_argument("--keep", action="store_true", help="keep earlier trials, make what lacks")
    parser.add_argument("--minutes", type=float, default=600, help="begin no trial after this time")
    parser.add_argument("--rl", type=Path, default=Path(rl_path()), help="what to measure")
    parser.add_argument("--torch", default="torch==2.13.0", help="as pip names it [default: %(default)s]")
    parser.add_argument("--folder", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--report", action="store_true", help="make no trial, write docs/reliability.md")
    return parser.parse_args()


def next_trial(trials: list[Trial], wanted: list[tuple[str, str]], runs: int) -> tuple[str, str] | None:
    """Return the fault and mode with the fewest trials; None when all have enough."""
    counts = {one: sum((trial["fault"], trial["mode"]) == one for trial in trials) for one in wanted}
    lacking = [one for one in wanted if counts[one] < runs]
    return min(lacking, key=lambda one: counts[one], default=None)


def conditions(rl: Path) -> dict[str, object]:
    return {
        "rl": run([str(rl), "--version"]).stdout.strip(), "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def make_trials(args: argparse.Namespace, told: dict[str, object], trials: list[Trial], path: Path) -> None:
    wanted = [
        (key, mode) for key, fault in FAULTS.items() for mode in fault.modes
        if (not args.only or key in args.only) and (not args.mode or mode in args.mode)
    ]
    until = time.monotonic() + 60 * args.minutes
    with running_lab(args.folder.resolve(), args.rl.resolve(), args.torch) as lab:
        while time.monotonic() < until and (one := next_trial(trials, wanted, args.runs)):
            print(f"{time.strftime('%H:%M:%S')} {one[0]} ({one[1]})", flush=True)
            try:
                trial = make_trial(lab, *one)
            except Exception as error:  # the table says how many
                traceback.print_exc()
                trial = {"fault": one[0], "mode": one[1], "error": str(error)[-2000:]}
            print(f"    {json.dumps(trial)}", flush=True)
            trials.append(trial)
            path.write_text(json.dumps({"conditions": told, "trials": trials}, indent=1) + "\n")


def main() -> int:
    args = parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / "faults.json"
    kept = json.loads(path.read_text()) if (args.keep or args.report) and path.exists() else {}
    trials, told = kept.get("trials", []), kept.get("conditions") or conditions(args.rl)
    if not args.report:
        try:
            make_trials(args, told, trials, path)
        except DockerUnavailableError as error:
            print(f"no trials: {error}", file=sys.stderr)
            return 1
    if args.report or not args.only:
        fault_report.write(ROOT / "docs" / "reliability.md", fault_report.markdown(told, trials))
    return 1 if any("error" in trial for trial in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
