"""Where this machine's pip finds packages, read at run time, so that test hosts and venvs find the same ones.

Only folders of this machine are passed on (find-links and file:// indexes). Run as a program it tells
the scripts. Standard library only.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
ONE = ("index-url", "cert")  # the others add up
KINDS = ("index-url", "extra-index-url", "find-links", "cert")


@functools.cache
def pip_settings() -> dict[str, list[str]]:
    """Return pip's settings that say where packages are: the environment's first, then its files'."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    ).stdout
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for line in sorted(listed.splitlines(), key=lambda line: not line.startswith(":env:")):
        name, _, value = line.partition("=")
        kind = name.rpartition(".")[2]
        if kind in found and not (found[kind] and kind in ONE):
            words = value.strip().strip("'\"").replace("\\n", " ").split()
            found[kind] += [word for word in words if word not in found[kind]]
    return found


def find_links() -> list[str]:
    """Return the local folders of wheels that exist."""
    words = [word.removeprefix("file://") for word in pip_settings()["find-links"]]
    return [word for word in words if word.startswith("/") and Path(word).is_dir()]


def file_indexes() -> list[str]:
    """Return the file:// indexes that exist, as folders."""
    words = pip_settings()["index-url"] + pip_settings()["extra-index-url"]
    folders = [word.removeprefix("file://").rstrip("/") for word in words if word.startswith("file:///")]
    return [folder for folder in folders if Path(folder).is_dir()]


def package_folders() -> list[str]:
    """Return what a container must see, at the same paths. An index's files may lie beside it."""
    wanted = find_links() + [str(Path(folder).parent) for folder in file_indexes()]
    return list(dict.fromkeys(wanted))


def container_setup() -> str:
    """Return shell lines that write pip's and uv's settings: Docker's ENV is not seen in ssh sessions."""
    links, indexes = find_links(), [f"file://{folder}" for folder in file_indexes()]
    pip = ["[global]", "timeout = 180", f"cert = {CA_BUNDLE}", "disable-pip-version-check = true"]
    uv = ["system-certs = true", 'index-strategy = "unsafe-best-match"']  # as pip chooses
    if links:
        pip.append("find-links = " + " ".join(links))
        uv.append(f"find-links = {json.dumps(links)}")
    if indexes:
        pip.append("extra-index-url = " + " ".join(indexes))
        uv += [f"[[index]]\nurl = {json.dumps(index)}" for index in indexes]
    return "\n".join([
        f"printf '%s\\n' {shlex.quote(chr(10).join(pip))} > /etc/pip.conf",
        "mkdir -p /etc/uv",
        f"printf '%s\\n' {shlex.quote(chr(10).join(uv))} > /etc/uv/uv.toml",
    ])


def uv_environment() -> dict[str, str]:
    """Return the variables that make uv look where pip looks; what is set already is left alone."""
    settings = pip_settings()
    wanted = {
        "UV_DEFAULT_INDEX": " ".join(settings["index-url"]),
        "UV_INDEX": " ".join(settings["extra-index-url"]),
        "UV_FIND_LINKS": ",".join(settings["find-links"]),
        "UV_INDEX_STRATEGY": "unsafe-best-match" if settings["extra-index-url"] else "",  # as pip chooses
        "SSL_CERT_FILE": " ".join(settings["cert"]),
    }
    return {name: value for name, value in wanted.items() if value and name not in os.environ}


def main(what: str) -> None:
    """Print "uv" (environment) or "container" (settings) as shell lines, or the "folders" to share."""
    if what == "uv":
        for name, value in uv_environment().items():
            print(f"export {name}={shlex.quote(value)}")
    elif what == "container":
        print(container_setup())
    elif what == "folders":
        print("\n".join(package_folders()))


if __name__ == "__main__":
    main(sys.argv[1])
