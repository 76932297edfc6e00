"""Environments by uv."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.environments.places import environment_prefix
from remote_launch.core.environments.steps import Step

if TYPE_CHECKING:
    from remote_launch.core.inventory import Server

# $1 the environment's folder, $2 the python asked for ("" for any).
_SCRIPT = 'exec "$UV" venv --allow-existing ${2:+--python "$2"} "$1"'
# uv's own Pythons come from GitHub, which offline: true does not bring.
_NOT_FETCHED = (
    "environment.python asks for one that is not there, and uv can't download it: name another version,"
    " or a mirror (UV_PYTHON_INSTALL_MIRROR in env:)"
)
_HINTS = (("python-build-standalone", _NOT_FETCHED),)


def steps(server: Server) -> tuple[Step, ...]:
    """Return the steps that make the environment."""
    prefix = environment_prefix(server) or ""
    args = (prefix, server.python or server.environment.python or "")
    alone = {"UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never"} if server.environment.offline else {}
    env = {**server.env, **alone}
    return (
        Step(
            name="create environment (uv)", script=_SCRIPT, args=args, env=env, needs=("uv",), hints=_HINTS
        ),
    )
