"""The Python environment of a server as a plan: ordered steps of plain data, printed by ``--dry-run``, run by
``prepare``.

A step is a short /bin/sh script with its values as arguments ($1, $2 …). Each is safe to repeat: what is done
is seen to be done, what was interrupted is done anew. A new manager is one more function here, and nothing
else."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

from remote_launch.errors import ConfigError
from remote_launch.transport.command import mask_env, mask_urls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.inventory import Environment, Server

REQUIREMENTS = "requirements.txt"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do on a server. ``script`` runs in the workdir with ``args`` as $1, $2 …; ``hints`` maps
    words of a failed step's output to the next step for the user."""

    name: str
    script: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    needs_uv: bool = False  # the step runs uv: found on the server, or sent from here
    hints: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return it for ``--dry-run``."""
        args = [mask_urls(word) for word in self.args]  # pip_args name indexes
        return {"step": self.name, "script": self.script, "args": args, "env": mask_env(self.env)}


_HINTS = (
    (
        "ensurepip is not",
        "python3 there lacks venv: ask for the package python3-venv, or set environment.manager: uv",
    ),
    (
        "No module named venv",
        "python3 there lacks venv: ask for the package python3-venv, or set environment.manager: uv",
    ),
    (
        "No space left on device",
        "the disk is full there: rl servers --check shows it; workdir: in the inventory names another",
    ),
    (
        "Could not find a version",
        "no such version for that server's Python and platform: see the requirements file",
    ),
    ("No solution found", "the requirements conflict: see the last lines"),
    ("ResolutionImpossible", "the requirements conflict: see the last lines"),
    ("Temporary failure in name resolution", "the server has no internet, or no DNS"),
    (
        "not made by rl",
        "environment.prefix is a folder of rl's own; one that exists: manager: none, python: PATH",
    ),
    ("Could not open requirements file", "send it first: rl rsync, or rl prepare"),
    (
        "no such python",
        "environment.python asks for a Python that is not on that server; manager: uv can install it",
    ),
)

# $1 the environment's folder, $2 the python asked for ("" for none). The last thing that is made of an
# environment is .rl-ready, which says by what it was made; .rl-env marks a folder as rl's: no other may be
# emptied.
_FOUND = """
[ -x "$1/bin/python" ] && [ "$(cat "$1/.rl-ready" 2>/dev/null)" = "$made" ] &&
  { echo "environment found: $1"; exit 0; }
"""
_EMPTY = """
if [ -n "$(ls -A "$1" 2>/dev/null)" ] && [ ! -e "$1/.rl-env" ]; then
  case $1 in */.rl/env) ;; *) echo "not empty, and not made by rl: $1" >&2; exit 1 ;; esac
fi
mkdir -p "$1" && : > "$1/.rl-env" || exit 1
find "$1" -mindepth 1 -maxdepth 1 ! -name .rl-env -exec rm -rf {} +
"""
_VENV = f"""
made="venv $2"
{_FOUND.strip()}
python=${{2:-python3}}
command -v "$python" >/dev/null 2>&1 || {{ echo "no such python on this server: $python" >&2; exit 1; }}
{_EMPTY.strip()}
echo "creating $1 with $python"; "$python" -m venv "$1" && printf %s "$made" > "$1/.rl-ready"
"""
_UV_VENV = f"""
made="uv $2"
{_FOUND.strip()}
{_EMPTY.strip()}
"$UV" venv --allow-existing ${{2:+--python "$2"}} "$1" &&
printf %s "$made" > "$1/.rl-ready"
"""
_CHECK = """
command -v "$1" >/dev/null 2>&1 || { echo "no such python on this server: $1" >&2; exit 1; }
"$1" -c 'import sys; print("python", sys.version.split()[0], sys.executable)'
"""
# $1 mark file, $2 requirements file, $3 fingerprint of the settings, then the installer's words.
_INSTALL = """
mark=$1; file=$2; want="$3 $(cksum < "$file")"; shift 3
[ "$(cat "$mark" 2>/dev/null)" = "$want" ] && { echo "packages unchanged"; exit 0; }
rm -f "$mark"
"$@" -r "$file" && printf %s "$want" > "$mark"
"""
_UV_INSTALL = _INSTALL.replace('"$@"', '"$UV" "$@"')


def environment_prefix(server: Server, environment: Environment) -> str | None:
    """Return the environment's folder on the server ("~/" allowed); None where an existing interpreter is
    used."""
    if environment.manager == "none":
        return None
    return environment.prefix or f"{server.workdir}/.rl/env"


def environment_python(server: Server, environment: Environment) -> str:
    """Return the interpreter that jobs run with."""
    prefix = environment_prefix(server, environment)
    if prefix is None:
        return (
            environment.python
            if environment.python and "/" in environment.python
            else server.python or "python3"
        )
    return f"{prefix}/bin/python"


def environment_path(server: Server, environment: Environment) -> tuple[str, ...]:
    """Return the folders that jobs have before PATH, so that ``python`` and ``torchrun`` are the
    environment's."""
    python = environment_python(server, environment)
    return (python.rpartition("/")[0],) if "/" in python else ()


def setup_steps(server: Server, environment: Environment) -> list[Step]:
    """Return the steps that make the environment."""
    prefix = environment_prefix(server, environment)
    if prefix is None:
        return [
            Step(
                name="check python",
                script=_CHECK,
                args=(environment_python(server, environment),),
                hints=_HINTS,
            )
        ]
    wanted = environment.python or ""
    if environment.manager == "uv":
        args = (prefix, server.python or wanted)
        return [
            Step(
                name="create environment (uv)",
                script=_UV_VENV,
                args=args,
                env=server.env,
                needs_uv=True,
                hints=_HINTS,
            )
        ]
    if environment.manager == "venv":
        named = wanted if "/" in wanted or not wanted else f"python{wanted}"
        args = (prefix, server.python or named)
        return [Step(name="create environment (venv)", script=_VENV, args=args, env=server.env, hints=_HINTS)]
    raise ConfigError(
        f"environment.manager: {environment.manager} can't be prepared yet",
        key="environment.manager",
        hint="use uv, venv or none; with none, python: names an interpreter of your conda environment",
    )


def package_steps(server: Server, environment: Environment, requirements: str | None) -> list[Step]:
    """Given the requirements file (relative to the project; None when it has none), return the steps that
    install it."""
    if requirements is None:
        return []
    python = environment_python(server, environment)
    prefix = environment_prefix(server, environment) or f"{server.workdir}/.rl"
    if any(mask_urls(word) != word for word in environment.pip_args):
        raise ConfigError(
            "environment.pip_args: a URL with a login in it would show in ps on the servers",
            key="environment.pip_args",
            hint="put it in env: of the servers, as PIP_INDEX_URL (uv: UV_INDEX_URL): that travels unseen",
        )
    settings = "|".join([environment.manager, python, *environment.pip_args])
    fingerprint = hashlib.sha256(settings.encode()).hexdigest()[:16]
    common = (f"{prefix}/.rl-packages", requirements, fingerprint)
    if environment.manager == "uv":
        args = (*common, "pip", "install", "--python", python, *environment.pip_args)
        return [
            Step(
                name="install packages (uv)",
                script=_UV_INSTALL,
                args=args,
                env=server.env,
                needs_uv=True,
                hints=_HINTS,
            )
        ]
    args = (
        *common,
        python,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        *environment.pip_args,
    )
    return [Step(name="install packages (pip)", script=_INSTALL, args=args, env=server.env, hints=_HINTS)]


def hint_for(step: Step, output: str) -> str | None:
    """Given a failed step and its output, return the next step for the user, where one is known."""
    return next((hint for words, hint in step.hints if words in output), None)


def requirements_file(environment: Environment, files: Sequence[str]) -> str | None:
    """Given the project's files, return the requirements file to install; raises ConfigError when the one
    named isn't there."""
    if environment.requirements is not None:
        if environment.requirements not in files:
            raise ConfigError(
                f"environment.requirements: {environment.requirements} is not among the files that are sent",
                key="environment.requirements",
                hint="check the name, and .remote/exclude.txt",
            )
        return environment.requirements
    return REQUIREMENTS if REQUIREMENTS in files else None
