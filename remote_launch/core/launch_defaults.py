"""The inventory's ``launch``: what torch-launch and job-run do where their options say nothing."""

from __future__ import annotations

from typing import Any

from remote_launch.dataclass import dataclass
from remote_launch.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchDefaults:
    """Times in seconds; None is none."""

    max_restarts: int = 0
    restart_window: int | None = None
    stall_timeout: int | None = None

    def settle(
        self, *, max_restarts: int | None, restart_window_s: float | None, stall_timeout_s: float | None
    ) -> dict[str, Any]:
        """Given what was asked for (None: nothing was said; 0: none), return it with these defaults. Raises
        UsageError for a window in which there is nothing to count."""
        restarts = self.max_restarts if max_restarts is None else max_restarts
        if restart_window_s and not restarts:
            raise UsageError(
                "restarts are counted within a window, and none was asked for", hint="--max-restarts N"
            )
        window_s = self.restart_window if restart_window_s is None else restart_window_s
        stall_s = self.stall_timeout if stall_timeout_s is None else stall_timeout_s
        return {
            "max_restarts": restarts,
            "restart_window_s": float(window_s) if window_s and restarts else None,
            "stall_timeout_s": float(stall_s) if stall_s else None,
        }
