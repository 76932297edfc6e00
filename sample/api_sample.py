"""The same from Python: start jobs, wait for them, read what they printed.

Run it in this folder, after `rl prepare`:

    python api_sample.py
"""

from __future__ import annotations

import sys

from remote_launch import JOBS, SERVERS, launch


def run_one_job() -> int | None:
    """Start a command on one server, with an environment variable and a tag. Returns its exit code."""
    server = next(iter(SERVERS))
    job = JOBS.create(server, "python hello.py --seconds 5", {"LR": "0.1"}, ["greeting"]).start()
    job.wait(timeout=60)
    print(f"job {job.key} on {server}: {job.state}, exit code {job.exit_code}")
    print(job.tail())

    # Jobs live in the project's registry: another process, or this one tomorrow, finds them again.
    print("jobs with this tag so far:", len(JOBS.filter(tags=["greeting"])))
    return job.exit_code


def train_on_all_servers() -> int | None:
    """Train on every server. Returns 0, or the exit code of the first rank that failed."""
    run = launch("train.py", ["--epochs", "5"], nproc_per_node=1)
    for job in run.jobs:
        print(f"node {job.node_rank} is job {job.key} on {job.server}")
    exit_code = run.wait(timeout=600)
    print(run.tail())
    return exit_code


if __name__ == "__main__":
    sys.exit(run_one_job() or train_on_all_servers())
