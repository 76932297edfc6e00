"""Give a folder its ``.remote/``: an inventory to edit, and the list of what a sync leaves out."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import TYPE_CHECKING

from remote_launch.core.drafts import ServerDraft, local_servers, parse_server, servers_from_ssh_config
from remote_launch.core.files import write_atomic, write_new
from remote_launch.core.inventory import parse_inventory
from remote_launch.core.kinds import safe_folder_name
from remote_launch.core.project import Project
from remote_launch.core.templates import EXCLUDE_TEMPLATE, read_template, render_config
from remote_launch.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "FIRST_MANAGER",
    "InitResult",
    "ServerDraft",
    "check_name",
    "init_project",
    "local_servers",
    "parse_server",
    "refuse_second",
    "servers_from_ssh_config",
    "suggest_name",
]

# Written out, so that the file says it: with no manager conda is meant, which downloads 100 MB first. This
# one takes the Python that servers have.
FIRST_MANAGER = "venv"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InitResult:
    """What ``rl init`` did: the files it wrote, those it found and kept, and what to do next."""

    project: Project
    name: str
    servers: tuple[str, ...]
    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    next_steps: tuple[str, ...]


def init_project(
    root: Path,
    *,
    name: str | None = None,
    servers: Sequence[ServerDraft] = (),
    manager: str = FIRST_MANAGER,
    force: bool = False,
) -> InitResult:
    """Write ``.remote/configs.yaml`` and ``.remote/exclude.txt`` in ``root``.

    ``name`` is by default the folder's. An exclude.txt that is there is kept. A configs.yaml that is there is
    an error, and nothing is written; with ``force`` it is replaced. Raises UsageError and ConfigError.
    """
    project = Project(root=root.resolve())
    if not project.root.is_dir():
        raise UsageError(f"{root}: no such folder", hint="make it first")
    name = suggest_name(project.root) if name is None else name
    text = _config_text(project, name, servers, manager)
    written: list[Path] = []
    kept: list[Path] = []
    try:
        project.remote_dir.mkdir(exist_ok=True)
        if force:
            write_atomic(project.config, text)
        elif not write_new(project.config, text):
            raise _second(project.config)
        written.append(project.config)
        is_new = write_new(project.exclude_file, read_template(EXCLUDE_TEMPLATE))
        (written if is_new else kept).append(project.exclude_file)
    except OSError as error:
        raise ConfigError(
            f"can't be written: {error.strerror}",
            path=error.filename or project.remote_dir,
            hint=f"{project.remote_dir} must be a folder that you can write to",
        ) from error
    return InitResult(
        project=project,
        name=name,
        servers=tuple(server.name for server in servers),
        written=tuple(written),
        kept=tuple(kept),
        next_steps=_next_steps(project, servers),
    )


def refuse_second(root: Path, *, force: bool = False) -> None:
    """Raise ConfigError when ``root`` has an inventory already, which only ``force`` replaces."""
    config = Project(root=root.resolve()).config
    if config.exists() and not force:
        raise _second(config)


def check_name(name: str) -> None:
    """Raise UsageError unless the text can be a project's name: it is a folder's on every server."""
    if not safe_folder_name(name):
        raise UsageError(f"{name!r} can't be a project's name", hint="letters, digits, . _ -, not . - first")


def suggest_name(root: Path) -> str:
    """Given a folder, return its project's name: its own, with what can't be in one replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).strip(".-") or "project"


def _second(config: Path) -> ConfigError:
    return ConfigError("there is an inventory already", path=config, hint="edit it; --force replaces it")


def _config_text(project: Project, name: str, servers: Sequence[ServerDraft], manager: str) -> str:
    """Return the inventory to write, once it is known to load: better no file than a broken one."""
    check_name(name)
    names = [server.name for server in servers]
    twice = sorted({server for server in names if names.count(server) > 1})
    if twice:
        raise UsageError(
            f"two servers named {', '.join(twice)}",
            hint="give one of them another name: gpu-b=user@host",
        )
    text = render_config(name=name, servers=servers, manager=manager)
    if servers:
        parse_inventory(text, project)
    return text


def _next_steps(project: Project, servers: Sequence[ServerDraft]) -> tuple[str, ...]:
    steps = [] if servers else [f"add your servers to {project.config}"]
    keys = dict.fromkeys(server.private_key for server in servers if server.private_key)
    steps += [
        f"rl authorize                # there is no {key} yet: makes it, and installs it by a password"
        for key in keys
        if not os.path.exists(project.root / os.path.expanduser(key))  # noqa: PTH110, PTH111 - Path raises
    ]
    return (
        *steps,
        "rl servers --check          # can each one be reached, and what has it",
        "rl prepare                  # the Python environment and the code, on each",
        "rl torch-launch --nproc-per-node 1 train.py   # your script on all of them",
    )
