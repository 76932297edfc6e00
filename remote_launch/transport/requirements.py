"""Requirements files as plain text: which files, hashes and local paths one brings in. What the lines mean is
pip's and uv's business."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_INCLUDE = re.compile(r"\s*(-r|-c|--requirement|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(\S.*?)\s*\Z")
_COMMENT = re.compile(r"(?:^|\s+)#.*\Z")
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_HASH = re.compile(r"--hash[=\s]+([a-z0-9]+:[0-9a-fA-F]+)")
_EDITABLE = re.compile(r"\s*(?:-e|--editable)(?:\s*=\s*|\s+)")
_ARCHIVE = re.compile(r"\.(whl|zip|tar\.\w+|tgz)\Z")
_NOT_SOURCE = {"__pycache__", "node_modules"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """A requirements file with all that it includes."""

    files: tuple[Path, ...]  # itself first
    lines: tuple[str, ...]  # of all files, continuations joined, no comments
    hashes: Mapping[str, tuple[str, ...]]  # "sha256:…" by name, where a line asks for some
    local: tuple[Path, ...]  # folders and archives that lines name


def read_requirements(path: Path, *, base: Path) -> Requirements:
    """Read a file and the ones it includes. Paths of packages are relative to ``base``, as pip has them,
    those of included files to the file that names them. Raises ConfigError for one that isn't there."""
    texts: dict[Path, list[str]] = {}
    _read(path, None, texts)
    lines = [line for found in texts.values() for line in found]
    hashes: dict[str, tuple[str, ...]] = {}
    for line in lines:
        name, wanted = _NAME.match(line), tuple(_HASH.findall(line))
        if name and wanted:
            key = normal_name(name[1])
            hashes[key] = tuple(dict.fromkeys((*hashes.get(key, ()), *wanted)))
    local = [found for line in lines if (found := local_path(line, base)) is not None]
    return Requirements(files=tuple(texts), lines=tuple(lines), hashes=hashes, local=tuple(local))


def _read(path: Path, named_by: Path | None, texts: dict[Path, list[str]]) -> None:
    if path in texts:
        return
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        where = "" if named_by is None else f", which {named_by} includes"
        raise ConfigError(
            f"can't read the requirements file {path}{where}: {error.strerror}", hint="check the name"
        ) from None
    texts[path] = list(joined_lines(text))
    for line in texts[path]:
        include = _INCLUDE.match(line)
        if include and "://" not in include[2]:
            _read(Path(os.path.normpath(path.parent / include[2].strip("\"'"))), path, texts)


def joined_lines(text: str) -> Iterator[str]:
    """Yield the lines that say something: those that end in a backslash joined, comments left out."""
    held = ""
    for raw in text.splitlines():
        line = _COMMENT.sub("", raw)
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        whole, held = (held + line).strip(), ""
        if whole:
            yield whole
    if held.strip():
        yield held.strip()


def normal_name(name: str) -> str:
    """Given a package's name, return it as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def absolute_includes(text: str, base: Path) -> str:
    """Given the text of a requirements file that will lie elsewhere, return it with its includes found from
    ``base``."""
    lines = []
    for line in text.splitlines():
        include = _INCLUDE.match(_COMMENT.sub("", line))
        lines.append(f"{include[1]} {base / include[2]}" if include and "://" not in include[2] else line)
    return "\n".join(lines) + "\n"


def without_editable(line: str) -> str:
    """Given a line, return it without its ``-e``."""
    return _EDITABLE.sub("", line)


def local_path(line: str, base: Path) -> Path | None:
    """Given a line, return the folder or archive of this machine that it names; None for any other line."""
    word = without_editable(line).split(" ;", 1)[0].split(" --hash", 1)[0].strip()
    if " @ " in word:
        word = word.split(" @ ", 1)[1].strip()
    if word.startswith("file:"):
        from urllib.parse import unquote, urlsplit

        word = unquote(urlsplit(word).path)
    elif "://" in word or word.startswith("-"):
        return None
    else:
        named = _EDITABLE.match(line) or word.startswith(".") or "/" in word or _ARCHIVE.search(word)
        if not named:
            return None
    return Path(os.path.normpath(base / re.sub(r"\[[^\]]*\]\Z", "", word)))


def content_digest(requirements: Requirements) -> str:
    """Return the hash of what the files say and of what the paths hold (folders: names, sizes, times)."""
    digest = hashlib.sha256("\n".join(requirements.lines).encode("utf-8", "surrogateescape"))
    for path in requirements.local:
        digest.update(f"\0{path.name}\0".encode("utf-8", "surrogateescape"))
        for name, mark in _marks(path):
            digest.update(f"{name}\0{mark}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _marks(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_file():
        yield path.name, file_digest(path)
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(
            name for name in folders
            if not name.startswith(".") and name not in _NOT_SOURCE and not name.endswith(".egg-info")
        )
        for name in sorted(files):
            file = Path(folder, name)
            try:
                about = file.stat()
            except OSError:
                continue
            yield os.path.relpath(file, path), f"{about.st_size} {about.st_mtime_ns}"


def file_digest(path: Path) -> str:
    """Return a file's sha256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
