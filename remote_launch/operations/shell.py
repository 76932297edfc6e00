"""A person's shell on a server, in the project's folder or a job's, with its environment.

What the shell is to have travels as a small file of its own (0600), which removes itself when it is read: a
terminal's stdin is the person's, and an argument would show in ``ps``."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NoReturn

from remote_launch.core.environments.places import environment_path, environment_prefix
from remote_launch.errors import RemoteLaunchError
from remote_launch.operations.told import mapping, mappings, number
from remote_launch.operations.verbs import call
from remote_launch.transport.command import Command, quote, quote_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from remote_launch.core.inventory import Server
    from remote_launch.core.jobs import JobRecord
    from remote_launch.operations.fleet import Fleet

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
# Files of shells that never came to be, too.
_REMOVE = """rm -f -- "$0"
find "$HOME/.rl" -maxdepth 1 -name 'shell-*' -mmin +10 -exec rm -f {} + 2>/dev/null
rmdir "$HOME/.rl" 2>/dev/null"""
# bash reads the person's own start-up file, and the environment's programs come first all the same. Others
# get PATH as it is and may change it in theirs.
_SHELL = r"""
RL_RC='[ -r ~/.bashrc ] && . ~/.bashrc
[ -z "$RL_BIN" ] || PATH=$RL_BIN:$PATH
unset RL_BIN RL_RC'
SHELL=${SHELL:-/bin/sh}; export SHELL
case $SHELL in
*/bash) export RL_RC; exec "$SHELL" -c 'exec "$SHELL" --rcfile <(printf "%s\n" "$RL_RC") -i';;
esac
unset RL_BIN RL_RC
exec "$SHELL" -i
"""


def open_shell(fleet: Fleet, server: Server, job: JobRecord | None = None) -> NoReturn:
    """Become a shell on the server, in the folder of the job (None: the project's). The process ends with the
    shell's exit code. Raises as ``Transport.run`` does, and where the transport has no terminal."""
    variables: dict[str, str] = dict(server.env)
    folders = [server.workdir]
    if job is not None:
        told = _told(fleet, server, job)
        variables |= job_variables(told, job)
        folder = f"{server.workdir}/{fleet.inventory.jobs_folder_name}/{job.job_id}"
        folders.insert(0, folder)
    path = f"~/.rl/shell-{os.urandom(8).hex()}"
    script = shell_script(server, folders, variables)
    transport = fleet.transport(server.name)
    transport.put(script.encode("utf-8", "surrogateescape"), path)
    fleet.log(server.name, "shell", job_id=job.job_id if job else None)
    try:
        transport.enter(path)
    except RemoteLaunchError:
        transport.run(Command(["rm", "-f", path], label="remove the shell's file"), timeout_s=30)
        raise


def _told(fleet: Fleet, server: Server, job: JobRecord) -> dict[str, Any]:
    """Return what the server knows of the job; {} where it can't say: a shell may be wanted for that."""
    request = {"job_ids": [job.job_id], "discover": False, "facts": False, "specs": True}
    try:
        answer = call(fleet, server, "probe", request, timeout_s=30)
    except RemoteLaunchError:
        return {}
    found = [item for item in mappings(answer.get("jobs")) if item.get("job_id") == job.job_id]
    return found[0] if found else {}


def job_variables(told: Mapping[str, Any], job: JobRecord) -> dict[str, str]:
    """Given what a server tells of a job, return the variables that the job has, as far as they are written
    down: not the secret ones.

    Not RL_JOB_ID: by that the job's processes are known, and ended with it."""
    given = mapping(mapping(told.get("spec")).get("env"))
    variables = {name: value for name, value in given.items() if isinstance(value, str) and "\0" not in value}
    ours = {
        "RL_LAUNCH_ID": job.launch_id,
        "RL_RUN_ID": job.run_id,
        "RL_NODE_RANK": job.node_rank,
        "RL_ATTEMPT": number(told.get("attempt")) or job.attempt,
    }
    variables.update({name: str(value) for name, value in ours.items() if value is not None})
    return {name: value for name, value in variables.items() if _NAME.match(name) and name != "RL_JOB_ID"}


def shell_script(server: Server, folders: list[str], variables: Mapping[str, str]) -> str:
    """Return the script that becomes the shell: in the first of ``folders`` that is there, or at home."""
    lines = [_REMOVE]
    lines += [f"export {name}={quote(value)}" for name, value in variables.items()]
    path, prefix = environment_path(server), environment_prefix(server)
    if path:
        lines.append(f"RL_BIN={quote_path(path[0])}; export RL_BIN")
        lines.append('[ -d "$RL_BIN" ] && PATH=$RL_BIN:$PATH && export PATH || RL_BIN=')
    if prefix:
        config = f"{quote_path(prefix)}/pyvenv.cfg"
        lines.append(f"[ -f {config} ] && VIRTUAL_ENV={quote_path(prefix)} && export VIRTUAL_ENV")
    tries = " || ".join(f"cd {quote_path(folder)} 2>/dev/null" for folder in folders)
    note = quote(f"rl: there is no {folders[0]} here")
    lines.append(f"{tries} || cd; [ -d {quote_path(folders[0])} ] || echo {note} >&2")
    workdir = quote_path(server.workdir)
    lines.append(f"PYTHONPATH=${{PYTHONPATH:+$PYTHONPATH:}}{workdir}:{workdir}/src; export PYTHONPATH")
    if len(folders) > 1:
        lines.append("RL_JOB_DIR=$PWD; export RL_JOB_DIR")
    return "\n".join(lines) + _SHELL
