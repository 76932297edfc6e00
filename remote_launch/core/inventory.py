"""The inventory: ``.remote/configs.yaml``, parsed, checked and filled in.

``docs/inventory.md`` is the reference of its keys; ``core/schema.py`` has their tables.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from remote_launch.core.kinds import safe_folder_name, safe_server_name
from remote_launch.core.launch_defaults import LaunchDefaults
from remote_launch.core.logins import parse_login, unbracketed
from remote_launch.core.parsed import parse_kept
from remote_launch.core.schema import (
    ENVIRONMENT_KEYS,
    INVENTORY_KEYS,
    LAUNCH_KEYS,
    SERVER_KEYS,
    SYNC_KEYS,
    Problems,
    read_keys,
)
from remote_launch.core.yaml_lines import parse_yaml
from remote_launch.dataclass import dataclass
from remote_launch.errors import ConfigError, UnknownServerError
from remote_launch.transport.base import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from remote_launch.core.project import Project
    from remote_launch.core.yaml_lines import Node

DEFAULT_MANAGER = "conda"  # the environment's manager when the inventory names none, as the ancestor did
DEFAULT_CONNECT_TIMEOUT_S = 10
_SERVERS_HINT = "under servers:, one a line:  gpu-a: {hostname: 10.0.0.5, username: ubuntu}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The Python environment that ``rl prepare`` makes on a server."""

    manager: str = DEFAULT_MANAGER  # conda | uv | venv | none
    python: str | None = None  # a version as "3.11"; for manager none an interpreter
    requirements: str | None = None  # a file of the project to install from; None: the first that is known
    packages: tuple[str, ...] = ()  # requirement lines that come on top of the file's
    install_project: bool | None = None  # the project itself too; None: where it says how it is built
    pip_args: tuple[str, ...] = ()
    index_url: str | None = dataclasses.field(default=None, repr=False)  # URLs may have a login in them
    extra_index_url: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    find_links: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    torch_backend: str | None = None  # uv's --torch-backend: cu126, cpu, auto
    offline: bool = False  # the server has no internet: packages are downloaded here and sent
    channels: tuple[str, ...] = ()  # conda's; none: conda-forge
    # Of Miniforge or Miniconda, where the server has no conda.
    installer_url: str | None = dataclasses.field(default=None, repr=False)
    sha256: str | None = None  # of that installer
    name: str = "rl_env"  # conda's environment; left out of an inventory: <project>_env
    prefix: str | None = None  # the environment's folder; None: in the workdir


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A named entry of the inventory, the defaults applied. None is "not said": found out, or left to ssh."""

    name: str
    hostname: str = "localhost"
    username: str | None = None
    port: int | None = None
    private_key: Path | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    password_command: str | None = dataclasses.field(default=None, repr=False)  # its first line is one
    transport: str = "openssh"  # openssh | fabric | local
    connection: str = "ssh"  # ssh | local
    address: str | None = None  # on the data plane; found automatically when None
    workdir: str  # absolute on the server, or "~/…"
    nproc_per_node: int | str | None = None
    slots: int | None = None  # how many jobs of the queue at a time; None: its cards are the slots
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)  # may hold secrets too
    properties: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    python: str | None = None
    ssh_config: Path | None = None
    connect_timeout_s: int = DEFAULT_CONNECT_TIMEOUT_S
    log_max_bytes: int | None = None  # of each log file of a job; None: they grow
    environment: Environment = dataclasses.field(default_factory=Environment)

    @property
    def target(self) -> Target:
        """How a transport reaches it."""
        return Target(
            name=self.name,
            hostname=self.hostname,
            username=self.username,
            port=self.port,
            private_key=self.private_key,
            password=self.password,
            password_command=self.password_command,
            transport=self.transport,
            ssh_config=self.ssh_config,
            connect_timeout_s=self.connect_timeout_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """What goes to the servers and how. The project's exclude file comes on top of ``exclude``."""

    gitignore: bool = False
    exclude: tuple[str, ...] = ()
    compress: bool | None = None
    max_warn_bytes: int = 500_000_000
    max_warn_files: int = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Everything that ``configs.yaml`` says. ``servers`` is in the file's order: the order of node ranks."""

    name: str
    servers: Mapping[str, Server]
    sync: Sync
    path: Path
    project: Project  # with the folders that the inventory moves
    launch: LaunchDefaults = dataclasses.field(default_factory=LaunchDefaults)
    jobs_folder_name: str = ".jobs"  # in each workdir
    outputs: tuple[str, ...] = ()  # what jobs write, as paths in the workdir: never sent, brought back
    per_node_outputs: tuple[str, ...] = ()  # those of them that each node writes for itself
    on_finish: str | None = dataclasses.field(default=None, repr=False)  # run after each job and launch
    password_line: int | None = None  # where the first ``password:`` of the file stands

    def select(self, names: Sequence[str] = ()) -> list[Server]:
        """Given names, return their servers in the file's order, each once; all of them for no names.

        Raises UnknownServerError.
        """
        for name in names:
            if name not in self.servers:
                raise UnknownServerError(name, self.servers)
        return [server for name, server in self.servers.items() if not names or name in names]


def load_inventory(project: Project) -> Inventory:
    """Read the project's inventory. Raises ConfigError: file, line, key, what was expected, what found."""
    path = project.config
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError("no such file", path=path, hint="rl init writes one") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError("not UTF-8 text", path=path, line=line, hint="save the file as UTF-8") from error
    except OSError as error:
        hint = "it must be a file that you can read"
        raise ConfigError(f"can't be read: {error.strerror}", path=path, hint=hint) from error
    return _inventory(parse_kept(text, path), project)


def parse_inventory(text: str, project: Project) -> Inventory:
    """Given the text of an inventory, return it. Raises ConfigError as ``load_inventory`` does."""
    return _inventory(parse_yaml(text, project.config), project)


def _inventory(top: Node | None, project: Project) -> Inventory:
    path = project.config
    problems = Problems(path)
    keys = read_keys(top, INVENTORY_KEYS, "", problems)
    project = _with_folders(project, keys)
    name = _project_name(keys, project, problems)
    servers = _servers(keys, project, name, problems)
    sync = read_keys(keys.get("sync"), SYNC_KEYS, "sync", problems)
    launch = read_keys(keys.get("launch"), LAUNCH_KEYS, "launch", problems)
    problems.raise_any()
    if not servers:
        line = top.key_lines.get("servers") if top is not None else None
        raise ConfigError("no servers", path=path, line=line, key="servers", hint=_SERVERS_HINT)
    return Inventory(
        name=name,
        servers=servers,
        sync=Sync(**_given(sync)),
        launch=LaunchDefaults(**_given(launch)),
        path=path,
        project=project,
        jobs_folder_name=keys.get("remote_jobs_folder_name") or ".jobs",
        outputs=tuple(one.path for one in keys.get("outputs") or ()),
        per_node_outputs=tuple(one.path for one in keys.get("outputs") or () if one.per_node),
        on_finish=keys.get("on_finish"),
        password_line=_password_line(keys),
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """A key left blank is as good as absent: labml_remote's readme tells its users to leave keys blank."""
    return {name: value for name, value in values.items() if value is not None}


def _with_folders(project: Project, keys: Mapping[str, Any]) -> Project:
    moved = {"exclude_name": "exclude_file", "logs_name": "logs_folder", "jobs_name": "jobs_folder"}
    return dataclasses.replace(project, **{field: keys[key] for field, key in moved.items() if keys.get(key)})


def _project_name(keys: Mapping[str, Any], project: Project, problems: Problems) -> str:
    if keys.get("name"):
        return str(keys["name"])
    name = project.root.name
    if "name" not in keys and not safe_folder_name(name):
        problems.add(
            1,
            "name",
            f"is missing, and the project folder's own name ({name!r}) can't name a workdir",
            "add a line  name: my_project  (letters, digits and . _ -)",
        )
    return name


def _servers(
    keys: Mapping[str, Any], project: Project, project_name: str, problems: Problems
) -> dict[str, Server]:
    """What a server says itself wins over ``defaults``, and its ``environment`` over the one of all."""
    shared = _environment_keys(keys, "environment", problems)
    common = read_keys(keys.get("defaults"), SERVER_KEYS, "defaults", problems)
    shared |= _environment_keys(common, "defaults.environment", problems)
    node: Node | None = keys.get("servers")
    if node is None or node.is_null:
        return {}
    if node.fields is None:
        found = f"expected a mapping of names to servers, found {node.found()}"
        problems.add(node.line, "servers", found, _SERVERS_HINT)
        return {}
    servers = {}
    for name, entry in node.fields.items():
        key, line = f"servers.{name}", node.key_lines[name]
        if not safe_server_name(name):
            problems.add(line, key, "a server's name is letters, digits and . _ -, a letter or digit first")
            continue
        own = _entry(entry, key, line, problems)
        if own is not None:
            values = _merged(common, own)
            values["environment"] = shared | _environment_keys(own, f"{key}.environment", problems)
            _check_server(name, values, line, problems)
            servers[name] = _server(name, values, project, project_name)
    return servers


def _environment_keys(values: Mapping[str, Any], where: str, problems: Problems) -> dict[str, Any]:
    return _given(read_keys(values.get("environment"), ENVIRONMENT_KEYS, where, problems))


def _entry(entry: Node, key: str, line: int, problems: Problems) -> dict[str, Any] | None:
    """The entry's own values; None, with the problem noted, when it can't be a server at all."""
    if entry.fields is not None:
        return read_keys(entry, SERVER_KEYS, key, problems)
    if entry.is_null or not isinstance(entry.value, str):
        problems.add(line, key, f"expected a mapping or user@host:port, found {entry.found()}", _SERVERS_HINT)
        return None
    try:
        return _given(dataclasses.asdict(parse_login(entry.value)))
    except ValueError as error:
        problems.add(entry.line, key, str(error), _SERVERS_HINT)
        return None


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with the entry's values over them; ``env`` and ``properties`` are merged name by name."""
    merged = {**common, **own}
    for name in ("env", "properties"):
        merged[name] = {**(common.get(name) or {}), **(own.get(name) or {})}
    for name, other in (("password", "password_command"), ("password_command", "password")):
        if own.get(name) is not None and own.get(other) is None:
            merged[other] = None  # its own way to a password stands for both of the defaults
    return merged


def _password_line(keys: Mapping[str, Any]) -> int | None:
    servers: Node | None = keys.get("servers")
    entries = [keys.get("defaults"), *((servers.fields or {}).values() if servers is not None else ())]
    found = [
        entry.key_lines["password"]
        for entry in entries
        if entry is not None and entry.fields and not getattr(entry.fields.get("password"), "is_null", True)
    ]
    return min(found, default=None)


def _server(name: str, values: Mapping[str, Any], project: Project, project_name: str) -> Server:
    given = _given(values)
    transport = given.get("transport", "openssh")
    if given.get("connection") == "local" or transport == "local":
        given.update(connection="local", transport="local")
        given.setdefault("workdir", f"~/.remote_launch/local/{project_name}/{name}")
    elif "password" in given or "password_command" in given:  # ssh itself takes no password from a program
        given["transport"] = "fabric"
    given["workdir"] = given.get("workdir", f"~/{project_name}").rstrip("/")
    for key in ("private_key", "ssh_config"):
        if key in given:
            given[key] = project.resolve(given[key])
    if "hostname" in given:
        given["hostname"] = unbracketed(given["hostname"])
    given["environment"] = Environment(**{"name": f"{project_name}_env", **given["environment"]})
    return Server(name=name, **given)


def _check_server(name: str, values: Mapping[str, Any], line: int, problems: Problems) -> None:
    """Note what is wrong with an entry as a whole."""
    key = f"servers.{name}"
    local = "local" in (values.get("connection"), values.get("transport"))
    about_hostname = problems.about(f"{key}.hostname", "defaults.hostname")
    if values.get("hostname") is None and not local and not about_hostname:
        problems.add(line, f"{key}.hostname", "is missing", "an address, or an alias of ~/.ssh/config")
    for name in ("password", "password_command"):
        if values.get(name) is not None and values.get("transport") == "openssh" and not local:
            problems.add(
                line,
                f"{key}.{name}",
                "transport openssh can't log in by password",
                "leave transport out (a password means fabric), or log in by a key (rl authorize)",
            )
