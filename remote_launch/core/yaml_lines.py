"""YAML with the line of every key kept: what makes an error point at the place to mend.

The semantics are ``yaml.safe_load``'s (anchors, aliases and ``<<`` merges included), but a key given twice is
an error, and each scalar keeps its spelling: ``3.10`` is also the text "3.10", where safe_load has only 3.1.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from remote_launch.dataclass import dataclass
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_MERGE_TAG = "tag:yaml.org,2002:merge"
_SHOWN_CHARS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value and its line (from 1). Reprs show no content: it may hold secrets.

    ``value`` is what safe_load would give; ``source`` a scalar's spelling without its quotes; ``items`` a
    list's nodes; ``fields`` a mapping's by the spelling of their keys, whose lines are in ``key_lines``.
    """

    line: int
    value: Any = dataclasses.field(repr=False)
    source: str | None = dataclasses.field(default=None, repr=False)
    items: tuple[Node, ...] | None = dataclasses.field(default=None, repr=False)
    fields: dict[str, Node] | None = dataclasses.field(default=None, repr=False)
    key_lines: dict[str, int] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def is_null(self) -> bool:
        return self.source is not None and self.value is None

    def found(self, *, secret: bool = False) -> str:
        """Return what the value is, for people: "the text 'x'", "22", "a list"; of a secret no content."""
        if self.fields is not None:
            return "a mapping"
        if self.items is not None:
            return "a list"
        if self.is_null:
            return "nothing"
        source = self.source or ""
        shown = source if len(source) <= _SHOWN_CHARS else source[:_SHOWN_CHARS] + "…"
        if isinstance(self.value, str):
            return "text" if secret else f"the text {shown!r}"
        return "another value" if secret else shown


def parse_yaml(text: str, path: Path) -> Node | None:
    """Given a YAML document, return its top node, or None when it is empty. ``path`` is only named in errors.

    Raises ConfigError with the line: for broken YAML, a key given twice, a tag that is not plain data.
    """
    import yaml

    loader_class: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        loader = loader_class(text)
        try:
            top = loader.get_single_node()
            return None if top is None else _Reader(loader, path).read(top)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _broken(error, text, path) from error
    except RecursionError as error:
        raise ConfigError("nested too deeply", path=path, hint="an inventory has four levels") from error


class _Reader:
    """Turns PyYAML's nodes into ours. A node met again through an alias is read once."""

    def __init__(self, loader: Any, path: Path) -> None:
        self._loader = loader
        self._path = path
        self._done: dict[int, Node] = {}
        self._open: set[int] = set()
        self._keys: list[str] = []  # the way to the node that is read now

    def read(self, raw: Any) -> Node:
        identity = id(raw)
        if identity in self._done:
            return self._done[identity]
        if identity in self._open:
            raise ConfigError(
                "an anchor that contains itself",
                path=self._path,
                line=_line(raw),
                hint="write it out",
            )
        self._open.add(identity)
        node = {"scalar": self._scalar, "sequence": self._sequence, "mapping": self._mapping}[raw.id](raw)
        self._open.discard(identity)
        self._done[identity] = node
        return node

    def _scalar(self, raw: Any) -> Node:
        try:
            value = self._loader.construct_object(raw, deep=True)
        except ValueError:  # 2021-02-31 looks like a date and is none
            value = raw.value
        return Node(line=_line(raw), value=value, source=raw.value)

    def _sequence(self, raw: Any) -> Node:
        items = tuple(self.read(item) for item in raw.value)
        return Node(line=_line(raw), value=[item.value for item in items], items=items)

    def _mapping(self, raw: Any) -> Node:
        merged: dict[str, Node] = {}
        fields: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for raw_key, raw_value in raw.value:
            if raw_key.id != "scalar":
                raise ConfigError(
                    "a key must be a plain word",
                    path=self._path,
                    line=_line(raw_key),
                    hint="text that starts with { or [ needs quotes around it",
                )
            name = str(raw_key.value)
            self._keys.append(name)
            value = self.read(raw_value)
            key = ".".join(self._keys)
            self._keys.pop()
            if raw_key.tag == _MERGE_TAG:
                for source in self._merge_sources(value):
                    merged = {**(source.fields or {}), **merged}
                    lines = {**source.key_lines, **lines}
                continue
            if name in fields:
                raise ConfigError(
                    f"{key}: key given twice, first on line {lines[name]}",
                    path=self._path,
                    line=_line(raw_key),
                    key=key,
                    hint="keep one of the two",
                )
            fields[name] = value
            lines[name] = _line(raw_key)
        fields = {**merged, **fields}
        return Node(
            line=_line(raw),
            value={name: node.value for name, node in fields.items()},
            fields=fields,
            key_lines=lines,
        )

    def _merge_sources(self, value: Node) -> tuple[Node, ...]:
        sources = value.items if value.items is not None else (value,)
        for source in sources:
            if source.fields is None:
                raise ConfigError(
                    f"<<: expected a mapping or a list of mappings, found {source.found()}",
                    path=self._path,
                    line=source.line,
                    hint="<<: *name merges the mapping that &name marks",
                )
        return sources


def _line(raw: Any) -> int:
    return int(raw.start_mark.line) + 1


# What libyaml's and PyYAML's own words mean to a person: a part of what they say -> our words, the next step.
_COLUMNS = (
    "the indentation changes inside a mapping, or a value goes on after its end",
    "the keys of one mapping start in the same column",
)
_CONTROL = ("a control character", 'delete it, or write it as "\\x.." in double quotes')
_PLAIN_WORDS: tuple[tuple[str, str, str], ...] = (
    (
        "cannot start any token",
        "a tab, or a sign that YAML reserves, where a value was expected",
        "indent with spaces; put quotes around text with @ ` % or a tab in it",
    ),
    (
        "mapping values are not allowed",
        "a ':' where none can be",
        "check the indentation, and put quotes around text with ': ' in it",
    ),
    ("did not find expected key", *_COLUMNS),
    ("expected <block end>", *_COLUMNS),
    ("could not find expected ':'", "a line that is no 'key: value'", "after each key come ':' and a space"),
    (
        "did not find expected '-' indicator",
        "a list goes on with something that is no item",
        "items start with '- ', in one column",
    ),
    ("flow sequence", "a '[' without its ']'", "close the list; text that starts with [ needs quotes"),
    ("flow mapping", "a '{' without its '}'", "close the mapping; text that starts with { needs quotes"),
    ("quoted scalar", "a quoted text without its closing quote", "close the quote on the same line"),
    (
        "undefined alias",
        "an alias (*name) whose anchor (&name) isn't there",
        "put quotes around text that starts with *",
    ),
    ("duplicate anchor", "the same anchor twice", "give the second another name"),
    ("expected a single document", "a second document ('---')", "an inventory is one document"),
    (
        "determine a constructor for the tag",
        "a tag (!...) that is not plain data",
        "put quotes around text that starts with !",
    ),
    ("control characters are not allowed", *_CONTROL),
    ("special characters are not allowed", *_CONTROL),
)


def _broken(error: Any, text: str, path: Path) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    position = getattr(error, "position", None)  # of a character that YAML does not allow; no mark then
    line = mark.line + 1 if mark is not None else None
    if line is None and isinstance(position, int):
        line = text.count("\n", 0, position) + 1
    said = " ".join(str(getattr(error, name, None) or "") for name in ("problem", "context", "reason"))
    for words, plain, hint in _PLAIN_WORDS:
        if words in said:
            return ConfigError(f"not valid YAML: {plain}", path=path, line=line, hint=hint)
    message = f"not valid YAML: {said.strip()}"
    return ConfigError(message, path=path, line=line, hint="check the lines above it too")
