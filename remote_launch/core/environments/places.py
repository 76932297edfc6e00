"""Where a server's environment is: the one home of its paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remote_launch.core.inventory import Server


def environment_prefix(server: Server) -> str | None:
    """Return the environment's folder on the server ("~/" allowed); None where an existing interpreter is
    used."""
    environment = server.environment
    if environment.manager == "none":
        return None
    name = environment.name if environment.manager == "conda" else "env"
    return environment.prefix or f"{server.workdir}/.rl/{name}"


def environment_python(server: Server) -> str:
    """Return the interpreter that jobs run with."""
    prefix = environment_prefix(server)
    if prefix is not None:
        return f"{prefix}/bin/python"
    wanted = wanted_python(server)
    return wanted if "/" in wanted else server.python or wanted or "python3"


def environment_path(server: Server) -> tuple[str, ...]:
    """Return the folders that jobs have before PATH, so that ``python`` and ``torchrun`` are the
    environment's."""
    python = environment_python(server)
    return (python.rpartition("/")[0],) if "/" in python else ()


def wanted_python(server: Server) -> str:
    """Return the Python to make an environment with, as the inventory names it: a path, "python3.11", or ""
    for any."""
    wanted = server.environment.python or ""
    return wanted if "/" in wanted or not wanted or wanted.startswith("python") else f"python{wanted}"
