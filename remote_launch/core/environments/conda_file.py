"""The project's environment.yml: what conda is to put into the environment, and what pip.

rl reads the file and hands its packages to ``conda create``. ``conda env create`` would differ between conda,
mamba and micromamba, and would add the channels of the server's own configuration to those of the file: often
Anaconda's, which refuse unattended installs."""

from __future__ import annotations

import dataclasses
import posixpath
import re
import shlex
from typing import TYPE_CHECKING

from remote_launch.core.environments.includes import follow_includes
from remote_launch.core.environments.reading import content_of
from remote_launch.core.environments.sources import CONDA_FILES
from remote_launch.core.yaml_lines import parse_yaml
from remote_launch.errors import ConfigError
from remote_launch.transport.command import mask_urls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from remote_launch.core.inventory import Environment
    from remote_launch.core.yaml_lines import Node

CONDA_FORGE = "conda-forge"
_KEYS = ("name", "channels", "dependencies", "prefix", "variables", "category", "platforms")
_TOKEN = re.compile(r"/t/[^/]+/")  # anaconda.org's logins stand in the path
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_REQUIREMENTS = ("-r", "--requirement", "-c", "--constraint")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CondaFile:
    """What an environment.yml says."""

    path: str  # relative to the project
    channels: tuple[str, ...]
    specs: tuple[str, ...]  # as conda takes them: "numpy>=1.26", "pytorch::pytorch=2.1"
    pip: tuple[str, ...] = ()  # pip's own words, from the file's folder
    files: tuple[str, ...] = ()  # the project's files that those words name
    content: str = ""  # a hash of what these hold
    notes: tuple[str, ...] = ()  # what a user should know before it is installed

    def spec_of(self, name: str) -> str | None:
        """Given a package, return what the file says of it ("python=3.11"); None when it isn't there."""
        return next((spec for spec in self.specs if spec_name(spec) == name), None)


def find_conda_file(root: Path, files: Sequence[str], environment: Environment) -> CondaFile | None:
    """Given the project and the files that a sync sends, return what its environment.yml says.

    None without one, for another manager, and where the inventory names another file. Raises ConfigError for
    one that can't be used."""
    if environment.manager != "conda":
        return None
    named = environment.requirements
    if named is not None and not named.endswith((".yml", ".yaml")):
        return None
    path = named or next((name for name in CONDA_FILES if name in files), None)
    if path is None:
        return None
    if path not in files:
        raise ConfigError(
            f"environment.requirements: {path} is not among the files that are sent",
            key="environment.requirements",
            hint="check the name, and .remote/exclude.txt",
        )
    return _Reader(root, path, files).read()


def spec_name(spec: str) -> str:
    """Given what conda is asked for, return the package's name."""
    match = _NAME.match(spec.rpartition("::")[2])
    return match.group().lower() if match else ""


class _Reader:
    """Reads one file; every error names its line."""

    def __init__(self, root: Path, path: str, files: Sequence[str]) -> None:
        self._root, self._path, self._files = root, path, files

    def read(self) -> CondaFile:
        top = parse_yaml(self._text(), self._root / self._path)
        fields = (top.fields if top is not None else None) or {}
        if top is None or not fields:
            raise self._error(1, "expected channels: and dependencies:", "conda env export writes such")
        unknown = next((name for name in fields if name not in _KEYS), None)
        if unknown is not None:
            raise self._error(
                top.key_lines[unknown], f"{unknown}: unknown key", f"known keys: {', '.join(_KEYS)}"
            )
        specs, pip = self._dependencies(fields.get("dependencies"))
        words, named = self._pip_words(pip)
        return CondaFile(
            path=self._path,
            channels=self._channels(fields.get("channels")),
            specs=specs,
            pip=words,
            files=named,
            content=content_of(self._root, named) if named else "",
            notes=self._notes(fields),
        )

    def _text(self) -> str:
        try:
            return (self._root / self._path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(
                f"can't be read: {why}",
                path=self._root / self._path,
                hint="mend it, or let requirements: name another file",
            ) from error

    def _channels(self, node: Node | None) -> tuple[str, ...]:
        texts = self._texts(node, "channels")
        found = [channel for line, channel in texts if self._is_channel(line, channel)]
        return tuple(dict.fromkeys(found)) or (CONDA_FORGE,)

    def _is_channel(self, line: int, channel: str) -> bool:
        problem = problem_of_channel(channel)
        if problem is not None:
            raise self._error(line, f"channels: {problem[0]}", problem[1])
        return channel != "nodefaults"

    def _dependencies(self, node: Node | None) -> tuple[tuple[str, ...], list[tuple[int, str]]]:
        specs: list[str] = []
        pip: list[tuple[int, str]] = []
        for item in self._items(node, "dependencies"):
            if item.fields is not None:
                if set(item.fields) != {"pip"}:
                    other = next(name for name in item.fields if name != "pip")
                    raise self._error(
                        item.line, f"dependencies: {other}: not understood", "only pip: has a list of its own"
                    )
                pip += self._texts(item.fields["pip"], "pip")
                continue
            spec = self._text_of(item, "dependencies")
            if spec.startswith("-") or not spec_name(spec):
                raise self._error(item.line, f"dependencies: {spec!r} is no package", "as numpy>=1.26")
            specs.append(spec)
        return tuple(specs), pip

    def _pip_words(self, lines: list[tuple[int, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The lines below ``pip:`` as words of a command, and the files of the project among them."""
        words: list[str] = []
        named: list[str] = []
        for number, line in lines:
            if mask_urls(line) != line:
                raise self._error(
                    number,
                    "pip: a URL with a login in it would show in ps on the servers",
                    "put it in env: of the servers, as PIP_INDEX_URL: that travels unseen",
                )
            option, _, value = line.partition(" ") if " " in line else line.partition("=")
            value = value.strip()
            if option in _REQUIREMENTS and value and "://" not in value:
                path = posixpath.normpath(posixpath.join(posixpath.dirname(self._path), value))
                if path not in self._files:
                    raise self._error(
                        number, f"pip: {path} is not among the files that are sent", "see .remote/exclude.txt"
                    )
                named += follow_includes(self._root, path, self._files).files
                words += [option, value]
            else:
                words += self._split(number, line) if line.startswith("-") else [line]
        return tuple(words), tuple(named)

    def _split(self, number: int, line: str) -> list[str]:
        try:
            return shlex.split(line)
        except ValueError as error:
            raise self._error(number, f"pip: {line!r}: {error}", "mend the quotes") from error

    def _notes(self, fields: dict[str, Node]) -> tuple[str, ...]:
        notes = []
        channels = [channel for _, channel in self._texts(fields.get("channels"), "channels")]
        if "defaults" in channels:
            notes.append(
                f"{self._path} asks for Anaconda's channel `defaults`: larger organisations need a licence "
                "for it, and conda refuses it until its terms are accepted on the server"
            )
        if "variables" in fields and not fields["variables"].is_null:
            notes.append(f"{self._path}: variables: are not set in jobs; env: in the inventory sets them")
        return tuple(notes)

    def _items(self, node: Node | None, key: str) -> tuple[Node, ...]:
        if node is None or node.is_null:
            return ()
        if node.items is None:
            found = node.found()
            raise self._error(node.line, f"{key}: expected a list, found {found}", "one a line: - numpy")
        return node.items

    def _texts(self, node: Node | None, key: str) -> list[tuple[int, str]]:
        return [(item.line, self._text_of(item, key)) for item in self._items(node, key)]

    def _text_of(self, item: Node, key: str) -> str:
        if item.source is None or item.is_null or not item.source.strip():
            raise self._error(item.line, f"{key}: expected text, found {item.found()}", "one a line: - numpy")
        return item.source.strip()

    def _error(self, line: int, message: str, hint: str) -> ConfigError:
        return ConfigError(message, path=self._root / self._path, line=line, hint=hint)


def problem_of_channel(channel: str) -> tuple[str, str] | None:
    """Given a channel, return what is wrong with it and what to do; None for nothing."""
    if channel.startswith("-") or not channel or any(character.isspace() for character in channel):
        return f"{channel!r} is no channel", "a name as conda-forge, or a URL"
    if mask_urls(channel) != channel or _TOKEN.search(channel):
        return (
            "a channel with a login in its URL would show in ps on the servers",
            "name it in the servers' own ~/.condarc (custom_channels), and here by that name",
        )
    return None
