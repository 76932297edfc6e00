"""Logout. Where systemd's logind has KillUserProcesses=yes, what a login has started ends with it: a job
would end when the kept ssh connection does. There a job is started in a scope of the user's own service
manager, which lives on after the logout if the user "lingers". Elsewhere nothing of this is needed."""

from __future__ import annotations

import json
import os
import sys

from . import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Without its answer a job is started as usual, and ended at the logout: a machine that stands still for some
# seconds is no reason for that. All of it within the minute that a start may take.
LOGINCTL_TIMEOUT_S = 10.0
START_TIMEOUT_S = 35.0
SESSION = "XDG_SESSION_ID"
IN_SCOPE = "RL_IN_SCOPE"  # set for the start that runs in the scope already


def facts() -> dict[str, bool]:
    """Return {"kill_user_processes", "linger", "scopes"}: whether processes are ended at logout, whether this
    user's manager goes on after it, and whether a job can be put into a scope of that; {} where this
    login is no session of logind's."""
    program = machine.which("loginctl")
    if program is None or not os.environ.get(SESSION):
        return {}  # pam_systemd gives each login a session, and a name for it
    words = ["KillUserProcesses", "KillOnlyUsers", "KillExcludeUsers"]
    told = _properties([program, "show-session", *(f"--property={word}" for word in words)])
    if "KillUserProcesses" not in told:
        return {}
    user = _user()
    only, excluded = told.get("KillOnlyUsers", "").split(), told.get("KillExcludeUsers", "").split()
    kills = told["KillUserProcesses"] == "yes" and user not in excluded and (not only or user in only)
    linger = kills and _properties([program, "show-user", user, "--property=Linger"]).get("Linger") == "yes"
    scopes = machine.which("systemd-run") is not None
    return {"kill_user_processes": kills, "linger": linger, "scopes": scopes}


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _properties(argv: list[str]) -> dict[str, str]:
    lines = machine.output(argv, LOGINCTL_TIMEOUT_S).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def start_in_scope(request: dict[str, Any]) -> dict[str, Any] | None:
    """Given a start's request, run it in a scope of the user's manager and return its answer; None where that
    isn't needed, or isn't possible: then the start is to be made as usual. A start may be asked for twice."""
    if not os.environ.get(SESSION) or os.environ.get(IN_SCOPE):
        return None
    found = facts()
    if not (found.get("kill_user_processes") and found["linger"] and found["scopes"]):
        return None
    spec = request.get("spec")
    job_id = spec.get("job_id") if isinstance(spec, dict) else None
    if not isinstance(job_id, str) or not job_id.isalnum():
        return None  # the start itself says what is wrong with it
    import subprocess

    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    words = ["systemd-run", "--user", "--scope", "--quiet", "--collect", f"--unit=rl-{job_id}", "--"]
    try:
        done = subprocess.run(
            [*words, sys.executable, "-I", "-S", os.path.abspath(sys.argv[0]), "start"],
            input=json.dumps(request).encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "XDG_RUNTIME_DIR": runtime, IN_SCOPE: "1"}, timeout=START_TIMEOUT_S,
            check=False,
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer if isinstance(answer, dict) else None
