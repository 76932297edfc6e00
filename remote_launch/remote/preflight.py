"""What a launch must know of a server before it starts anything there."""

from __future__ import annotations

import getpass
import glob
import os
import re
import socket
import time

from . import gpus, machine, network
from .interpreter import find_python
from .jobdir import Refusal, expand, workdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Below the kernel's range for outgoing connections (32768 on): none of those takes the port before the job
# does.
PORT_RANGE = (20000, 32000)
PORTS_LIMIT = 64


def preflight(request: dict[str, Any]) -> dict[str, Any]:
    """Given {"script", "module", "python", "ports", "address", "cwd", "path_prepend", "outputs", "ways"}, say
    what there is of it, and what a launch must know beside: see the last lines for the answer.

    "script_exists" is None for a module that isn't in the workdir (it may be installed); "torch" is None when
    it can't be known. "probe_port" is one as gloo and NCCL take them: of the kernel's own choice. "ways" is a
    request to ``reach``: what came of it is told, and the ports that it names are taken where they are free.
    """
    root = workdir(request)
    base = os.path.normpath(os.path.join(root, request.get("cwd") or "."))
    python = find_python(request.get("python") or "python3", request.get("path_prepend") or [])
    address = request.get("address") or own_address()
    return {
        "hostname": socket.gethostname(), "user": _user(), "workdir": root,
        "workdir_exists": os.path.isdir(root),
        "workspace": os.path.isfile(os.path.join(root, ".rl", "workspace.json")),
        "script_exists": _script_exists(request, base),
        "python": python, **(about_torch(python) if python else {"torch": None}),
        "address": address, "interface": machine.interface_of(address),
        "network": {"reached": own_address(), **network.network()},
        "cpus": machine.cpus(), "gpus": gpus.survey(), "time": time.time(),
        "outputs": _outputs(request), **_ports(request),
    }


def _ports(request: dict[str, Any]) -> dict[str, Any]:
    """Return {"ports", "probe_port"}, and {"ways"} where they were to be tried."""
    asked, ways = request.get("ports") or 0, request.get("ways")
    if not isinstance(ways, dict):
        return {"ports": free_ports(asked), "probe_port": any_port()}
    from . import reach

    tried = reach.reach({**ways, "server": request.get("server")})
    first, *others = ways["listen"]
    if tried["taken"] or not _is_of_the_kernels_range(first):
        return {"ports": free_ports(asked), "probe_port": any_port()}
    return {"ports": others or free_ports(asked), "probe_port": first, "ways": tried}


def _is_of_the_kernels_range(port: int) -> bool:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low, high = map(int, file.read().split())
    except (OSError, ValueError):
        return False
    return low <= port <= high


def _outputs(request: dict[str, Any]) -> list[dict[str, Any]]:
    if not request.get("outputs"):
        return []
    from . import lookup

    return lookup.brief(request)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a uid without a name: containers
        return str(os.getuid())


def _script_exists(request: dict[str, Any], base: str) -> bool | None:
    script, module = request.get("script"), request.get("module")
    if script:
        path = expand(script) if script.startswith("~") else os.path.join(base, script)
        return os.path.isfile(path)
    if module:
        path = os.path.join(base, *module.split("."))
        return True if os.path.isfile(path + ".py") or os.path.isfile(
            os.path.join(path, "__main__.py")
        ) else None
    return None


def about_torch(python: str) -> dict[str, Any]:
    """Given an interpreter, return {"torch": has it?, "torch_version", "python_version": as "3.11"}, from its
    folders alone: importing torch takes seconds. What can't be known is None."""
    prefix = os.path.dirname(os.path.dirname(python))
    config = os.path.join(prefix, "pyvenv.cfg")
    closed = os.path.isdir(os.path.join(prefix, "conda-meta"))
    if os.path.isfile(config):
        with open(config, encoding="utf-8", errors="replace") as file:
            closed = "include-system-site-packages=true" not in file.read().lower().replace(" ", "")
    elif os.path.islink(python):
        prefix = os.path.dirname(os.path.dirname(os.path.realpath(python)))
    folders = [os.path.join(prefix, "lib*", "python3*", name) for name in ("site-packages", "dist-packages")]
    if not closed:
        folders += [
            "/usr/local/lib/python3*/dist-packages", os.path.expanduser("~/.local/lib/python3*/site-packages")
        ]
    for folder in folders:
        for found in glob.glob(os.path.join(folder, "torch", "__init__.py")):
            python_version = re.search(r"/python(3\.\d+)/", found)
            return {
                "torch": True, "torch_version": _version_in(os.path.dirname(found)),
                "python_version": python_version.group(1) if python_version else None,
            }
    return {"torch": False if closed else None, "torch_version": None, "python_version": None}


def _version_in(folder: str) -> str | None:
    """Given torch's folder, return its version, as "2.5.1+cu121". (environment.py takes 10 ms to import.)"""
    try:
        with open(os.path.join(folder, "version.py"), encoding="utf-8", errors="replace") as file:
            content = file.read(65536)
    except OSError:
        return None
    match = re.search(r"^__version__\b[^=\n]*=\s*['\"]([\w.+-]{1,60})['\"]", content, re.MULTILINE)
    return match.group(1) if match else None


def own_address() -> str:
    """Return the address that the ssh client reached, or 127.0.0.1 when nobody came by ssh."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 else "127.0.0.1"


def any_port() -> int:
    """Return a free TCP port of the kernel's choice."""
    with socket.socket() as sock:
        sock.bind(("", 0))
        port: int = sock.getsockname()[1]
        return port


def free_ports(count: int) -> list[int]:
    """Return distinct TCP ports that could be listened on just now. Raises Refusal when there are not so
    many."""
    if not isinstance(count, int) or not 0 <= count <= PORTS_LIMIT:
        raise Refusal("RequestError", f"{count!r} ports are not between 0 and {PORTS_LIMIT}")
    held: list[socket.socket] = []
    span = PORT_RANGE[1] - PORT_RANGE[0]  # (random takes 2 ms to import)
    try:
        for _ in range(PORTS_LIMIT * 20):
            if len(held) == count:
                return [sock.getsockname()[1] for sock in held]
            sock = socket.socket()
            try:
                sock.bind(("", PORT_RANGE[0] + int.from_bytes(os.urandom(4), "big") % span))
                sock.listen(1)
                held.append(sock)
            except OSError:
                sock.close()
    finally:
        for sock in held:
            sock.close()
    raise Refusal("ServerError", f"no {count} free TCP ports between {PORT_RANGE[0]} and {PORT_RANGE[1]}")
