"""The programs of ``remote_launch/remote``, packed into one zip archive that any server's python3 can run."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

from remote_launch.transport.digest import blake2b

# An archive's modules are compiled anew in every process; unpacked beside it once, they leave their bytecode
# there (10 ms a call), and its __main__.py needs no runpy (5 ms more). The verbs torchrun and allreduce run
# in the environment's python, whatever that is, and stay in the archive. Old syntax: python 2 may read it.
_MAIN = b"""import sys

if sys.version_info < (3, 8):
    sys.exit(96)  # the next interpreter is tried
if sys.argv[1:2] not in (["torchrun"], ["allreduce"]):
    import os

    # Run as a plain script from the unpacked folder, or else from the archive, which is unpacked then.
    folder, word = os.path.splitext(os.path.abspath(sys.argv[0]))
    folder = folder if word == ".pyz" else os.path.dirname(folder)
    try:
        if not os.path.isdir(folder):
            import tempfile
            import zipfile

            # Machines that share the folder may have the same pid at it.
            aside = tempfile.mkdtemp(prefix=os.path.basename(folder) + ".", dir=os.path.dirname(folder))
            try:
                zipfile.ZipFile(sys.argv[0]).extractall(aside)
                os.rename(aside, folder)
            except OSError:
                import shutil

                shutil.rmtree(aside, True)
                if not os.path.isdir(folder):  # no other process was first
                    raise
        from _frozen_importlib_external import FileFinder, SourceFileLoader, cache_from_source

        class Loader(SourceFileLoader):
            def get_code(self, name):
                try:
                    return SourceFileLoader.get_code(self, name)
                except (EOFError, TypeError, ValueError):
                    # A full disk cut the bytecode off when it was written, which Python doesn't notice.
                    try:
                        os.unlink(cache_from_source(self.path))
                    except OSError:
                        pass
                    return self.source_to_code(self.get_data(self.path), self.path)

        def find_in(path):
            if path != folder and os.path.dirname(path) != folder:
                raise ImportError
            return FileFinder(path, (Loader, [".py"]))

        sys.path_hooks.insert(0, find_in)
        sys.path.insert(0, folder)
    except OSError:
        pass  # a full disk: the archive serves as well

from rl_remote.verbs import main

sys.exit(main())
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_NAMING = threading.Lock()


def pack() -> tuple[str, bytes]:
    """Return the archive's name and its content."""
    return archive_name(), archive_content()


def archive_name() -> str:
    """Return ``rl-<16 hex digits of the sources' hash>.pyz``, without packing anything. Of threads
    that ask at the same time one reads the sources."""
    with _NAMING:
        return _archive_name()


@functools.lru_cache(maxsize=1)
def _archive_name() -> str:
    digest = blake2b(digest_size=8)
    for name, content in sorted(_sources().items()):
        digest.update(b"%s %d\n" % (name.encode(), len(content)))
        digest.update(content)
    return f"rl-{digest.hexdigest()}.pyz"


@functools.lru_cache(maxsize=1)
def archive_content() -> bytes:
    """Return the archive: what a server that lacks it is sent.

    The same sources give the same bytes on every machine: sorted, with fixed times, stored uncompressed (a
    server's python may lack zlib).
    """
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(_sources().items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # Unix, whatever machine packs
            archive.writestr(info, content)
    return buffer.getvalue()


@functools.lru_cache(maxsize=1)
def _sources() -> dict[str, bytes]:
    folder = Path(__file__).resolve().parent.parent / "remote"  # importlib.resources takes 5 ms to import
    modules = {f"rl_remote/{path.name}": path.read_bytes() for path in folder.glob("*.py")}
    return {"__main__.py": _MAIN, **modules}
