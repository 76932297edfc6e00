"""OpenSSH's known_hosts files, checked as ``StrictHostKeyChecking=accept-new`` does.

paramiko's own reader gives up on a whole file over one ``@cert-authority`` line and knows no wildcards, and
fabric adds any key unasked.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from paramiko import PKey, SSHException
from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

USER_FILES = (Path("~/.ssh/known_hosts"), Path("~/.ssh/known_hosts2"))
SYSTEM_FILES = (Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2"))


class HostKeyChangedError(Exception):
    """The key offered is not one that is known. ``path`` is the file that knows others, or says never:
    ``revoked``.
    """

    def __init__(self, name: str, path: Path, key: PKey, *, revoked: bool = False) -> None:
        super().__init__(name)
        self.name = name
        self.path = path
        self.key = key
        self.revoked = revoked


class HostKeyUnknownError(Exception):
    """The key is new and may not be added (``StrictHostKeyChecking yes``)."""

    def __init__(self, name: str, key_type: str) -> None:
        super().__init__(name)
        self.name = name
        self.key_type = key_type


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KnownHosts:
    """The files of one host: the user's (the first one takes new keys) and the system's. Read at each
    question.
    """

    user_files: Sequence[Path]
    system_files: Sequence[Path] = SYSTEM_FILES
    hash_names: bool = False
    add_new: bool = True

    @classmethod
    def from_ssh_config(cls, options: Mapping[str, object]) -> KnownHosts:
        """Given a host's options (keys in lower case), return its known_hosts files."""
        user = _paths(options.get("userknownhostsfile"), list(USER_FILES))
        system = _paths(options.get("globalknownhostsfile"), list(SYSTEM_FILES))
        return cls(
            user_files=user,
            system_files=system,
            hash_names=str(options.get("hashknownhosts", "no")).lower() == "yes",
            add_new=str(options.get("stricthostkeychecking", "accept-new")).lower() not in {"yes", "true"},
        )

    def key_types(self, name: str) -> list[str]:
        """Return the types of the keys known for a name: what the server should be asked for first."""
        return [key.get_name() for _, key, revoked in self._known(name) if not revoked]

    def check(self, name: str, key: PKey) -> None:
        """Return when the key is known, or new and now added; else raise HostKeyChangedError,
        HostKeyUnknownError.

        A key of a type that isn't known yet, on a host of which other keys are, counts as changed: the server
        was asked for the known types first.
        """
        known = list(self._known(name))
        for path, _, _ in [entry for entry in known if entry[2] and entry[1] == key]:
            raise HostKeyChangedError(name, path, key, revoked=True)
        trusted = [entry for entry in known if not entry[2]]
        if any(other == key for _, other, _ in trusted):
            return
        if trusted:
            same_type = [path for path, other, _ in trusted if other.get_name() == key.get_name()]
            raise HostKeyChangedError(name, (same_type or [trusted[0][0]])[0], key)
        if name.startswith("["):  # as ssh does: a key known for the host without its port is good enough
            host = name[1:].partition("]")[0]
            if any(other == key for _, other, revoked in self._known(host) if not revoked):
                return
        if not self.add_new:
            raise HostKeyUnknownError(name, key.get_name())
        self._add(name, key)

    def _known(self, name: str) -> Iterator[tuple[Path, PKey, bool]]:
        for path in [*self.user_files, *self.system_files]:
            for key, revoked in _read(path, name):
                yield path, key, revoked

    def _add(self, name: str, key: PKey) -> None:
        """Append the key to the user's first file. As in ssh, one that can't be written is no reason not to
        connect.
        """
        if not self.user_files:
            return
        path = self.user_files[0]
        shown = HostKeys.hash_host(name) if self.hash_names else name
        line = f"{shown} {key.get_name()} {key.get_base64()}\n".encode()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(fd).st_size
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    line = b"\n" + line
                os.write(fd, line)  # one write: several hosts may be added at once
            finally:
                os.close(fd)
        except OSError:
            return


def host_key_name(hostname: str, port: int, alias: str | None = None) -> str:
    """Given where a connection goes, return the name under which known_hosts has its key."""
    if alias:
        return alias
    hostname = hostname.lower()
    return hostname if port == 22 else f"[{hostname}]:{port}"


def _read(path: Path, name: str) -> Iterator[tuple[PKey, bool]]:
    """Yield (key, revoked) of a file's lines for a name; a line that isn't understood is skipped."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for raw in text.splitlines():
        fields = raw.split()
        revoked = bool(fields) and fields[0] == "@revoked"
        fields = fields[revoked:]
        # @cert-authority is left out: paramiko checks no host certificates.
        if len(fields) < 3 or fields[0].startswith(("#", "@")) or not _matches(name, fields[0].split(",")):
            continue
        try:
            entry = HostKeyEntry.from_line(" ".join(fields[:3]))
        except (InvalidHostKey, SSHException, ValueError):
            continue
        if entry is not None and entry.key is not None:
            yield entry.key, revoked


def _matches(name: str, patterns: Sequence[str]) -> bool:
    matched = False
    for pattern in patterns:
        if pattern.startswith("|1|"):
            try:
                matched = matched or HostKeys.hash_host(name, pattern) == pattern
            except (ValueError, AssertionError, IndexError):
                continue
        elif pattern.startswith("!"):
            if _glob(name, pattern[1:]):
                return False
        else:
            matched = matched or _glob(name, pattern)
    return matched


def _glob(name: str, pattern: str) -> bool:
    # Only * and ? are wildcards here; the brackets of "[host]:port" are themselves.
    return fnmatch.fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))


def _paths(value: object, default: list[Path]) -> list[Path]:
    """Given an option's value (several files, perhaps quoted), return the paths; none for "none"."""
    if not value:
        return [path.expanduser() for path in default]
    if str(value).strip().lower() == "none":
        return []
    home = str(Path.home())
    return [Path(word.replace("%d", home)).expanduser() for word in shlex.split(str(value))]
