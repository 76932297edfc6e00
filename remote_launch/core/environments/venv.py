"""Environments by python's own venv."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.environments.places import environment_prefix, wanted_python
from remote_launch.core.environments.steps import Step

if TYPE_CHECKING:
    from remote_launch.core.inventory import Server

# $1 the environment's folder, $2 the python asked for ("" for any). Debian and Ubuntu part venv's ensurepip
# from python3: where it is missing uv makes the same environment.
_SCRIPT = """
python=${2:-python3}
command -v "$python" >/dev/null 2>&1 || { echo "no such python on this server: $python" >&2; exit 1; }
echo "creating $1 with $python"
if [ -n "$UV" ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  echo "$python lacks ensurepip (the package python3-venv): uv makes the environment"
  exec "$UV" venv --quiet --allow-existing --seed --python "$python" "$1"
fi
exec "$python" -m venv "$1"
"""


def steps(server: Server) -> tuple[Step, ...]:
    """Return the steps that make the environment."""
    prefix = environment_prefix(server) or ""
    args = (prefix, server.python or wanted_python(server))
    return (
        Step(name="create environment (venv)", script=_SCRIPT, args=args, env=server.env, wants=("uv",)),
    )
