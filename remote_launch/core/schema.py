"""The inventory's keys as tables: for each mapping its keys, and for each key what it may hold.

Reading a mapping collects every problem in it, so that one run shows all that is to be mended.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from remote_launch.core import kinds
from remote_launch.core.kinds import Kind, WrongValueError
from remote_launch.core.logins import check_hostname, check_username
from remote_launch.errors import ConfigError, did_you_mean
from remote_launch.transport.command import is_secret_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from remote_launch.core.yaml_lines import Node

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

SERVER_KEYS: Mapping[str, Kind] = {
    "hostname": kinds.checked(check_hostname, "a hostname, an address, or an alias of ~/.ssh/config"),
    "username": kinds.checked(check_username, "a login name"),
    "port": kinds.integer(1, 65535),
    "private_key": kinds.TEXT,
    "password": kinds.SECRET,
    "password_command": kinds.SECRET,
    "connection": kinds.choice("ssh", "local"),
    "transport": kinds.choice("openssh", "fabric", "local"),
    "address": kinds.ADDRESS,
    "workdir": kinds.SERVER_PATH,
    "nproc_per_node": kinds.NPROC,
    "slots": kinds.integer(1, 500),  # a job opens a file for each
    "env": kinds.ENV,
    "properties": kinds.MAPPING,
    "python": kinds.TEXT,
    "ssh_config": kinds.TEXT,
    "connect_timeout_s": kinds.integer(1, 3600),
    "log_max_bytes": kinds.integer(1 << 20, 1 << 50),
    "environment": kinds.SUBTREE,
}
ENVIRONMENT_KEYS: Mapping[str, Kind] = {
    "manager": kinds.choice("conda", "uv", "venv", "none"),
    "python": kinds.TEXT,
    "requirements": kinds.PROJECT_FILE,
    "packages": kinds.TEXTS,
    "install_project": kinds.BOOLEAN,
    "pip_args": kinds.TEXTS,
    "index_url": kinds.SECRET,
    "extra_index_url": kinds.SECRETS,
    "find_links": kinds.SECRETS,
    "torch_backend": kinds.TEXT,
    "offline": kinds.BOOLEAN,
    "channels": kinds.TEXTS,
    "installer_url": kinds.TEXT,
    "sha256": kinds.checked(lambda text: bool(_SHA256.fullmatch(text)), "64 hex digits"),
    "name": kinds.FOLDER_NAME,
    "prefix": kinds.SERVER_PATH,
}
SYNC_KEYS: Mapping[str, Kind] = {
    "gitignore": kinds.BOOLEAN,
    "exclude": kinds.TEXTS,
    "compress": kinds.BOOLEAN,
    "max_warn_bytes": kinds.SIZE,
    "max_warn_files": kinds.integer(1),
}
LAUNCH_KEYS: Mapping[str, Kind] = {
    "max_restarts": kinds.integer(0),
    "restart_window": kinds.integer(1),
    "stall_timeout": kinds.integer(1),
}
INVENTORY_KEYS: Mapping[str, Kind] = {
    "name": kinds.FOLDER_NAME,
    "defaults": kinds.SUBTREE,
    "servers": kinds.SUBTREE,
    "environment": kinds.SUBTREE,
    "sync": kinds.SUBTREE,
    "launch": kinds.SUBTREE,
    "outputs": kinds.OUTPUTS,
    "on_finish": kinds.COMMAND,
    "exclude_file": kinds.TEXT,
    "logs_folder": kinds.TEXT,
    "jobs_folder": kinds.TEXT,
    "remote_jobs_folder_name": kinds.HIDDEN_FOLDER_NAME,
    "scripts_folder": kinds.TEXT,
    "remote_scripts_folder_name": kinds.TEXT,
}


class Problems:
    """Everything wrong with one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[tuple[int, str, str, str | None]] = []

    def add(self, line: int, key: str, message: str, hint: str | None = None) -> None:
        self._found.append((line, key, f"{key}: {message}" if key else message, hint))

    def about(self, *keys: str) -> bool:
        """True when something is wrong with one of these keys."""
        return any(problem[1] in keys for problem in self._found)

    def raise_any(self) -> None:
        """Raise one ConfigError with all problems, by line, the first in its attributes; return for none."""
        if not self._found:
            return
        found = sorted(self._found, key=lambda problem: problem[0])
        (line, key, message, hint), *others = found
        if others:
            message = "\n".join([message, *(f"{self.path}:{other[0]}: {other[2]}" for other in others)])
            hint = "\n".join(f"line {problem[0]}: {problem[3]}" for problem in found if problem[3]) or None
        raise ConfigError(message, path=self.path, line=line, key=key or None, hint=hint)


def read_keys(node: Node | None, keys: Mapping[str, Kind], where: str, problems: Problems) -> dict[str, Any]:
    """Given a mapping and its table, return the values by key, None for a key left blank; {} for none."""
    if node is None or node.is_null:
        return {}
    if node.fields is None:
        problems.add(node.line, where, f"expected a mapping (key: value), found {node.found()}")
        return {}
    values: dict[str, Any] = {}
    for name, value in node.fields.items():
        key = f"{where}.{name}" if where else name
        line = node.key_lines[name]
        kind = keys.get(name)
        if kind is None:
            message = f"unknown key{did_you_mean(name, keys)}"
            problems.add(line, key, message, f"known keys: {', '.join(keys)}")
        elif value.is_null:
            values[name] = None
        else:
            values[name] = read_value(value, kind, key, line, problems)
    return values


def read_value(node: Node, kind: Kind, key: str, line: int, problems: Problems) -> Any:
    """Given a node and the kind it must be, return its value; None, with the problem noted, when it isn't."""
    try:
        return kind.read(node)
    except WrongValueError as error:
        found = (error.node or node).found(secret=is_secret_name(key.rpartition(".")[2]))
        if error.node is not None:
            line = error.node.line
        elif node.fields is None and node.items is None:
            line = node.line
        full_key = f"{key}.{error.key}" if error.key else key
        message = error.reason or f"expected {kind.expected}, found {found}"
        problems.add(line, full_key, message, error.hint or kind.hint)
    except ValueError as error:
        problems.add(node.line, key, str(error) or f"expected {kind.expected}", kind.hint)
    return None
