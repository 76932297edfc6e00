"""Which key is to be installed on which server, and where the password comes from. Asks no server."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_launch.transport import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.core.inventory import Server
    from remote_launch.transport.base import Target


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyPlan:
    """What is to happen for one server."""

    server: str
    login: str  # user@host
    key: Path | None  # the private key; None: the server needs none
    exists: bool
    named: bool  # it must stand in the inventory: ssh would not offer it by itself
    password_from: str | None  # password_command | password | prompt

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "key": None if self.key is None else str(self.key)}


def plan_authorize(servers: Sequence[Server], key: Path | None = None) -> list[KeyPlan]:
    """Return the plan, with no server asked. ``key``: the one to install, instead of the one found."""
    return [plan_key(server, key) for server in servers]


def plan_key(server: Server, key: Path | None) -> KeyPlan:
    """Given a server and the key asked for, if any, return its plan."""
    if server.transport == "local":
        return KeyPlan(
            server=server.name, login="", key=None, exists=False, named=False, password_from=None
        )
    if server.password_command is not None:
        source = "password_command"
    else:
        source = "prompt" if server.password is None else "password"
    target = by_key(server.target, None)
    chosen = key or server.private_key
    offered = keys.identity_files(target)
    if chosen is None:
        default = Path(keys.DEFAULT_KEY).expanduser()
        new = default if default in offered or not offered else offered[0]
        chosen = next((path for path in offered if keys.has_key(path)), new)
    chosen = keys.private_half(chosen)
    return KeyPlan(
        server=server.name,
        login=keys.login_name(target),
        key=chosen,
        exists=keys.has_key(chosen),
        named=server.private_key is not None or chosen not in offered,
        password_from=source,
    )


def by_key(target: Target, key: Path | None) -> Target:
    """The target as it is once no password is left in the inventory."""
    return dataclasses.replace(
        target, transport="openssh", password=None, password_command=None, private_key=key
    )
