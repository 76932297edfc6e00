"""The servers of one project with their connections: what every operation is given."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from remote_launch.core.jobs import iso, now
from remote_launch.operations.fanout import PARALLEL_SERVERS, Outcomes, fanout
from remote_launch.transport import open_transport
from remote_launch.transport.process import Cancel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    from remote_launch.core.inventory import Inventory, Server
    from remote_launch.core.project import Project
    from remote_launch.core.registry import Registry
    from remote_launch.transport.base import Transport

T = TypeVar("T")


class Fleet:
    """The project, its inventory, and one transport a server, opened when first needed. Use it in a
    ``with``."""

    def __init__(self, project: Project, inventory: Inventory) -> None:
        self.project = project
        self.inventory = inventory
        self.on_wait: Callable[[list[str]], None] | None = None  # told of servers that take long to answer
        self.local_runs = Cancel()  # for programs that run here on the servers' behalf
        self._transports: dict[str, Transport] = {}
        self._lock = threading.Lock()
        self._registry: Registry | None = None

    @classmethod
    def load(cls, project_path: str | None = None) -> Fleet:
        """Find the project from the current folder (or ``project_path``, or $RL_PROJECT) and read its
        inventory."""
        from remote_launch.core.inventory import load_inventory
        from remote_launch.core.project import find_project

        project = find_project(override=project_path)
        inventory = load_inventory(project)
        return cls(inventory.project, inventory)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def registry(self) -> Registry:
        """The local index of jobs."""
        from remote_launch.core.registry import Registry

        if self._registry is None:
            self._registry = Registry(self.project.registry)
        return self._registry

    @property
    def notices(self) -> list[str]:
        """What the user must know of the index of jobs, if it was used."""
        return [] if self._registry is None else self._registry.notices

    def server(self, name: str) -> Server:
        """Given a name, return its entry. Raises UnknownServerError."""
        return self.inventory.select([name])[0]

    def select(self, names: Sequence[str] = ()) -> list[Server]:
        """Given names (none: all), return the servers in inventory order. Raises UnknownServerError."""
        return self.inventory.select(list(names))

    def transport(self, name: str) -> Transport:
        """Return the server's transport, made at first use. Raises UnknownServerError."""
        with self._lock:
            if name not in self._transports:
                self._transports[name] = open_transport(self.server(name).target)
            return self._transports[name]

    def map(
        self,
        servers: Iterable[Server | str],
        function: Callable[[Server], T],
        *,
        limit: int = PARALLEL_SERVERS,
    ) -> Outcomes[T]:
        """Run ``function(server)`` on every server in parallel; see ``fanout``. Ctrl-C stops what runs on the
        servers."""
        by_name = {
            server.name: server for server in (self.server(s) if isinstance(s, str) else s for s in servers)
        }
        return fanout(
            by_name,
            lambda name: function(by_name[name]),
            limit=limit,
            on_interrupt=self.cancel,
            on_wait=self.on_wait,
        )

    def cancel(self) -> None:
        """Stop the commands that this process has running on the servers, and for them here."""
        self.local_runs.set()
        with self._lock:
            transports = list(self._transports.values())
        for transport in transports:
            transport.cancel()

    def close(self) -> None:
        """Let go of the connections; ssh masters stay for the next command."""
        with self._lock:
            transports, self._transports = list(self._transports.values()), {}
        for transport in transports:
            transport.close()

    def log(self, server: str, what: str, **fields: Any) -> None:
        """Add one line of JSON to ``.remote/logs/commands.log``: which command ran where, when, and how it
        ended. Where that can't be written, what was done stays done."""
        line = json.dumps({"time": iso(now()), "server": server, "command": what, **fields})
        with contextlib.suppress(OSError):
            self.project.logs_dir.mkdir(parents=True, exist_ok=True)
            with (self.project.logs_dir / "commands.log").open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def log_file(self, server: str, what: str) -> Path:
        """Return a new path under ``.remote/logs`` for the full output of a step on a server."""
        self.project.logs_dir.mkdir(parents=True, exist_ok=True)
        stamp = (iso(now()) or "").replace(":", "").replace("-", "").replace(".", "")
        word = "".join(c if c.isalnum() else "-" for c in what).strip("-")
        return self.project.logs_dir / f"{stamp}-{word}-{server}.log"
