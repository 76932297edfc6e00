"""The names that an ssh client configuration gives to hosts. Everything else in it is ssh's own business."""

from __future__ import annotations

import glob
import re
import shlex
from pathlib import Path

from remote_launch.errors import ConfigError

_WANTED = re.compile(r"\s*(host|include)(?:\s*=\s*|\s+)(.*)", re.IGNORECASE)
_MAX_DEPTH = 16  # OpenSSH's own limit on nested Includes


def host_aliases(path: Path | None = None) -> list[str]:
    """Return the aliases of Host lines, each once, in order, Includes followed, no wildcards.

    ``path`` is by default ``~/.ssh/config``. Raises ConfigError when it can't be read; a missing Include is
    no error, as for ssh.
    """
    path = Path.home() / ".ssh" / "config" if path is None else path.expanduser()
    aliases: dict[str, None] = {}
    _collect(path, aliases, 0)
    return list(aliases)


def _collect(path: Path, aliases: dict[str, None], depth: int) -> None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if depth:
            return
        raise ConfigError(
            f"can't be read: {error.strerror}",
            path=path,
            hint="name the servers one by one instead",
        ) from error
    for line in text.splitlines():
        keyword, words = _split(line)
        if keyword == "host":
            aliases.update(dict.fromkeys(word for word in words if not set(word) & set("*?!")))
        elif keyword == "include" and depth < _MAX_DEPTH:
            for word in words:
                for included in _included(word, path):
                    _collect(included, aliases, depth + 1)


def _split(line: str) -> tuple[str, list[str]]:
    """Given a line (``Host a "b c"``, ``Host=a``), return its keyword in small letters and its words."""
    match = _WANTED.match(line)
    if match is None:
        return "", []
    try:
        return match[1].lower(), shlex.split(match[2], comments=True)
    except ValueError:  # a quote that is not closed: ssh refuses the file, and says so better
        return "", []


def _included(pattern: str, path: Path) -> list[Path]:
    """Given an Include's word, return its files. A relative one lies in ~/.ssh (/etc/ssh for files there)."""
    base = Path("/etc/ssh") if path.is_relative_to("/etc/ssh") else Path.home() / ".ssh"
    if pattern.startswith("~/"):
        pattern = str(Path.home() / pattern[2:])
    return [Path(found) for found in sorted(glob.glob(str(base / pattern)))]  # noqa: PTH207 (absolute patterns)
