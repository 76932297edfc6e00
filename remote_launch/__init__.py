"""remote_launch: distributed PyTorch on the machines you can ssh to.

    from remote_launch import JOBS, SERVERS, launch

    job = JOBS.create("gpu-a", "python train.py", {"LR": "0.1"}, ["tag1"]).start()
    job.wait(timeout=600)
    print(job.state, job.exit_code, job.tail())

    run = launch("train.py", ["--epochs", "3"], nproc_per_node=2)   # on all of SERVERS
    assert run.wait() == 0

The project is found from the current folder, or from $RL_PROJECT, at first use. What can go wrong is a
RemoteLaunchError (see ``remote_launch.errors``): its text says what happened, on which server, and its
``hint`` what to do next. All times are in seconds.

The names are loaded when first used: importing the package touches neither disk nor network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remote_launch.api import JOBS, SERVERS, Job, JobState, Launch, RemoteLaunchError, launch

__version__ = "0.1.0"
__all__ = ["JOBS", "SERVERS", "Job", "JobState", "Launch", "RemoteLaunchError", "__version__", "launch"]


def __dir__() -> list[str]:
    """So that ``help(remote_launch)`` and completion know the names before they are loaded."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name in __all__:
        from remote_launch import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
