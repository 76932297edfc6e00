"""The user's command on this computer, after the end of jobs that rl has watched to their end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.places import first_node
from remote_launch.transport.process import ProcessTimeout, run_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.jobs import JobRecord
    from remote_launch.core.verdict import Verdict

TIMEOUT_S = 60.0


def verdict_env(jobs: Sequence[JobRecord], verdict: Verdict) -> dict[str, str]:
    """Given the jobs of a launch (or a job alone), return the variables that a notification gets, as on a
    server (``remote/notify.py``)."""
    first = first_node(jobs)
    cause = verdict.cause or {}
    name = cause.get("signal") or first.signal
    seconds = max((job.duration_s or 0.0 for job in jobs), default=0.0)
    values = {
        "RL_STATE": verdict.state.value, "RL_EXIT_CODE": verdict.exit_code,
        "RL_SIGNAL": name if isinstance(name, str) else "",
        "RL_REASON": "" if verdict.exit_code == 0 else verdict.text,
        "RL_JOB_ID": first.job_id, "RL_LAUNCH_ID": first.launch_id or "", "RL_SERVER": first.server,
        "RL_TAGS": ",".join(first.tags), "RL_NAME": first.name, "RL_NNODES": first.nnodes or 1,
        "RL_DURATION_S": round(seconds), "RL_COMMAND": first.command,
    }  # fmt: skip
    return {key: str(value).replace("\0", "") for key, value in values.items()}


def notify_here(command: str, jobs: Sequence[JobRecord], verdict: Verdict) -> str | None:
    """Run the command in a shell; return None, or in words why it did not succeed. Never raises for it."""
    env = {**verdict_env(jobs, verdict), "RL_NOTIFY_COMMAND": command}
    try:
        ended = run_process(["/bin/sh", "-c", 'eval "$RL_NOTIFY_COMMAND"'], env=env, timeout_s=TIMEOUT_S)
    except ProcessTimeout:
        return f"it was stopped after {TIMEOUT_S:g} s"
    except OSError as error:
        return str(error)
    if ended.returncode == 0:
        return None
    said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return f"exit code {ended.returncode}" + (f": {said[-1][:500]}" if said else "")
