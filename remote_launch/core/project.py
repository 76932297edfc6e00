"""The project on this machine: where it is, and where each file of it lies. The owner of local paths."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

from remote_launch.core.files import write_new
from remote_launch.dataclass import dataclass
from remote_launch.errors import ConfigError, ProjectNotFoundError

PROJECT_VARIABLE = "RL_PROJECT"
REMOTE_FOLDER = ".remote"
DEFAULT_EXCLUDES = f"{REMOTE_FOLDER}/exclude.txt"
CONFIG_FILE = "configs.yaml"
_PROJECT_ID = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder with a ``.remote/`` in it. ``root`` is absolute.

    The three texts are relative to ``root`` (or absolute) and come from the inventory when it moves them:
    ``Inventory.project`` is the project with them applied.
    """

    root: Path
    exclude_name: str = DEFAULT_EXCLUDES
    logs_name: str = f"{REMOTE_FOLDER}/logs"
    jobs_name: str = f"{REMOTE_FOLDER}/jobs"

    @property
    def remote_dir(self) -> Path:
        return self.root / REMOTE_FOLDER

    @property
    def config(self) -> Path:
        """The inventory's file."""
        return self.remote_dir / CONFIG_FILE

    @property
    def exclude_file(self) -> Path:
        """What a sync leaves out, in rsync's own pattern language."""
        return self.resolve(self.exclude_name)

    @property
    def logs_dir(self) -> Path:
        return self.resolve(self.logs_name)

    @property
    def jobs_dir(self) -> Path:
        """Where the logs of finished jobs are brought back to."""
        return self.resolve(self.jobs_name)

    @property
    def outputs_dir(self) -> Path:
        """Where outputs are brought back to, a folder a server."""
        return self.remote_dir / "outputs"

    @property
    def registry(self) -> Path:
        """The index of jobs (SQLite); it can be rebuilt from the servers."""
        return self.remote_dir / "jobs.sqlite3"

    @property
    def project_id(self) -> str:
        """The project's own 32 hex digits, made at first use; they mark a workdir as this project's.

        Raises ConfigError when the file can't be written, or holds something else.
        """
        path = self.remote_dir / "project_id"
        try:
            if not path.exists():
                write_new(path, uuid.uuid4().hex + "\n")
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            raise ConfigError(
                f"can't keep the project's id: {error.strerror}",
                path=path,
                hint=f"{self.remote_dir} must be a folder that you can write to",
            ) from error
        if not _PROJECT_ID.match(text):
            raise ConfigError(
                "not a project id: expected 32 hex digits",
                path=path,
                hint="delete it: a new one is made",
            )
        return text

    def resolve(self, name: str) -> Path:
        """Given a path as the inventory spells it, return it absolute: "~" is home, else from the root."""
        path = Path(name)
        try:
            path = path.expanduser()
        except RuntimeError:  # "~nobody", no such user: an error where the file is needed, as it was typed
            return path
        return self.root / path


def find_project(start: Path | None = None, override: str | None = None) -> Project:
    """Return the project: ``override`` (``--project``), else RL_PROJECT, else the nearest from ``start`` up.

    ``start`` is by default the current folder. A folder whose ``.remote/`` holds an inventory wins over a
    nearer one without. Raises ProjectNotFoundError.
    """
    for source, text in (("--project", override), (PROJECT_VARIABLE, os.environ.get(PROJECT_VARIABLE))):
        if text:
            return _named_project(source, text)
    try:
        folder = (start or Path.cwd()).resolve()
    except OSError as error:
        raise ProjectNotFoundError("the current folder is gone", hint="cd to your project") from error
    without_inventory: Path | None = None
    for candidate in (folder, *folder.parents):
        if (candidate / REMOTE_FOLDER / CONFIG_FILE).is_file():
            return Project(root=candidate)
        if without_inventory is None and (candidate / REMOTE_FOLDER).is_dir():
            without_inventory = candidate
    if without_inventory is not None:
        return Project(root=without_inventory)
    raise ProjectNotFoundError(
        f"no {REMOTE_FOLDER} folder in {folder} or above it",
        hint="rl init makes one in the current folder; --project names a project elsewhere",
    )


def _named_project(source: str, text: str) -> Project:
    root = Project(root=Path.cwd()).resolve(text).resolve()
    if root.name == REMOTE_FOLDER and root.is_dir():
        root = root.parent
    if (root / REMOTE_FOLDER).is_dir():
        return Project(root=root)
    what = f"no {REMOTE_FOLDER} folder in it" if root.is_dir() else "no such folder"
    raise ProjectNotFoundError(f"{source} {text}: {what}", hint="rl init, in the project's folder, makes one")
