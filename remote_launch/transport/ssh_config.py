"""ssh's configuration files for the fabric transport: paramiko's reader, with ``Include`` done before it.

paramiko stores ``Include`` as an unknown option and ignores it. What is included is put in its place as text,
so a file included inside a ``Host`` block that opens blocks of its own ends that block; in OpenSSH it
doesn't.
"""

from __future__ import annotations

import glob
import io
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from paramiko import SSHConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

USER_FILE = Path("~/.ssh/config")
SYSTEM_FILE = Path("/etc/ssh/ssh_config")
MAX_DEPTH = 16  # OpenSSH's own limit
_INCLUDE = re.compile(r"\s*include(?:\s*=\s*|\s+)(.+)", re.IGNORECASE)


def load_ssh_config(path: Path | None) -> SSHConfig:
    """Given a file (None: the user's, then the system's), return what it says.

    Raises OSError for a given file that isn't there, ConfigParseError for what can't be understood.
    """
    config = SSHConfig()
    if path is not None:
        files = [path.expanduser()]
        files[0].stat()
    else:
        files = [USER_FILE.expanduser(), SYSTEM_FILE]
    for file in files:
        base = SYSTEM_FILE.parent if file == SYSTEM_FILE else Path("~/.ssh").expanduser()
        config.parse(io.StringIO("".join(_lines(file, base, 0))))
    return config


def _lines(path: Path, base: Path, depth: int) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # as ssh: an include that isn't there says nothing
    for line in text.splitlines():
        match = _INCLUDE.fullmatch(line)
        if match is None:
            yield line + "\n"
        elif depth < MAX_DEPTH:
            for word in shlex.split(match.group(1), comments=True):
                pattern = base / Path(word).expanduser()
                for found in sorted(glob.glob(str(pattern))):  # noqa: PTH207 - the pattern may be absolute
                    yield from _lines(Path(found), base, depth + 1)
