"""The packages of an environment: pip or uv, and what they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.environments.places import environment_prefix, environment_python
from remote_launch.core.environments.steps import Part, Step, fingerprint_of
from remote_launch.errors import ConfigError
from remote_launch.transport.command import mask_urls

if TYPE_CHECKING:
    from remote_launch.core.environments.sources import Source
    from remote_launch.core.inventory import Server


def packages_part(server: Server, source: Source | None) -> tuple[Part | None, dict[str, str]]:
    """Return the part that installs the packages (None for none), and the files in <workdir>/.rl that it
    reads."""
    environment = server.environment
    if source is None:
        return None, {}
    if any(mask_urls(word) != word for word in environment.pip_args):
        raise ConfigError(
            "environment.pip_args: a URL with a login in it would show in ps on the servers",
            key="environment.pip_args",
            hint="put it in env: of the servers, as PIP_INDEX_URL (uv: UV_INDEX_URL): that travels unseen",
        )
    python = environment_python(server)
    folder = environment_prefix(server) or f"{server.workdir}/.rl"
    if environment.manager == "uv":
        words = ("pip", "install", "--python", python, *environment.pip_args, "-r", source.path)
        step = Step(
            name="install packages (uv)",
            script='exec "$UV" "$@"',
            args=words,
            env=server.env,
            needs=("uv",),
        )
    else:
        pip = (python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
        step = Step(
            name="install packages (pip)",
            script='exec "$@"',
            args=(*pip, *environment.pip_args, "-r", source.path),
            env=server.env,
        )
    made_from = fingerprint_of(environment.manager, python, environment.pip_args, source.content)
    return Part(fingerprint=made_from, mark=f"{folder}/.rl-packages", steps=(step,)), {}
