"""The files that steps need from the internet. The same code fetches them on a server, and, as the verb
``fetch``, on the launching machine for servers that have none.

The verb is given {"url", "to", "sha256"}; it prints frames as ``prepare`` does: {"out"}, and at the end one
of {"end": {"sha256", "verified"}}, {"failed": {"kind", "message"}}."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time

from .download import DownloadError, fetch
from .environment import machine
from .jobdir import expand
from .web import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

_TELL_EVERY_S = 0.5
# What decides how a file is reached, besides the step's own programs.
_NETWORK = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def filled(text: str) -> str:
    """Given an address or a path, return it for this machine."""
    name = {"Darwin": "MacOSX"}.get(platform.system(), platform.system())
    return text.replace("{os}", name).replace("{machine}", machine()["machine"])


def get(
    wanted: dict[str, Any], env: dict[str, str], tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Fetch a step's file, verified where that can be; return {"path", "sha256", "verified"}. Raises
    DownloadError."""
    url, path = filled(wanted["url"]), expand(filled(wanted["to"]))
    name = os.path.basename(url.partition("?")[0])
    told = [time.monotonic()]

    def progress(done: int, total: int | None) -> None:
        if time.monotonic() - told[0] >= _TELL_EVERY_S:
            told[0] = time.monotonic()
            of = f" of {total / 1e6:.0f}" if total else ""
            tell({"out": f"downloading {name}: {done / 1e6:.0f}{of} MB\n"})

    tell({"out": f"downloading {shown(url)}\n"})
    with _network(env):
        got = fetch(url, path, wanted.get("sha256"), on_progress=progress)
    how = "there already" if got.get("cached") else "done"
    unverified = "" if got.get("verified") else ", not verified: no sha256 is known for it"
    tell({"out": f"downloading {name}: {how}{unverified}\n"})
    return got


@contextlib.contextmanager
def _network(env: dict[str, str]) -> Iterator[None]:
    """For the length of a ``with``: proxies and certificates as a step's environment has them."""
    names = [name for name in env if name.lower().endswith("_proxy") or name in _NETWORK]
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: env[name] for name in names})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run(request: dict[str, Any]) -> int:
    """The verb."""
    try:
        got = get(request, {}, _tell)
    except DownloadError as error:
        _tell({"failed": {"kind": error.kind, "message": str(error)}})
    else:
        _tell({"end": {"sha256": got["sha256"], "verified": got["verified"]}})
    return 0


def _tell(frame: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(frame) + "\n")
    sys.stdout.flush()
