"""The programs of ``remote_launch/remote``, packed into one zip archive that any server's python3 can run."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from importlib import resources

# An archive's modules are compiled anew in every process; unpacked beside it once, they leave their bytecode
# there (10 ms a call). torchrun's verb runs in the environment's python, whatever that is, and stays in the
# archive. Old syntax: python 2 may read it.
_MAIN = b"""import sys

if sys.version_info < (3, 8):
    sys.exit(96)  # the next interpreter is tried
if sys.argv[1:2] != ["torchrun"]:
    import os

    folder = os.path.abspath(sys.argv[0])[: -len(".pyz")]
    try:
        if not os.path.isdir(folder):
            import zipfile

            aside = "%s.%d" % (folder, os.getpid())
            zipfile.ZipFile(sys.argv[0]).extractall(aside)
            os.rename(aside, folder)
        sys.path.insert(0, folder)
    except OSError:
        pass  # a full disk, or another process was first: the archive serves as well

from rl_remote.verbs import main

sys.exit(main())
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@functools.lru_cache(maxsize=1)
def pack() -> tuple[str, bytes]:
    """Return the archive's name, ``rl-<first 16 hex digits of its sha256>.pyz``, and its content.

    The same sources give the same bytes on every machine: sorted, with fixed times, stored uncompressed
    (zlib's output differs between versions, and a server's python may lack zlib).
    """
    sources = {"__main__.py": _MAIN}
    for item in resources.files("remote_launch.remote").iterdir():
        if item.name.endswith(".py"):
            sources[f"rl_remote/{item.name}"] = item.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # Unix, whatever machine packs
            archive.writestr(info, sources[name])
    content = buffer.getvalue()
    return f"rl-{hashlib.sha256(content).hexdigest()[:16]}.pyz", content
