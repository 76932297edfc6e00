"""Environments by conda: one that is on the server, or Miniforge in the user's home. Nothing is asked, no
shell's start-up file is touched, and only the channels that were chosen are used."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from remote_launch.core.environments.conda_file import (
    CONDA_FORGE,
    CondaFile,
    find_conda_file,
    problem_of_channel,
    spec_name,
)
from remote_launch.core.environments.indexes import index_env
from remote_launch.core.environments.places import environment_prefix, environment_python
from remote_launch.core.environments.steps import BROKEN_CONNECTION, Download, Step
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from remote_launch.core.inventory import Environment, Server

__all__ = ["CondaFile", "find_conda_file", "steps"]

# A release and not "latest": beside it lies its sha256, and all servers get the same whenever they are
# prepared.
MINIFORGE = "26.3.2-3"
INSTALLER_URL = (
    f"https://github.com/conda-forge/miniforge/releases/download/{MINIFORGE}/"
    f"Miniforge3-{MINIFORGE}-{{os}}-{{machine}}.sh"
)
# Miniforge's own, so that its packages are there already; fixed, for servers of one launch must not differ.
DEFAULT_PYTHON = "3.13"
HOME = "~/.rl/miniforge3"  # remote/programs.py knows it, and its mark
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){0,2}")

# $1 where to. The mark is written last: a folder without it is half an installation. An installer that fails
# may be broken itself.
_INSTALL = """
prefix=$1
echo "installing conda into $prefix"
unset PYTHONPATH PYTHONHOME
rm -rf "$prefix" && mkdir -p "${prefix%/*}" || exit
sh "$RL_DOWNLOAD" -b -p "$prefix"
code=$?
if [ $code = 0 ]; then
  "$prefix/bin/conda" --version && : > "$prefix/.rl-conda"
  code=$?
  [ $code = 0 ] || echo "the installer left no conda that runs: $prefix/bin/conda" >&2
fi
rm -f "$RL_DOWNLOAD" "$RL_DOWNLOAD".*
exit $code
"""
# $1 the environment's folder, $2 what the user should know, then conda's words. micromamba takes no folder
# with something in it, so rl's mark (.rl-env: this folder is ours) goes for a moment.
_CREATE = """
prefix=$1
[ -z "$2" ] || printf '%s\\n' "$2"
shift 2
echo "creating $prefix with $CONDA"
mark() { mkdir -p "$prefix" && : > "$prefix/.rl-env"; }
trap mark EXIT
trap 'exit 143' HUP INT TERM
rm -f "$prefix/.rl-env"
rmdir "$prefix" 2>/dev/null
unset PYTHONPATH PYTHONHOME
export CONDA_REPORT_ERRORS=false CONDA_NOTIFY_OUTDATED_CONDA=false CONDA_NUMBER_CHANNEL_NOTICES=0
"$CONDA" create -y -p "$prefix" "$@" || exit
[ -x "$prefix/bin/python" ] || { echo "conda made no python in $prefix" >&2; exit 1; }
"$prefix/bin/python" --version
"""
# $1 the folder of environment.yml, which relative paths in it start from; then the command.
_PIP = 'cd "$1" && shift && exec "$@"'

_NO_INSTALLER = (
    "no installer for this kind of machine is there: environment.installer_url names another one; "
    "manager: uv or venv needs none"
)
_INSTALL_HINTS = (
    ("HTTP 404", _NO_INSTALLER),
    (
        "its sha256 is",
        "what came is not the file that was meant: see environment.sha256 and installer_url, or try again",
    ),
)
_TERMS = (
    "Anaconda's channels want their terms accepted first, on that server: conda tos accept; or use "
    "conda-forge alone (channels: in environment.yml or in the inventory)"
)
_NO_INTERNET = (
    "the server's conda has no internet: a proxy goes into env: (https_proxy), a mirror into channels:; "
    "with offline: true it takes only what its package cache has"
)
_CREATE_HINTS = (
    ("Terms of Service", _TERMS),
    ("CondaToS", _TERMS),
    (
        "Could not solve for environment specs",
        "these packages or versions don't go together on that server's platform: see the last lines",
    ),
    (
        "packages are not available from current channels",
        "no such package or version in these channels: see environment.python, environment.yml and channels:",
    ),
    ("ResolvePackageNotFound", "no such package or version in these channels"),
    ("nothing provides", "no such package or version in these channels: see environment.python, channels:"),
    ("does not exist (perhaps", "no such package or version in these channels"),
    ("UnsatisfiableError", "these packages can't be installed together: see the last lines"),
    ("CondaHTTPError", _NO_INTERNET),
    ("CondaConnectionError", _NO_INTERNET),
    ("OfflineError", _NO_INTERNET),
    ("Download error", _NO_INTERNET),
)


def steps(server: Server, file: CondaFile | None = None) -> tuple[Step, ...]:
    """Given what the project's environment.yml says (None without one), return the steps that make the
    environment. Raises ConfigError."""
    prefix = environment_prefix(server) or ""
    notes = "\n".join(f"note: {note}" for note in file.notes) if file else ""
    create = Step(
        name="create environment (conda)",
        script=_CREATE,
        args=(prefix, notes, *_words(server.environment, file)),
        env=server.env,
        needs=("conda",),
        hints=_CREATE_HINTS,
    )
    return (_install(server), create, *_pip(server, file))


def _install(server: Server) -> Step:
    environment = server.environment
    url = environment.installer_url or INSTALLER_URL
    if not url.startswith(("https://", "http://")):
        raise ConfigError(
            f"environment.installer_url: expected a https:// URL, found {url!r}",
            key="environment.installer_url",
            hint="of Miniforge's or Miniconda's .sh; {os} (Linux, MacOSX) and {machine} are filled in",
        )
    name = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    return Step(
        name="install conda",
        provides="conda",
        lock=f"{HOME}.rl-lock",
        download=Download(url=url, to=f"~/.rl/downloads/{name}", sha256=environment.sha256),
        script=_INSTALL,
        args=(HOME,),
        env=server.env,
        hints=_INSTALL_HINTS,
    )


def _words(environment: Environment, file: CondaFile | None) -> tuple[str, ...]:
    """The channels and the packages, as words of ``conda create``."""
    for channel in environment.channels:
        problem = problem_of_channel(channel)
        if problem is not None:
            raise ConfigError(
                f"environment.channels: {problem[0]}", key="environment.channels", hint=problem[1]
            )
    channels = environment.channels or (file.channels if file else (CONDA_FORGE,))
    words = ["--override-channels"]
    for channel in channels:
        words += ["-c", channel]
    if environment.offline:
        words.append("--offline")
    specs = [spec for spec in (file.specs if file else ()) if spec_name(spec) != "python"]
    if not any(spec_name(spec) == "pip" for spec in specs):
        specs.append("pip")
    return (*words, _python(environment, file), *specs)


def _python(environment: Environment, file: CondaFile | None) -> str:
    """The Python, as conda is asked for it. The inventory and environment.yml must not contradict."""
    wanted = _version(environment.python)
    theirs = file.spec_of("python") if file else None
    if file is None or theirs is None or theirs == "python":
        return f"python={wanted or DEFAULT_PYTHON}"
    version = theirs.rpartition("::")[2].removeprefix("python").strip().lstrip("=").removesuffix(".*")
    if wanted and version != wanted:
        raise ConfigError(
            f"environment.python is {wanted}, and {file.path} says {theirs}",
            key="environment.python",
            hint="leave it out of one of the two",
        )
    return theirs


def _version(python: str | None) -> str | None:
    if python is None:
        return None
    version = python.removeprefix("python")
    if _VERSION.fullmatch(version):
        return version
    raise ConfigError(
        f'environment.python: conda brings its own Python: expected a version as "3.11", found {python!r}',
        key="environment.python",
        hint="manager: venv or none uses an interpreter by its path",
    )


def _pip(server: Server, file: CondaFile | None) -> tuple[Step, ...]:
    """The step for what stands below pip: in environment.yml."""
    if file is None or not file.pip:
        return ()
    if server.environment.offline:
        raise ConfigError(
            f"{file.path}: packages below pip: can't be installed with offline: true",
            key="environment.offline",
            hint="put them into requirements.txt: those are downloaded here and sent",
        )
    folder = file.path.rpartition("/")[0] or "."
    pip = (environment_python(server), "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
    step = Step(
        name="install packages of environment.yml (pip)",
        script=_PIP,
        args=(folder, *pip, *server.environment.pip_args, *file.pip),
        env={**server.env, **index_env(server)},
        retry_on=BROKEN_CONNECTION,
    )
    return (step,)
