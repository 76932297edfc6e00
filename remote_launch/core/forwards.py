"""The project's record of forwarded ports: a small file that every ``rl`` of the project reads and writes.

It says what was begun, not what is there: who reads it asks whether each one still lives."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from typing import TYPE_CHECKING, Any

from remote_launch.core.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remote_launch.core.project import Project

LOCALHOST = "localhost"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForwardRecord:
    """One forward: ``local_port`` of ``machine`` leads to ``remote_port`` of ``remote_host``, as ``server``
    knows it. ``pid`` is rl's own in the foreground, else that of the ssh process behind ``socket``."""

    server: str
    local_port: int
    remote_port: int
    started_at: float
    machine: str
    pid: int
    background: bool
    remote_host: str = LOCALHOST
    socket: str = ""
    ended_at: float | None = None  # when it was first found to be dead
    stop_asked: bool = False  # of one in the foreground: another ``rl`` wants it to end

    def is_same(self, other: ForwardRecord) -> bool:
        """By what never changes: another process may have noted meanwhile that it is dead, or is to end."""
        mine = (self.machine, self.pid, self.started_at)
        return mine == (other.machine, other.pid, other.started_at)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.local_port}"

    @property
    def to(self) -> str:
        """Where it leads, for people: "6006", or "10.0.0.7:6006"."""
        port = str(self.remote_port)
        return port if self.remote_host == LOCALHOST else f"{self.remote_host}:{port}"

    @property
    def command(self) -> str:
        """What starts it again."""
        both = self.local_port != self.remote_port
        ports = f"{self.local_port}:{self.remote_port}" if both else str(self.remote_port)
        host = "" if self.remote_host == LOCALHOST else f" --to {self.remote_host}"
        return f"rl forward {self.server} {ports}{host}{' --background' if self.background else ''}"


class ForwardBook:
    """``.remote/forwards.json``. What in it can't be read is left out."""

    def __init__(self, project: Project) -> None:
        self.path = project.remote_dir / "forwards.json"

    def read(self) -> list[ForwardRecord]:
        """Return the records, oldest first."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return []
        found = [_record(item) for item in content] if isinstance(content, list) else []
        return [record for record in found if record is not None]

    @contextlib.contextmanager
    def change(self) -> Iterator[list[ForwardRecord]]:
        """For the length of a ``with``: the records, to be changed in place; nobody else writes meanwhile.
        Raises OSError when the file can't be written."""
        with self._locked():
            before = self.read()
            records = list(before)
            yield records
            if records != before:
                content = [dataclasses.asdict(one) for one in records]
                write_atomic(self.path, json.dumps(content, indent=1) + "\n")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        file = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # a filesystem without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def _record(item: Any) -> ForwardRecord | None:
    if not isinstance(item, dict):
        return None
    kinds: dict[str, Any] = {
        "server": str, "local_port": int, "remote_port": int, "remote_host": str, "machine": str, "pid": int,
        "started_at": (int, float), "ended_at": (int, float, type(None)), "background": bool, "socket": str,
    }  # fmt: skip
    if not all(isinstance(item.get(name), kind) for name, kind in kinds.items()):
        return None
    return ForwardRecord(**{name: item[name] for name in kinds}, stop_asked=item.get("stop_asked") is True)
