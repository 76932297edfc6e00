"""``--notify-local``: the user's command on this computer, once the jobs that were watched have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.jobs import JobRecord
    from remote_launch.core.verdict import Verdict


def notify_local(command: str | None, jobs: Sequence[JobRecord], verdict: Verdict) -> None:
    """Run the command, if there is one; warn when it fails. It changes nothing of rl's own exit code."""
    if not command:
        return
    from remote_launch.cli import output
    from remote_launch.operations.notify import notify_here

    failure = notify_here(command, jobs, verdict)
    if failure:
        output.warn(f"--notify-local: {output.clean(failure, colour=False)}")
