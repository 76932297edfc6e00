"""200 jobs on 4 slots of each of 3 servers (local ones with slots apart), kill -9 at random: is a slot ever
shared, a job lost, the order broken? Prints figures.

    python benchmarks/queue_chaos.py --jobs 200 --strikes 60 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.queue_chaos import Chaos

LOOK_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--strikes", type=int, default=60)
    parser.add_argument("--gangs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shortest", type=float, default=0.5)
    parser.add_argument("--longest", type=float, default=4.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rl-queue-") as folder:
        chaos = Chaos(Path(folder), slots=args.slots, seed=args.seed)
        try:
            print(json.dumps(run(chaos, args), indent=2))
        finally:
            chaos.close()


def run(chaos: Chaos, args: argparse.Namespace) -> dict[str, object]:
    """Submit the jobs, striking meanwhile; return figures. Raises AssertionError where something is wrong."""
    began = time.monotonic()
    stop = threading.Event()
    left = args.strikes
    failures: list[BaseException] = []

    def strike() -> None:
        nonlocal left
        try:
            while left and not stop.is_set():
                left -= chaos.strike() is not None
                stop.wait(chaos.random.uniform(0.1, 1.2))
        except BaseException as error:
            failures.append(error)

    gangs = args.gangs
    rounds = (args.jobs - 2 * gangs) // 3
    thread = threading.Thread(target=strike)
    idle_share = None
    for number in range(rounds):
        chaos.submit((args.shortest, args.longest))
        if gangs and number % max(1, rounds // args.gangs) == 0:
            chaos.submit((args.shortest, args.longest), gang=True)
            gangs -= 1
        if number == 3:
            thread.start()
    submitted_s = time.monotonic() - began
    idle_share = waiting_cost(chaos)
    chaos.wait(1800)
    stop.set()
    thread.join()
    if failures:
        raise failures[0]
    figures = chaos.check()
    return {
        **figures, "slot_shared": 0, "submitted_s": round(submitted_s, 1),
        "all_s": round(time.monotonic() - began, 1), **idle_share,
    }


def waiting_cost(chaos: Chaos) -> dict[str, float]:
    """Return how many jobs wait, and how much of one core they take together."""
    waiting = [job for job in chaos.specs if not chaos.ended(job) and chaos.started(job).get("queued")]
    pids = [chaos.started(job)["supervisor_pid"] for job in waiting]
    before = {pid: cpu_s(pid) for pid in pids}
    time.sleep(LOOK_S)
    after = {pid: cpu_s(pid) for pid in pids}
    used = [after[pid] - before[pid] for pid in pids if after[pid] and before[pid]]
    return {"waiting": len(used), "core_percent_of_all_waiting": round(100 * sum(used) / LOOK_S, 2)}


def cpu_s(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return 0.0


if __name__ == "__main__":
    os.environ.pop("RL_SLOTS_DIR", None)
    main()
