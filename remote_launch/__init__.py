"""remote_launch: distributed PyTorch on the machines you can ssh to.

    from remote_launch import JOBS, SERVERS, launch

The names are loaded when first used: importing the package touches neither disk nor network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remote_launch.api import JOBS, SERVERS, Job, Launch, launch

__version__ = "0.1.0"
__all__ = ["JOBS", "SERVERS", "Job", "Launch", "__version__", "launch"]


def __getattr__(name: str) -> Any:
    if name in ("JOBS", "SERVERS", "Job", "Launch", "launch"):
        from remote_launch import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
