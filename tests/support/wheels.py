"""Tiny wheels and source archives made by hand, so that tests of installers need no network.

Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ANY = "py3-none-any"


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    tag: str = ANY,
    requires: Sequence[str] = (),
    requires_python: str | None = None,
    padding_bytes: int = 0,
) -> Path:
    """Write ``<name>-<version>-<tag>.whl``: one module that knows its version. ``requires`` are requirement
    lines, markers and all; ``padding_bytes`` make it large."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": metadata(name, version, requires, requires_python),
        f"{info}/WHEEL": wheel_record(tag),
    }
    if padding_bytes:
        files[f"{module}_padding.py"] = "# " + os.urandom(padding_bytes // 2).hex()
    path = folder / f"{module}-{version}-{tag}.whl"
    write_wheel(path, f"{info}/RECORD", files)
    return path


def metadata(
    name: str, version: str, requires: Sequence[str] = (), requires_python: str | None = None
) -> str:
    """Return the text of METADATA."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {requires_python}"] if requires_python else []
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    return "\n".join(lines) + "\n"


def wheel_record(tag: str) -> str:
    """Return the text of WHEEL."""
    pure = "true" if tag.endswith("-any") else "false"
    return f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"


def write_wheel(path: Path, record: str, files: dict[str, str]) -> None:
    """Write the zip, with its RECORD last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(text.encode())}")
            archive.writestr(zipfile.ZipInfo(name), text)
        archive.writestr(zipfile.ZipInfo(record), "\n".join([*lines, f"{record},,", ""]))


# A build backend inside the archive itself: nothing has to be downloaded to build it.
_BACKEND = '''
import base64, hashlib, zipfile

NAME, VERSION, TAG = {name!r}, {version!r}, {tag!r}
METADATA, WHEEL = {metadata!r}, {wheel!r}


def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = f"{{NAME}}-{{VERSION}}.dist-info"
    files = {{f"{{NAME}}.py": f"__version__ = {{VERSION!r}}\\n", f"{{info}}/METADATA": METADATA,
             f"{{info}}/WHEEL": WHEEL}}
    file = f"{{NAME}}-{{VERSION}}-{{TAG}}.whl"
    with zipfile.ZipFile(f"{{folder}}/{{file}}", "w") as archive:
        lines = []
        for name, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            lines.append(f"{{name}},sha256={{digest}},{{len(text.encode())}}")
            archive.writestr(name, text)
        archive.writestr(f"{{info}}/RECORD", "\\n".join(lines + [f"{{info}}/RECORD,,", ""]))
    return file


build_editable = build_wheel
'''


def source_files(
    name: str, version: str = "1.0", *, builds: str = ANY, requires: Sequence[str] = ()
) -> dict[str, str]:
    """Return the files of a project that builds to one wheel with the tag ``builds``, by name."""
    module, about = name.replace("-", "_"), metadata(name, version, requires)
    backend = _BACKEND.format(
        name=module, version=version, tag=builds, metadata=about, wheel=wheel_record(builds)
    )
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    return {"PKG-INFO": about, "pyproject.toml": build, "backend.py": backend}


def make_sdist(
    folder: Path, name: str, version: str = "1.0", *, builds: str = ANY, requires: Sequence[str] = ()
) -> Path:
    """Write ``<name>-<version>.tar.gz``, which builds to a wheel with the tag ``builds``."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in source_files(name, version, builds=builds, requires=requires).items():
            entry = tarfile.TarInfo(f"{stem}/{file}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path
