"""What a key of the inventory may hold: kinds of values, each with its words for people and its check."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from remote_launch.core.globs import Output, check_output
from remote_launch.dataclass import dataclass
from remote_launch.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from remote_launch.core.yaml_lines import Node

_FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_HIDDEN_FOLDER_NAME = re.compile(r"\.?[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9_]*)\Z")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]?)B?\Z")
_SIZE_UNITS = {"": 1, "k": 1000, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}


class WrongValueError(ValueError):
    """A value that a key can't hold.

    ``reason`` says it in full, or is empty for "expected ..., found ...". ``node`` and ``key`` are what is
    wrong within the value: an item of a list, a variable.
    """

    def __init__(
        self,
        reason: str = "",
        *,
        node: Node | None = None,
        key: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node
        self.key = key
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Kind:
    """What a key may hold, in words, and how it is read. ``read`` raises ValueError for anything else."""

    expected: str
    read: Callable[[Node], Any]
    hint: str | None = None


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
        raise WrongValueError("has a control character in it" if text.strip() else "is empty")
    return text


def checked(check: Callable[[str], Any], expected: str, hint: str | None = None) -> Kind:
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
        source = node.source or ""
        if isinstance(node.value, str) and source.isdecimal():
            raise WrongValueError(hint="write the number without quotes")
        if not isinstance(node.value, int) or not _DECIMAL.match(source):
            raise WrongValueError
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
    return tuple(_read_item(index, item) for index, item in enumerate(node.items))


def _read_outputs(node: Node) -> tuple[Output, ...]:
    if node.items is None:
        raise WrongValueError
    return tuple(_read_output(str(index), item) for index, item in enumerate(node.items))


def _read_output(index: str, item: Node) -> Output:
    """A path, or {path, per_node}."""
    fields = {"path": item} if item.fields is None else item.fields
    for name in fields:
        if name not in ("path", "per_node"):
            raise WrongValueError(
                f"unknown key{did_you_mean(name, ('path', 'per_node'))}", node=item, key=f"{index}.{name}",
                hint="known keys: path, per_node",
            )  # fmt: skip
    if "path" not in fields:
        raise WrongValueError("path is missing", node=item, key=index)
    where = index if item.fields is None else f"{index}.path"
    text = _read_item(where, fields["path"])
    try:
        check_output(text)
    except ValueError as error:
        raise WrongValueError(f"{text!r}: {error}", node=fields["path"], key=where) from None
    per_node = fields.get("per_node")
    if per_node is None or per_node.is_null:  # a key left blank is as good as absent
        return Output(path=text)
    if not isinstance(per_node.value, bool):
        reason = f"expected true or false, found {per_node.found()}"
        raise WrongValueError(reason, node=per_node, key=f"{index}.per_node")
    return Output(path=text, per_node=per_node.value)


def _read_secrets(node: Node) -> tuple[str, ...]:
    if node.items is None:
        return (_source(node),)
    return tuple(_source(item) for item in node.items)


def _read_item(index: int | str, item: Node) -> str:
    try:
        return _read_text(item)
    except WrongValueError as error:
        reason = error.reason or f"expected text, found {item.found()}"
        raise WrongValueError(reason, node=item, key=str(index), hint=error.hint) from None


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
    """True for a folder on a server that may be filled and swept: not the root, not home, no way up."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    rooted = text.startswith(("/", "~/"))
    return rooted and ".." not in parts and len(parts) > (1 if text.startswith("~/") else 0)


def _read_project_file(node: Node) -> str:
    path = PurePosixPath(_read_text(node))
    if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0] == "~":
        raise WrongValueError
    return str(path)


TEXT = Kind("text", _read_text)
PROJECT_FILE = Kind("a file of the project, relative to its folder", _read_project_file)
SECRET = Kind("text", _source)
COMMAND = Kind("a shell command", _source)
BOOLEAN = Kind("true or false", _read_boolean)
SECRETS = Kind("a text or a list of texts", _read_secrets)  # URLs, which may have a login in them
TEXTS = Kind("a list of texts", _read_texts, "one item a line, each after '- '")
OUTPUTS = Kind("a list of paths in the workdir", _read_outputs, "one a line, each after '- ': checkpoints/")
ENV = Kind("a mapping of variables (NAME: value)", _read_env)
MAPPING = Kind("a mapping (key: value)", _read_mapping)
ADDRESS = checked(lambda text: not re.search(r"[\s/@]", text), "an address or a hostname")
SUBTREE = Kind("a mapping (key: value)", lambda node: node)  # read on its own, with a table of its own
NPROC = Kind("a whole number from 1, or gpu, cpu, auto", _read_nproc)
SIZE = Kind('a size: a number of bytes, or text like "500 MB"', _read_size)
SERVER_PATH = checked(
    _server_path,
    "a folder on the server: an absolute path, or one that starts with ~/",
    "variables are not expanded and '..' is not followed; the home folder and / themselves can't be used",
)
FOLDER_NAME = checked(safe_folder_name, "a folder's name: letters, digits and . _ - (not first . or -)")
HIDDEN_FOLDER_NAME = checked(lambda text: bool(_HIDDEN_FOLDER_NAME.match(text)), "a folder's name")
