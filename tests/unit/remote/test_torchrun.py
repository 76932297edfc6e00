"""The torchrun verb, with a stand-in for torch that runs its "workers" as torch's agent does."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

from remote_launch.remote import room as room_aside
from remote_launch.remote import torchrun
from tests.support.served import PYTHON

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support.served import Served

# It collects a worker once rl's thread has seen its end (torch looks ten times a second only), and touches
# RANK.over then.
FAKE_RUN = """
import json, os, subprocess, sys, threading, time
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

def main(args):
    print(json.dumps({"args": args, "argv": sys.argv, "path": sys.path}), flush=True)
    *options, command = args
    scripts = json.loads(command)
    workers = {int(rank): subprocess.Popen(["sh", "-c", scripts[rank]]) for rank in scripts}
    deaths, = [thread for thread in threading.enumerate() if thread.name == "rl-deaths"]
    while None in [worker.returncode for worker in workers.values()]:
        for rank, worker in workers.items():
            if worker.pid in deaths.times and worker.returncode is None:
                worker.wait()
                open(f"{rank}.over", "w").close()
        time.sleep(0.1)
    failures = {rank: ProcessFailure(rank, one) for rank, one in workers.items() if one.returncode}
    if failures:
        raise ChildFailedError("train.py", failures)
"""
FAKE_ERRORS = """
import time

class ProcessFailure:
    def __init__(self, rank, worker):
        self.local_rank, self.pid, self.exitcode = rank - 4, worker.pid, worker.returncode
        self.timestamp, self.error_file = int(time.time()), "<N/A>"
        recorded = {"message": "ValueError: no", "extraInfo": {}}
        self.message = recorded if rank == 5 else "To enable traceback see: https://x"

class ChildFailedError(Exception):
    def __init__(self, name, failures):
        super().__init__(name + " FAILED")
        self.failures = failures
"""


def start(served: Served, workers: dict[int, str]) -> str:
    torch = served.workdir / "fake" / "torch" / "distributed"
    errors = torch / "elastic" / "multiprocessing"
    errors.mkdir(parents=True)
    for folder in (torch.parent, torch, torch / "elastic", errors):
        (folder / "__init__.py").touch()
    (torch / "run.py").write_text(FAKE_RUN)
    (errors / "errors.py").write_text(FAKE_ERRORS)
    return served.start(
        torchrun=("--nnodes=1", json.dumps(workers)), python=PYTHON, first_rank=4, nproc=3,
        pythonpath_append=["fake"], env={"PYTHONUNBUFFERED": "1"},
    )


def test_the_first_failing_rank_is_found_however_torch_orders_them(served: Served) -> None:
    after = "until [ -e {}.over ]; do sleep 0.05; done; kill -{} $$"
    workers = {4: after.format(5, "TERM"), 5: after.format(6, "SEGV"), 6: "exit 37"}
    job_id = start(served, workers)
    end = served.wait(job_id)
    error = (served.folder(job_id) / "job.err").read_text()
    assert (end["state"], end["exit_code"], end["signal"]) == ("FAILED", 37, None), (end, error)
    assert end["reason"] == "rank 6 exited with 37"
    shape = [(one["rank"], one["local_rank"], one["exit_code"], one["signal"]) for one in end["failures"]]
    assert shape == [(6, 2, 37, None), (5, 1, None, "SEGV"), (4, 0, None, "TERM")]
    assert [one["message"] for one in end["failures"]] == ["", "ValueError: no", ""]
    assert "ChildFailedError: train.py FAILED" in error  # as torchrun itself would end


def test_torchrun_sees_its_own_command_line_and_nothing_of_rl(served: Served) -> None:
    job_id = start(served, {4: "exit 0"})
    assert served.wait(job_id)["state"] == "SUCCEEDED"
    seen = json.loads(served.out(job_id))
    assert str(served.program) not in seen["path"]
    assert seen["argv"][0].endswith("/torchrun")
    assert seen["argv"][1:] == seen["args"]
    ranks = str(served.folder(job_id) / "ranks")
    assert seen["args"][:5] == ["--log-dir", ranks, "--redirects", "3", "--nnodes=1"]


def test_an_environment_without_torch_says_so(served: Served) -> None:
    python = served.workdir / "python"
    python.write_text(f'#!/bin/sh\nexec "{PYTHON}" -I -S "$@"\n')
    python.chmod(0o755)
    job_id = served.start(torchrun=("x.py",), python=str(python))
    end = served.wait(job_id)
    assert (end["state"], end["exit_code"], end["reason"]) == ("FAILED", 1, "torchrun exited with 1")
    error = (served.folder(job_id) / "job.err").read_text()
    assert "has no torch that can be used; next: rl prepare" in error


def test_a_full_disk_hides_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be what the ranks died of."""

    def full(path: str, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "failures.json"
    room_aside.set_aside(str(path))
    [room] = tmp_path.iterdir()
    before = room.stat()
    monkeypatch.setattr(room_aside, "write_atomic", full)
    failure = SimpleNamespace(
        exitcode=1, local_rank=1, pid=77, timestamp=3, error_file="<N/A>", message="OSError: [Errno 28]"
    )
    torchrun.write_failures(str(path), {3: failure}, {77: 5.25})
    [entry] = json.loads(path.read_text())
    assert (entry["rank"], entry["exit_code"], entry["time"]) == (3, 1, 5.25)
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_size == before.st_size, "no block more"
    assert [file.name for file in tmp_path.iterdir()] == ["failures.json"]
