"""The files that ``rl init`` starts a ``.remote/`` with, and the inventory filled in from them.

They are in ``.remote-template/`` of the source tree; in an installed package, in ``remote_launch/_template``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from remote_launch.errors import RemoteLaunchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from remote_launch.core.drafts import ServerDraft

CONFIG_TEMPLATE = "configs.yaml"
EXCLUDE_TEMPLATE = "exclude.txt"
_BEGIN, _END = "  # rl: servers begin\n", "  # rl: servers end\n"
_NO_SERVERS = "  # gpu-a:\n  #   hostname: 10.0.0.5\n"
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._-]*|[0-9]{1,3}(\.[0-9]{1,3}){3}")
_NOT_TEXT = frozenset({"y", "n", "yes", "no", "true", "false", "on", "off", "null"})  # to YAML 1.1, unquoted


def read_template(name: str) -> str:
    """Return the text of a template file."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_template", package.parent / ".remote-template"):
        path = folder / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise RemoteLaunchError(f"the installation lacks its template {name}", hint="install remote_launch again")


def render_config(*, name: str, servers: Sequence[ServerDraft], manager: str) -> str:
    """Return an inventory's text: the template, its comments kept, with these in place of its examples."""
    text = read_template(CONFIG_TEMPLATE)
    head, _, rest = text.partition(_BEGIN)
    tail = rest.partition(_END)[2]
    head = re.sub(r"(?m)^name: .*$", lambda _: f"name: {_scalar(name)}", head, count=1)
    tail = re.sub(r"(?m)^  manager: .*$", lambda _: f"  manager: {_scalar(manager)}", tail, count=1)
    return head + ("".join(_entries(servers)) or _NO_SERVERS) + tail


def _entries(servers: Sequence[ServerDraft]) -> Iterator[str]:
    for server in servers:
        yield f"  {_scalar(server.name)}:\n"
        if server.hostname is None:
            yield "    connection: local\n"
            continue
        yield f"    hostname: {_scalar(server.hostname)}\n"
        if server.username is not None:
            yield f"    username: {_scalar(server.username)}\n"
        if server.port is not None:
            yield f"    port: {server.port}\n"
        if server.private_key is not None:
            yield f"    private_key: {_scalar(server.private_key)}\n"
        if server.ssh_config is not None:
            yield f"    ssh_config: {_scalar(server.ssh_config)}\n"


def _scalar(text: str) -> str:
    """Given any text, return it as YAML that every reader takes for that text."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT:
        return text
    return json.dumps(text, ensure_ascii=False)
