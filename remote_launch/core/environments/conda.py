"""Environments by conda."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from remote_launch.core.environments.steps import Step
    from remote_launch.core.inventory import Server


def steps(server: Server) -> tuple[Step, ...]:
    """Return the steps that make the environment."""
    raise ConfigError(
        f"environment.manager: {server.environment.manager} can't be prepared yet",
        key="environment.manager",
        hint="use uv, venv or none; with none, python: names an interpreter of your conda environment",
    )
