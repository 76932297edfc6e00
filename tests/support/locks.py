"""Projects that name two small real packages, six and iniconfig, in every way that rl reads. The locks are
made when they are needed, with the hashes of what the index of this machine has."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from remote_launch.transport.programs_here import uv_here

if TYPE_CHECKING:
    from collections.abc import Callable

VERSIONS = {"six": "1.17.0", "iniconfig": "2.1.0"}
PYPROJECT = '[project]\nname = "demo"\nversion = "0.1.0"\nrequires-python = ">=3.8"\ndependencies = {}\n'


@functools.cache
def wheel_hashes() -> dict[str, tuple[str, str]]:
    """Return (file name, sha256) of each package's wheel."""
    pins = [f"{name}=={version}" for name, version in VERSIONS.items()]
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder, *pins]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        wheels = {path.name.partition("-")[0]: path for path in Path(folder).glob("*.whl")}
        return {
            name: (path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in wheels.items()
        }


def requirements(folder: Path) -> None:
    (folder / "requirements.txt").write_text("six\niniconfig\n")


def pyproject(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(PYPROJECT.format(json.dumps(list(VERSIONS))))


def uv_lock(folder: Path) -> None:
    pyproject(folder)
    argv = [str(uv_here()), "lock", "--quiet", "--project", str(folder)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def pipfile_lock(folder: Path) -> None:
    (folder / "Pipfile").write_text('[packages]\nsix = "*"\niniconfig = "*"\n')
    default = {
        name: {"version": f"=={VERSIONS[name]}", "hashes": [f"sha256:{sha256}"]}
        for name, (_, sha256) in wheel_hashes().items()
    }
    content = {"_meta": {"pipfile-spec": 6, "sources": []}, "default": default, "develop": {}}
    (folder / "Pipfile.lock").write_text(json.dumps(content))


def pipfile(folder: Path) -> None:
    (folder / "Pipfile").write_text('[packages]\nsix = "*"\niniconfig = {version = ">=1"}\n')


def poetry_lock(folder: Path) -> None:
    pyproject(folder)
    packages = "".join(
        f'[[package]]\nname = "{name}"\nversion = "{VERSIONS[name]}"\ndescription = ""\noptional = false\n'
        f'python-versions = ">=2.7"\ngroups = ["main"]\n'
        f'files = [{{file = "{file}", hash = "sha256:{sha256}"}}]\n\n'
        for name, (file, sha256) in wheel_hashes().items()
    )
    end = f'[metadata]\nlock-version = "2.1"\npython-versions = ">=3.8"\ncontent-hash = "{"0" * 64}"\n'
    (folder / "poetry.lock").write_text(packages + end)


KINDS: dict[str, Callable[[Path], None]] = {
    "uv.lock": uv_lock,
    "poetry.lock": poetry_lock,
    "Pipfile.lock": pipfile_lock,
    "Pipfile": pipfile,
    "requirements.txt": requirements,
    "pyproject.toml": pyproject,
}
