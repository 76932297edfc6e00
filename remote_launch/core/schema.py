"""The inventory's keys as tables: for each mapping its keys, and for each key what it may hold.

Reading a mapping collects every problem in it, so that one run shows all that is to be mended.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from remote_launch.core.logins import check_hostname, check_username
from remote_launch.errors import ConfigError, did_you_mean
from remote_launch.transport.command import is_secret_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from remote_launch.core.yaml_lines import Node

_FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_HIDDEN_FOLDER_NAME = re.compile(r"\.?[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]?)i?B?\Z")
_SIZE_UNITS = {"": 1, "k": 1000, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}


class WrongValueError(ValueError):
    """A value that a key can't hold. ``reason`` in full, or empty for "expected …, found …"; ``key`` is below the one read."""

    def __init__(self, reason: str = "", *, node: Node | None = None, key: str = "", hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node
        self.key = key
        self.hint = hint


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What a key may hold: ``expected`` in words, and how it is read. ``read`` raises ValueError for what it can't hold."""

    expected: str
    read: Callable[[Node], Any]
    hint: str | None = None


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
        """Raise one ConfigError with all problems, the first by line in its attributes. Return when there are none."""
        if not self._found:
            return
        (line, key, message, hint), *others = sorted(self._found, key=lambda problem: problem[0])
        message = "\n".join([message, *(f"{self.path}:{other[0]}: {other[2]}" for other in others)])
        raise ConfigError(message, path=self.path, line=line, key=key or None, hint=hint)


def read_keys(node: Node | None, keys: Mapping[str, Kind], where: str, problems: Problems) -> dict[str, Any]:
    """Given a mapping and its table, return the values by key; a key left blank gives None. An absent mapping gives {}."""
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
            problems.add(line, key, f"unknown key{did_you_mean(name, keys)}", f"known keys: {', '.join(keys)}")
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
        problems.add(line, full_key, error.reason or f"expected {kind.expected}, found {found}", error.hint or kind.hint)
    except ValueError as error:
        problems.add(node.line, key, str(error) or f"expected {kind.expected}", kind.hint)
    return None


def safe_folder_name(name: str) -> bool:
    """True for a name that is one folder everywhere and needs no quotes in any shell."""
    return bool(_FOLDER_NAME.match(name))


def safe_server_name(name: str) -> bool:
    """True for a name that a server may have: it becomes a folder, a tag and a word on command lines."""
    return bool(_SERVER_NAME.match(name))


def _source(node: Node) -> str:
    """The scalar as it is spelled: 3.10 stays "3.10", 0123 stays "0123"."""
    if node.source is None or node.is_null:
        raise WrongValueError
    return node.source


def _read_text(node: Node) -> str:
    text = _source(node)
    if isinstance(node.value, bool):
        raise WrongValueError(hint="put quotes around it if the word is meant")
    if not text.strip() or _CONTROL.search(text):
        raise WrongValueError("is empty" if not text.strip() else "has a line break or a control character in it")
    return text


def _checked(check: Callable[[str], Any], expected: str, hint: str | None = None) -> Kind:
    """A text for which ``check`` neither raises ValueError nor returns False."""

    def read(node: Node) -> str:
        text = _read_text(node)
        if check(text) is False:
            raise WrongValueError
        return text

    return Kind(expected, read, hint)


def integer(low: int, high: int | None = None) -> Kind:
    """A whole number in decimal digits, unquoted. YAML's 022 (octal) and 22:30 (base 60) are refused."""

    def read(node: Node) -> int:
        quoted = isinstance(node.value, str)
        if quoted or isinstance(node.value, bool) or not re.fullmatch(r"-?(0|[1-9][0-9_]*)", node.source or ""):
            hint = "write the number without quotes" if quoted and (node.source or "").isdecimal() else None
            raise WrongValueError(hint=hint)
        value = int(node.value)
        if value < low or (high is not None and value > high):
            raise WrongValueError
        return value

    return Kind(f"a whole number from {low}" + (f" to {high}" if high is not None else ""), read)


def choice(*words: str) -> Kind:
    """One of a few words."""

    def read(node: Node) -> str:
        text = _read_text(node)
        if text not in words:
            raise WrongValueError(f"expected {expected}, found {node.found()}{did_you_mean(text, words)}")
        return text

    expected = "one of " + ", ".join(words)
    return Kind(expected, read)


def _read_boolean(node: Node) -> bool:
    if not isinstance(node.value, bool):
        raise WrongValueError
    return node.value


def _read_texts(node: Node) -> tuple[str, ...]:
    if node.items is None:
        raise WrongValueError
    texts = []
    for index, item in enumerate(node.items):
        try:
            texts.append(_read_text(item))
        except WrongValueError as error:
            reason = error.reason or f"expected text, found {item.found()}"
            raise WrongValueError(reason, node=item, key=str(index), hint=error.hint) from None
    return tuple(texts)


def _read_env(node: Node) -> dict[str, str]:
    if node.fields is None:
        raise WrongValueError
    for name, value in node.fields.items():
        if not _VARIABLE.match(name):
            raise WrongValueError("not the name of an environment variable", node=value, key=name)
        if value.source is None:
            raise WrongValueError(f"expected text or a number, found {value.found()}", node=value, key=name)
        if value.is_null:
            raise WrongValueError("has no value", node=value, key=name, hint='write "" for an empty one')
        if "\0" in value.source:
            raise WrongValueError("a NUL character can't be in a variable", node=value, key=name)
    return {name: value.source or "" for name, value in node.fields.items()}


def _read_mapping(node: Node) -> dict[str, Any]:
    if node.fields is None:
        raise WrongValueError
    return dict(node.value)


def _read_nproc(node: Node) -> int | str:
    if node.source in ("gpu", "cpu", "auto"):
        return node.source
    return int(integer(1).read(node))


def _read_size(node: Node) -> int:
    match = _SIZE.match(node.source or "")
    if match is None or isinstance(node.value, bool):
        raise WrongValueError
    return int(float(match[1]) * _SIZE_UNITS[match[2]])


def _server_path(text: str) -> bool:
    """True for a folder on a server that is safe to name: not the root, not home itself, no way up out of it."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    rooted = text.startswith(("/", "~/"))
    return rooted and ".." not in parts and len(parts) > (1 if text.startswith("~/") else 0)


TEXT = Kind("text", _read_text)
SECRET = Kind("text", _source)
BOOLEAN = Kind("true or false", _read_boolean)
TEXTS = Kind("a list of texts", _read_texts, "one item a line, each after '- '")
ENV = Kind("a mapping of variables (NAME: value)", _read_env)
MAPPING = Kind("a mapping (key: value)", _read_mapping)
ADDRESS = _checked(lambda text: not re.search(r"[\s/@]", text), "an address or a hostname")
SERVER_PATH = _checked(
    _server_path, "a folder on the server: an absolute path, or one that starts with ~/",
    "variables are not expanded and '..' is not followed; the home folder and / themselves can't be used",
)
FOLDER_NAME = _checked(safe_folder_name, "a folder's name: letters, digits and . _ - (not first . or -)")

SERVER_KEYS: Mapping[str, Kind] = {
    "hostname": _checked(check_hostname, "a hostname, an address, or an alias of ~/.ssh/config"),
    "username": _checked(check_username, "a login name"),
    "port": integer(1, 65535),
    "private_key": TEXT,
    "password": SECRET,
    "connection": choice("ssh", "local"),
    "transport": choice("openssh", "fabric", "local"),
    "address": ADDRESS,
    "workdir": SERVER_PATH,
    "nproc_per_node": Kind("a whole number from 1, or gpu, cpu, auto", _read_nproc),
    "env": ENV,
    "properties": MAPPING,
    "python": TEXT,
    "ssh_config": TEXT,
    "connect_timeout_s": integer(1, 3600),
}
ENVIRONMENT_KEYS: Mapping[str, Kind] = {
    "manager": choice("conda", "uv", "venv", "none"),
    "python": TEXT,
    "requirements": TEXT,
    "pip_args": TEXTS,
    "name": FOLDER_NAME,
    "prefix": SERVER_PATH,
}
SYNC_KEYS: Mapping[str, Kind] = {
    "gitignore": BOOLEAN,
    "exclude": TEXTS,
    "compress": BOOLEAN,
    "max_warn_bytes": Kind('a size: a number of bytes, or text like "500 MB"', _read_size),
    "max_warn_files": integer(1),
}
_SUBTREE = Kind("a mapping (key: value)", lambda node: node)  # read on its own, with its own table
INVENTORY_KEYS: Mapping[str, Kind] = {
    "name": FOLDER_NAME,
    "defaults": _SUBTREE,
    "servers": _SUBTREE,
    "environment": _SUBTREE,
    "sync": _SUBTREE,
    "exclude_file": TEXT,
    "logs_folder": TEXT,
    "jobs_folder": TEXT,
    "remote_jobs_folder_name": _checked(lambda text: bool(_HIDDEN_FOLDER_NAME.match(text)), "a folder's name"),
    "scripts_folder": TEXT,
    "remote_scripts_folder_name": TEXT,
}
