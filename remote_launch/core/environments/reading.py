"""The project's own files, read with errors that name file and line."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_AT_LINE = re.compile(r" ?\(at (?:line (\d+), column \d+|end of document)\)")
_WRITES = {"uv.lock": "uv", "poetry.lock": "poetry"}


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError: file, line, what is wrong."""
    tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    text = read_text(path)
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:
        where = _AT_LINE.search(str(error))
        line = int(where[1]) if where and where[1] else text.count("\n") + 1
        message = _AT_LINE.sub("", str(error))
        program = _WRITES.get(path.name)
        hint = f"write it anew: {program} lock" if program else "mend the line"
        raise ConfigError(f"broken TOML: {message}", path=path, line=line, hint=hint) from error
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Raises ConfigError: file, line, what is wrong."""
    try:
        found = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        message = f"broken JSON: {error.msg}"
        raise ConfigError(message, path=path, line=error.lineno, hint="write it anew: pipenv lock") from error
    except RecursionError as error:
        raise ConfigError("broken JSON: too deep", path=path, hint="write it anew: pipenv lock") from error
    if not isinstance(found, dict):
        raise ConfigError("broken JSON: expected an object", path=path, hint="write it anew: pipenv lock")
    return found


def read_text(path: Path) -> str:
    """Raises ConfigError for a file that can't be read, or isn't text."""
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"can't be read: {error.strerror}"
        raise ConfigError(message, path=path, hint="it must be a file that you can read") from error
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as PowerShell's > writes; pip reads it
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError("not UTF-8 text", path=path, line=line, hint="save the file as UTF-8") from error


def content_of(root: Path, names: Iterable[str]) -> str:
    """Return a hash of what files hold."""
    digest = hashlib.sha256()
    for name in names:
        content = (root / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()


def table(holder: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a table within tables; {} where there is none."""
    found: Any = holder
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def normal_name(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
