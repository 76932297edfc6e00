"""The same operations from Python: ``JOBS``, ``SERVERS`` and ``launch``, thin facades over the operations.

``JOBS`` and ``SERVERS`` find the project (from the current folder, or $RL_PROJECT) at first use, not at
import.

    job = JOBS.create("gpu-a", "python train.py", {"LR": "0.1"}, ["tag1"]).start()
    job.wait(timeout=600)
    print(job.state, job.exit_code, job.tail())

    run = launch("train.py", ["--epochs", "3"], nproc_per_node=2)
    assert run.wait() == 0

What can go wrong is a ``RemoteLaunchError``, whose text says what happened, on which server, and whose
``hint`` says what to do next.
"""

from __future__ import annotations

from remote_launch.api.jobs import Job, Jobs
from remote_launch.api.launches import Launch, launch
from remote_launch.api.project import PROJECT
from remote_launch.api.servers import Servers
from remote_launch.core.jobs import JobState
from remote_launch.errors import RemoteLaunchError

__all__ = ["JOBS", "SERVERS", "Job", "JobState", "Jobs", "Launch", "RemoteLaunchError", "Servers", "launch"]

JOBS = Jobs(PROJECT)
SERVERS = Servers(PROJECT)
