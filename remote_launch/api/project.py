"""The project that the Python API works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remote_launch.operations.fleet import Fleet


class CurrentProject:
    """The project of the current folder (or of $RL_PROJECT): found when it is first needed, then kept."""

    def __init__(self) -> None:
        self._fleet: Fleet | None = None

    def fleet(self) -> Fleet:
        """Return its servers. Raises ProjectNotFoundError, ConfigError."""
        from remote_launch.operations.fleet import Fleet

        if self._fleet is None:
            self._fleet = Fleet.load()
        return self._fleet


PROJECT = CurrentProject()
