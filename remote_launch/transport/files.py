"""Small files over a shell: the commands behind ``put`` and ``get`` of every transport."""

from __future__ import annotations

import posixpath
import uuid
from typing import TYPE_CHECKING

from remote_launch.errors import CommandError
from remote_launch.transport.command import Command

if TYPE_CHECKING:
    from remote_launch.transport.base import Completed, Transport

# The size is checked before the rename: a connection that breaks ends the stream like a complete one does.
_PUT = """mkdir -p -- "$1" || exit 1
if [ -d "$3" ]; then echo "$3 is a folder" >&2; exit 1; fi
umask 077
if cat > "$2" && [ "$(wc -c < "$2")" -eq "$5" ] && chmod "$4" "$2" && mv -f -- "$2" "$3"; then exit 0; fi
rm -f -- "$2"; echo "$3: could not be written whole" >&2; exit 1"""

_GET = """if [ ! -f "$1" ]; then echo "$1: no such file" >&2; exit 1; fi
exec head -c "$2" < "$1" """


def put_command(path: str, size_bytes: int, mode: int) -> Command:
    """Return the command that writes its stdin of ``size_bytes`` to ``path``: aside, then a rename. Makes
    the folder."""
    folder = posixpath.dirname(path) or "."
    aside = posixpath.join(folder, f".rl-{uuid.uuid4().hex}")
    return Command(
        [safe(folder), safe(aside), safe(path), f"{mode:o}", str(size_bytes)],
        shell=_PUT,
        label=f"write {path}",
    )


def get_command(path: str, max_bytes: int) -> Command:
    """Return the command that prints a file; one byte more than ``max_bytes`` when it is larger."""
    return Command([safe(path), str(max_bytes + 1)], shell=_GET, label=f"read {path}")


def put(transport: Transport, content: bytes, path: str, mode: int) -> None:
    """Write a file through ``transport.run``."""
    transport.run(put_command(path, len(content), mode), stdin=content).check()


def get(transport: Transport, path: str, max_bytes: int) -> bytes:
    """Read a file through ``transport.run``. Raises CommandError when it is missing or too large."""
    chunks: list[bytes] = []
    done = transport.run(get_command(path, max_bytes), on_stdout=chunks.append)
    return check_size(done, b"".join(chunks), path, max_bytes)


def check_size(done: Completed, content: bytes, path: str, max_bytes: int) -> bytes:
    """Return a file's content, or raise CommandError."""
    done.check()
    if len(content) > max_bytes:
        raise CommandError(
            f"{done.server}: {path} is larger than {max_bytes} bytes",
            server=done.server,
            command=done.command,
            hint="copy it with scp or rsync",
        )
    return content


def safe(path: str) -> str:
    """Given a path, return one that no program takes for an option."""
    return f"./{path}" if path.startswith("-") else path
