"""The packages of an environment: pip or uv, and what they are told.

uv.lock is exported to pip's format by uv on the server, and installed from there. Not ``uv sync``: it takes
wheels from the very addresses in the lock, so that a server's mirror or wheelhouse would not be used, and
nothing could stand in for one package (a torch for that server's GPUs)."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from remote_launch.core.environments.choices import Choice, choose
from remote_launch.core.environments.failures import install_hints
from remote_launch.core.environments.indexes import UV_HOME_LINKS, index_env
from remote_launch.core.environments.places import environment_prefix, environment_python
from remote_launch.core.environments.steps import BROKEN_CONNECTION, Hints, Part, Step, fingerprint_of
from remote_launch.core.environments.wheels import wheel_folder, wheelhouse_inputs
from remote_launch.errors import ConfigError
from remote_launch.transport.command import mask_urls

if TYPE_CHECKING:
    from remote_launch.core.environments.sources import Source
    from remote_launch.core.inventory import Environment, Server

PYPROJECT = "pyproject.toml"
FILE = "requirements.txt"  # in <workdir>/.rl
UNHASHED_FILE = "requirements-unhashed.txt"
# $1 is the folder of a uv.lock, from which uv writes paths; installers read them from the workdir.
_IN_FOLDER = f"""
folder=$(printf %s "$1" | sed 's/[&|\\\\]/\\\\&/g'); shift
"$UV" "$@" || exit
sed -e "s|^-e \\.|-e ./$folder/.|" -e "s|^\\.|./$folder/.|" .rl/{FILE}.uv > .rl/{FILE}
"""


def packages_part(server: Server, source: Source | None) -> tuple[Part | None, dict[str, str]]:
    """Return the part that installs the packages (None for none), and the files in <workdir>/.rl that it
    reads. Raises ConfigError."""
    environment = server.environment
    installer = installer_of(environment, source)
    _check(server, installer)
    if source is None:
        return None, {}
    calls = _Calls(server, source, installer)
    files: dict[str, str] = {}
    if environment.offline:
        steps = calls.from_wheelhouse()
    else:
        steps, files = _steps(calls, source, choose(source, environment))
    if not steps:
        return None, {}
    folder = environment_prefix(server) or f"{server.workdir}/.rl"
    made_from = fingerprint_of(
        *(installer, calls.python, source.kind, source.path, source.content, source.project, source.dynamic),
        *(environment.packages, environment.pip_args, environment.torch_backend, environment.offline),
        *(environment.index_url, environment.extra_index_url, environment.find_links),
    )
    return Part(fingerprint=made_from, mark=f"{folder}/.rl-packages", steps=tuple(steps)), files


def installer_of(environment: Environment, source: Source | None) -> str:
    """Return "uv" or "pip". What is in uv.lock only uv reads, so it installs it too, whatever the manager."""
    return "uv" if environment.manager == "uv" or (source and source.kind == "uv.lock") else "pip"


def _check(server: Server, installer: str) -> None:
    environment = server.environment
    for key, words in (("pip_args", environment.pip_args), ("packages", environment.packages)):
        if any(mask_urls(word) != word for word in words):
            raise ConfigError(
                f"environment.{key}: a URL with a login in it would show in ps on the servers",
                key=f"environment.{key}",
                hint="index_url, extra_index_url and find_links travel unseen, and so does env: of a server"
                " (PIP_INDEX_URL; uv: UV_INDEX_URL)",
            )
    wrong = next((line for line in environment.packages if line.startswith("-") or " --" in line), None)
    if wrong is not None:
        raise ConfigError(
            f"environment.packages: expected a requirement as 'numpy>=2', found the option {wrong!r}",
            key="environment.packages",
            hint="options go in pip_args; a folder of the project in a requirements file (-e ./lib)",
        )
    if environment.torch_backend is not None and environment.offline:
        raise ConfigError(
            "environment.torch_backend: not with offline: true, where packages are chosen on this machine",
            key="environment.torch_backend",
            hint="name torch's index: extra_index_url: https://download.pytorch.org/whl/cu126 (or cpu …)",
        )
    if environment.torch_backend is not None and installer != "uv":
        raise ConfigError(
            f"{server.name}: environment.torch_backend is uv's, but the manager is {environment.manager}",
            key="environment.torch_backend",
            hint="set manager: uv, or name torch's index: extra_index_url:"
            " https://download.pytorch.org/whl/cu126 (or cpu …)",
        )


def _steps(calls: _Calls, source: Source, choice: Choice) -> tuple[list[Step], dict[str, str]]:
    """Return the calls, in order. What has hashes, what can't have any (git, folders), and the project itself
    are calls of their own: one hash makes pip want a hash of all."""
    steps: list[Step] = []
    files: dict[str, str] = {}
    if source.kind == "uv.lock":
        steps += [calls.export(source, choice), calls.install("packages", "--no-deps", "-r", f".rl/{FILE}")]
    elif source.locked:
        deps = ("--no-deps",)
        for file, text, what in (
            (FILE, choice.hashed, "packages"),
            (UNHASHED_FILE, choice.unhashed, "packages without hashes"),
        ):
            if text:
                files[file] = text
                steps.append(calls.install(what, *deps, "-r", f".rl/{file}"))
    else:
        words = _file_words(source, calls.installer)
        if words[-1:] == (f".rl/{FILE}",):
            files[FILE] = choice.hashed
        if source.hashed and words:
            steps.append(calls.install("packages", *words, torch=True))
        elif words or choice.lines:
            return [calls.install("packages", *words, *choice.lines, torch=True), *calls.project()], files
    if choice.lines:
        own = "environment.packages"
        steps.append(calls.install("packages of the inventory", *choice.lines, torch=True, file=own))
    return [*steps, *calls.project()], files


def _file_words(source: Source, installer: str) -> tuple[str, ...]:
    if source.kind == "requirements":
        return ("-r", source.path)
    if not source.lines:
        return ()
    # uv reads [tool.uv.sources] of a pyproject.toml as well.
    return ("-r", source.path if (source.kind, installer) == ("pyproject.toml", "uv") else f".rl/{FILE}")


class _Calls:
    """The installer's command lines for one server."""

    def __init__(self, server: Server, source: Source, installer: str) -> None:
        self._server, self._source = server, source
        self._environment = server.environment
        self.installer = installer
        self.python = environment_python(server)
        self._wheels = wheelhouse_inputs(source, self._environment) if self._environment.offline else ()
        folders = [wheel_folder(number) for number in range(len(self._wheels))]
        indexes = index_env(server, source.indexes, folders)
        own = f"{installer.upper()}_"
        self._env = {**server.env, **{name: indexes[name] for name in indexes if name.startswith(own)}}
        self._file = source.path or "environment.packages"

    def install(self, what: str, *words: str, torch: bool = False, file: str | None = None) -> Step:
        """Return the step that installs these words, which stand in ``file``. ``torch``: with the build for
        the server's GPUs."""
        environment = self._environment
        name = f"install {what} ({self.installer})"
        if self.installer == "pip":
            pip = (self.python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
            argv = (*pip, *environment.pip_args, *words)
            return self._step(name, 'exec "$@"', argv, file=file)
        own: tuple[str, ...] = ("pip", "install", "--python", self.python)
        own += ("--no-index",) if environment.offline else ()
        own += ("--torch-backend", environment.torch_backend) if torch and environment.torch_backend else ()
        return self._uv(name, *own, *environment.pip_args, *words, file=file)

    def from_wheelhouse(self) -> list[Step]:
        """Return the calls for a server without internet: what was chosen and downloaded for it, no more."""
        return [
            self.install("packages", "--no-deps", "-r", f"{wheel_folder(number)}/requirements.txt")
            for number, wheels in enumerate(self._wheels)
            if not wheels.building
        ] + self.project()

    def export(self, source: Source, choice: Choice) -> Step:
        """Return the step that writes what uv.lock says in pip's words: hashes kept, no development groups,
        without what the inventory puts in a package's place."""
        folder = posixpath.dirname(source.path)
        words = ["export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-header"]
        words += ["--no-annotate", "--python", self.python]
        words += [word for name in choice.left_out for word in ("--no-emit-package", name)]
        name, script = "read uv.lock (uv)", 'exec "$UV" "$@"'
        if not folder:
            return self._step(name, script, (*words, "--output-file", f".rl/{FILE}"), needs=("uv",))
        own = ("--project", folder, "--output-file", f".rl/{FILE}.uv")
        return self._step(name, _IN_FOLDER, (folder, *words, *own), needs=("uv",))

    def project(self) -> list[Step]:
        """Return the step that installs the project itself, where that is wanted."""
        source = self._source
        if source.project is None:
            return []
        deps = () if source.dynamic else ("--no-deps",)
        words = (*deps, "-e", source.project)
        return [self.install("the project", *words, torch=source.dynamic, file=PYPROJECT)]

    def _hints(self, file: str | None) -> Hints:
        offline = self._environment.offline
        return install_hints(file or self._file, offline=offline, project=file == PYPROJECT)

    def _uv(self, name: str, *words: str, file: str | None = None) -> Step:
        home = any(link.startswith("~/") for link in self._environment.find_links)
        script = (UV_HOME_LINKS if home and not self._environment.offline else "") + 'exec "$UV" "$@"'
        return self._step(name, script, words, needs=("uv",), file=file)

    def _step(
        self,
        name: str,
        script: str,
        args: tuple[str, ...],
        *,
        needs: tuple[str, ...] = (),
        file: str | None = None,
    ) -> Step:
        return Step(
            name=name,
            script=script,
            args=args,
            env=self._env,
            needs=needs,
            hints=self._hints(file),
            retry_on=BROKEN_CONNECTION,
        )
