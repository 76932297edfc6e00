"""How a server's environment is made: the recipe, of the steps of its manager and those of the packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.environments import conda, existing, uv, venv
from remote_launch.core.environments.packages import packages_part
from remote_launch.core.environments.places import environment_prefix, environment_python
from remote_launch.core.environments.steps import Part, Recipe, Step, fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from remote_launch.core.environments.conda import CondaFile
    from remote_launch.core.environments.sources import Source
    from remote_launch.core.inventory import Server

_STEPS: Mapping[str, Callable[[Server], tuple[Step, ...]]] = {
    "uv": uv.steps,
    "venv": venv.steps,
    "none": existing.steps,
}


def recipe_for(server: Server, source: Source | None, conda_file: CondaFile | None = None) -> Recipe:
    """Given what the packages come from, and for conda what environment.yml says, return how the server's
    environment is made. Raises ConfigError."""
    manager = server.environment.manager
    steps = conda.steps(server, conda_file) if manager == "conda" else _STEPS[manager](server)
    prefix = environment_prefix(server)
    own = f"{server.workdir}/.rl"
    packages, files = packages_part(server, source)
    return Recipe(
        manager=manager,
        prefix=prefix,
        python=environment_python(server),
        lock=f"{prefix or own + '/packages'}.rl-lock",
        environment=Part(
            fingerprint=fingerprint_of(
                manager,
                [(step.script, step.args) for step in steps if not step.provides],
                *([conda_file.content] if conda_file and conda_file.content else []),
            ),
            mark=f"{prefix or own}/.rl-environment",
            steps=steps,
            empties=prefix,
        ),
        packages=packages,
        files=files,
        source_files=(*(conda_file.files if conda_file else ()), *(source.files if source else ())),
    )
