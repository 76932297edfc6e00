"""The user's command after the end of a job: once a launch, on the server that coordinates at the end, with
the verdict in its environment.

The command may hold an address that is a secret: it is in no argument list and in no file of the job's. It
runs with the job's own environment, secrets included, in the workdir, and has TIMEOUT_S.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal

from . import verdict
from .child import environment
from .jobdir import JobDir, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

TIMEOUT_S = 60.0
# No file of more than 1 GiB (blocks of 512 bytes): what a mail client or curl writes has room, and a command
# gone wild doesn't fill the disk within its minute.
_SCRIPT = 'ulimit -f 2097152; eval "$RL_NOTIFY_COMMAND"'
_URL_LOGIN = re.compile(r"(?<=://)(?!git@)[^/\s@'\"]+@")


class Notifier:
    """Made while the job's environment is at hand; ``tell`` runs the command, if there is one. Never
    raises."""

    def __init__(self, spec: dict[str, Any], job: JobDir, workdir: str, login: dict[str, str]) -> None:
        self._command = spec.get("notify")
        if self._command:
            import subprocess  # noqa: F401 - here and not at the end: Python may be updated meanwhile
        self._spec = spec
        self._job = job
        self._env = environment(spec, workdir, job, login) if self._command else {}
        self._workdir = workdir

    def tell(
        self, end: dict[str, Any], launch: dict[str, Any] | None, log: Callable[[str], None]
    ) -> None:
        """Given exit.json and the launch's verdict (None: a job alone), run the command to its end."""
        if not self._command:
            return
        env = {**self._env, **verdict_env(self._spec, end, launch), "RL_NOTIFY_COMMAND": self._command}
        path = os.path.join(self._job.path, "notify.log")
        try:
            log("running the notification")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with open(os.open(path, flags, 0o600), "wb") as out:
                told = _run(env, self._workdir, out.fileno())
                out.write(f"rl: the command {told}\n".encode())
            log(f"the notification {told}")
        except OSError as error:
            log(f"the notification could not be run: {error}")


def _run(env: dict[str, str], workdir: str, out: int) -> str:
    import subprocess

    process = subprocess.Popen(
        ["/bin/sh", "-c", _SCRIPT], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=workdir,
        start_new_session=True,
    )
    try:
        code = process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"was stopped after {TIMEOUT_S:g} s"
    return verdict.ended_in_words(code, None) if code >= 0 else f"was killed by signal {-code}"


def verdict_env(
    spec: dict[str, Any], end: dict[str, Any], launch: dict[str, Any] | None
) -> dict[str, str]:
    """Return the variables that say what the job, or its whole launch, came to."""
    cause = end.get("cause") if isinstance(end.get("cause"), dict) else None
    state = (launch or {}).get("state") or end["state"]
    if launch is not None and cause and state == "FAILED":
        told, reason = cause, verdict.cause_in_words(cause)
    else:
        told, reason = end, text(end, "reason") or ""
    code, name = told.get("exit_code"), told.get("signal")
    started, ended = end.get("started_at"), end.get("ended_at")
    seconds = end.get("duration_s")
    if seconds is None and isinstance(started, (int, float)) and isinstance(ended, (int, float)):
        seconds = max(0.0, ended - started)
    values = {
        "RL_STATE": state, "RL_EXIT_CODE": code, "RL_SIGNAL": name, "RL_REASON": reason,
        "RL_JOB_ID": spec.get("job_id"), "RL_LAUNCH_ID": spec.get("launch_id"),
        "RL_SERVER": spec.get("server"), "RL_TAGS": ",".join(spec.get("tags") or ()),
        "RL_NAME": spec.get("name"), "RL_NNODES": spec.get("nnodes") or 1,
        "RL_DURATION_S": None if seconds is None else round(seconds),
        "RL_COMMAND": _URL_LOGIN.sub("•••@", str(spec.get("command") or "")),
    }
    return {key: "" if value is None else str(value).replace("\0", "") for key, value in values.items()}
