"""Environments that are there already: ``manager: none``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.environments.places import environment_python
from remote_launch.core.environments.steps import Step

if TYPE_CHECKING:
    from remote_launch.core.inventory import Server

_SCRIPT = """
command -v "$1" >/dev/null 2>&1 || { echo "no such python on this server: $1" >&2; exit 1; }
"$1" -c 'import sys; print("python", sys.version.split()[0], sys.executable)'
"""


def steps(server: Server) -> tuple[Step, ...]:
    """Return the step that looks at the interpreter."""
    return (Step(name="check python", script=_SCRIPT, args=(environment_python(server),)),)
