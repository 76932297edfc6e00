"""What an inventory held when it was last parsed: a command then needs no YAML parser, 12 ms of its start.

``.remote/cache/inventory.json`` bears the hash of the text that it was made of, and counts for that alone. An
inventory that holds secrets is parsed each time: no second file keeps them.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from remote_launch.core.yaml_lines import Node, parse_yaml
from remote_launch.transport.command import is_secret_name, mask_urls
from remote_launch.transport.digest import blake2b

if TYPE_CHECKING:
    from pathlib import Path

_FORMAT = 1  # another one where ``Node`` or its reading changes
_FOLDER = "cache"
_NODES_LIMIT = 5000  # aliases of aliases may stand for many more than were written
_NO_SECRETS = ("private_key",)  # the file's name
_MAY_HOLD_ONE = ("on_finish",)  # the address of a webhook is its key


class _NotKeptError(Exception):
    """This inventory can't be kept, or should not."""


def parse_kept(text: str, path: Path) -> Node | None:
    """As ``parse_yaml``, of the inventory at ``path``."""
    key = blake2b(f"{_FORMAT}\n{text}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    file = path.parent / _FOLDER / "inventory.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        kept = json.loads(file.read_bytes())
        if kept["key"] == key:
            return _node(kept["top"])
    top = parse_yaml(text, path)
    if top is not None:
        with contextlib.suppress(OSError, _NotKeptError):
            _write(file, json.dumps({"key": key, "top": _Keeper().keep(top)}))
    return top


def _node(told: Any) -> Node:
    line, source, content = told
    if isinstance(content, dict):
        fields = {name: _node(node) for name, (node, _) in content.items()}
        lines = {name: int(key_line) for name, (_, key_line) in content.items()}
        value = {name: node.value for name, node in fields.items()}
        return Node(line=line, value=value, fields=fields, key_lines=lines)
    if isinstance(content, list):
        items = tuple(map(_node, content))
        return Node(line=line, value=[item.value for item in items], items=items)
    return Node(line=line, value=content, source=source)


class _Keeper:
    """Makes JSON of nodes, as ``_node`` reads it. Raises _NotKeptError."""

    def __init__(self) -> None:
        self._left = _NODES_LIMIT

    def keep(self, node: Node, name: str = "") -> list[Any]:
        self._left -= 1
        if self._left < 0:
            raise _NotKeptError
        content = node.value
        if node.fields is not None:
            content = {
                name: [self.keep(field, name), node.key_lines[name]] for name, field in node.fields.items()
            }
        elif node.items is not None:
            content = [self.keep(item, name) for item in node.items]
        elif not isinstance(content, str | int | float | None) or _is_secret(name, node):
            raise _NotKeptError  # a date, a set …
        return [node.line, node.source, content]


def _is_secret(name: str, node: Node) -> bool:
    source = node.source or ""
    secret_name = name in _MAY_HOLD_ONE or (is_secret_name(name) and name not in _NO_SECRETS)
    return bool(source) and (secret_name or mask_urls(source) != source)


def _write(file: Path, content: str) -> None:
    folder = file.parent
    if not folder.is_dir():
        folder.mkdir()
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    aside = folder / f".{file.name}.{os.getpid()}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as out:
        out.write(content)
    aside.replace(file)
