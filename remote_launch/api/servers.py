"""The servers of the inventory, from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remote_launch.api.project import CurrentProject
    from remote_launch.core.inventory import Server


class Servers:
    """The servers of the inventory: iterate over their names in its order, index for an entry.

    ``SERVERS["gpu-a"].hostname``; ``"gpu-a" in SERVERS``; ``len(SERVERS)``. No server is asked anything."""

    def __init__(self, project: CurrentProject) -> None:
        self._project = project

    def __repr__(self) -> str:
        return "<the servers of the current project>"

    def __iter__(self) -> Iterator[str]:
        return iter(self._project.fleet().inventory.servers)

    def __getitem__(self, name: str) -> Server:
        """Return a server's entry, the defaults of the inventory applied. Raises UnknownServerError."""
        return self._project.fleet().server(str(name))

    def __len__(self) -> int:
        return len(self._project.fleet().inventory.servers)

    def __contains__(self, name: object) -> bool:
        return name in self._project.fleet().inventory.servers
