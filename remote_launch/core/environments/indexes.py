"""Where pip and uv look for packages, as variables: a URL may hold a login, and arguments show in ps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from remote_launch.core.environments.locked import Indexes
from remote_launch.errors import ConfigError
from remote_launch.transport.command import mask_urls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.inventory import Environment, Server

# uv reads no "~" in it, as pip does.
UV_HOME_LINKS = (
    'UV_FIND_LINKS=$(printf %s "$UV_FIND_LINKS" | sed -e "s|^~/|$HOME/|" -e "s|,~/|,$HOME/|g"); '
    "export UV_FIND_LINKS; "
)


def index_env(
    server: Server, file: Indexes | None = None, wheel_folders: Sequence[str] = ()
) -> dict[str, str]:
    """Return the variables for both installers. The inventory's settings go before the server's ``env``,
    and that before what the ``file`` says. ``wheel_folders``: for a server without internet. Raises
    ConfigError."""
    environment = server.environment
    check_urls(environment)
    if environment.offline:
        return {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": " ".join(wheel_folders),
            "PIP_EXTRA_INDEX_URL": "",
            "UV_OFFLINE": "1",
            "UV_FIND_LINKS": ",".join(wheel_folders),
            "UV_INDEX": "",
            "UV_PYTHON_DOWNLOADS": "never",
        }
    own = Indexes(index_url=environment.index_url, extra=environment.extra_index_url)
    env = _variables(own, environment.find_links, server.env)
    if file is not None and own == Indexes():
        files = _variables(file, (), server.env)
        env.update({name: value for name, value in files.items() if name not in server.env})
    return env


def with_indexes(server: Server, file: Indexes) -> Server:
    """Return the server with what a file says of indexes in its inventory's place, where that names none: for
    programs of this machine that download for it."""
    environment = server.environment
    if environment.index_url or environment.extra_index_url or file == Indexes():
        return server
    main = None if {"PIP_INDEX_URL", "UV_DEFAULT_INDEX"} & server.env.keys() else file.index_url
    extra = () if {"PIP_EXTRA_INDEX_URL", "UV_INDEX"} & server.env.keys() else file.extra
    found = dataclasses.replace(environment, index_url=main, extra_index_url=extra)
    return dataclasses.replace(server, environment=found)


def _variables(indexes: Indexes, links: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    main, extra, hosts = indexes.index_url, indexes.extra, indexes.insecure_hosts
    env: dict[str, str] = {}
    if main:
        env.update(PIP_INDEX_URL=main, UV_DEFAULT_INDEX=main)
    if extra:
        env.update(PIP_EXTRA_INDEX_URL=" ".join(extra), UV_INDEX=" ".join(extra))
        # uv would take a package from the first index that has any version of it, an extra one first:
        # torch's own index has old versions of much besides torch. pip takes the best of all.
        if "UV_INDEX_STRATEGY" not in given:
            env["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if links:
        env.update(PIP_FIND_LINKS=" ".join(links), UV_FIND_LINKS=",".join(links))
    if hosts:
        env.update(PIP_TRUSTED_HOST=" ".join(hosts), UV_INSECURE_HOST=" ".join(hosts))
    return env


def check_urls(environment: Environment) -> None:
    """Raises ConfigError for a setting that would be read as two."""
    main = (environment.index_url,) if environment.index_url else ()
    settings = {
        "index_url": main,
        "extra_index_url": environment.extra_index_url,
        "find_links": environment.find_links,
    }
    for key, values in settings.items():
        for value in values:
            wrong = not value or any(letter.isspace() or not letter.isprintable() for letter in value)
            if wrong or (key == "find_links" and "," in value):
                raise ConfigError(
                    f"environment.{key}: one address or folder without spaces, found {mask_urls(value)!r}",
                    key=f"environment.{key}",
                    hint="several are a list: [https://one, https://two]; a space in a URL is %20",
                )
