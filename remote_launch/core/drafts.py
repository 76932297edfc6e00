"""Servers not in an inventory yet: words on a command line, hosts of ``~/.ssh/config``, this machine."""

from __future__ import annotations

import dataclasses
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from remote_launch.core.kinds import safe_server_name
from remote_launch.core.logins import parse_login
from remote_launch.core.ssh_aliases import host_aliases
from remote_launch.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerDraft:
    """What ``rl init`` writes of a server. A local one has no hostname."""

    name: str
    hostname: str | None = None
    username: str | None = None
    port: int | None = None
    private_key: str | None = None  # relative to the project, or "~/…"
    ssh_config: str | None = None


def parse_server(text: str) -> ServerDraft:
    """Given ``[name=][user@]host[:port]``, return its draft; the name is by default the host's.

    The host is a name, an address (IPv6 in brackets) or an alias of ``~/.ssh/config``. Raises UsageError.
    """
    name, equals, rest = text.strip().rpartition("=")
    try:
        login = parse_login(rest)
    except ValueError as error:
        raise UsageError(
            f"{_shown(text)} is no server: {error}",
            hint="write gpu-a=ubuntu@10.0.0.5:2222 (name, user, port: optional)",
        ) from error
    if not equals:
        name = _name_of(login.hostname)
    if not safe_server_name(name):
        raise UsageError(
            f"{name!r} can't be a server's name",
            hint="gpu-a=HOST: letters, digits, . _ -, not . _ - first",
        )
    return ServerDraft(name=name, hostname=login.hostname, username=login.username, port=login.port)


def local_servers(count: int) -> list[ServerDraft]:
    """Return ``count`` drafts of this machine: local-1, local-2 and on. Raises UsageError for less than 1."""
    if count < 1:
        raise UsageError(f"{count} local servers: expected at least 1")
    return [ServerDraft(name=f"local-{number}") for number in range(1, count + 1)]


def servers_from_ssh_config(patterns: Sequence[str], config_path: Path | None = None) -> list[ServerDraft]:
    """Return a draft for each Host alias that matches a pattern (``gpu*``), in the file's order.

    ``config_path`` is by default ``~/.ssh/config``. Another one is named in the drafts: ssh must read it too.
    Raises ConfigError when it can't be read and UsageError when a pattern matches nothing.
    """
    aliases = host_aliases(config_path)
    for pattern in patterns:
        if not any(fnmatchcase(alias, pattern) for alias in aliases):
            known = ", ".join(aliases[:20]) + (", …" if len(aliases) > 20 else "")
            raise UsageError(
                f"no Host of the ssh config matches {pattern!r}{did_you_mean(pattern, aliases)}",
                hint=f"it has: {known}" if known else "it names no hosts",
            )
    chosen = [alias for alias in aliases if any(fnmatchcase(alias, pattern) for pattern in patterns)]
    ssh_config = None if config_path is None else str(config_path.expanduser().absolute())
    return [ServerDraft(name=_name_of(alias), hostname=alias, ssh_config=ssh_config) for alias in chosen]


def _shown(text: str) -> str:
    """Return what was typed for a server, without what may be a password (user:password@host, host:word)."""
    text = text.strip()
    if re.fullmatch(r"[^:]*(:[0-9]{1,6})?", text):
        return repr(text)
    return repr(f"…@{text.rpartition('@')[2].partition(':')[0]}" if "@" in text else "…")


def _name_of(hostname: str) -> str:
    return _UNSAFE.sub("-", hostname).strip("._-") or "server"
