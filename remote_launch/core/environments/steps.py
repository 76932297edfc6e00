"""What is to be done to a server's environment, as plain data: printed by ``--dry-run``, carried out by the
program ``prepare`` on the server (``remote/prepare.py``).

A recipe has two parts, the environment and its packages. Each has a fingerprint of what it is made from: a
part whose fingerprint stands in its mark on the server is done, and nothing of it runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

from remote_launch.transport.command import mask_env, mask_urls

if TYPE_CHECKING:
    from collections.abc import Mapping

Hints = tuple[tuple[str, str], ...]

# What pip and uv say when a connection breaks off in the middle; a server that isn't there at all they have
# tried often enough themselves.
BROKEN_CONNECTION = (
    *("IncompleteRead", "Connection broken", "ConnectionResetError", "Connection reset", "Read timed out"),
    *("RemoteDisconnected", "ProtocolError", "end of file before message length reached", "unexpected EOF"),
    *("error decoding response body", "connection closed before message completed", "network timeout"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file that the server fetches; sent from this machine where the server has no internet.

    Both may hold ``{os}`` (Linux, MacOSX) and ``{machine}`` (x86_64, aarch64): the server fills them in.
    ``sha256`` None: what ``<url>.sha256`` says, where there is such a file."""

    url: str
    to: str  # absolute on the server, or "~/…"
    sha256: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do on a server: ``download`` if there is one (its path is then in $RL_DOWNLOAD), then
    ``script`` in the workdir, both under ``lock`` where other projects' prepares do the same thing.

    ``script`` is for /bin/sh, with ``args`` as $1, $2 … (a leading "~/" is the home folder there). The
    programs of ``needs`` and ``wants`` are found there, and their paths are in $UV and $CONDA; without one
    that it needs a step fails, without one that it wants it does its best. A step that ``provides`` one is
    left out where there is one already. ``hints`` maps words of a failed step's output to the next step
    for the user.

    A step whose output has one of the words of ``retry_on`` when it fails is run again, up to 3 times in
    all: those of connections that broke off."""

    name: str
    script: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    needs: tuple[str, ...] = ()  # "uv", "conda"
    wants: tuple[str, ...] = ()
    provides: str | None = None
    download: Download | None = None
    lock: str | None = None  # a path on the server
    retry_on: tuple[str, ...] = ()
    hints: Hints = ()

    def to_dict(self) -> dict[str, object]:
        """Return it for ``--dry-run``: logins in URLs and secrets are hidden."""
        told: dict[str, object] = {"step": self.name}
        if self.provides:
            told["unless_found"] = self.provides
        if self.download:
            told["download"] = mask_urls(self.download.url)
        told |= {"script": self.script, "args": [mask_urls(word) for word in self.args]}
        return {**told, "env": mask_env(self.env)}

    def to_wire(self) -> dict[str, object]:
        """Return it for the program on the server."""
        told = {
            name: getattr(self, name)
            for name in ("name", "script", "args", "env", "needs", "wants", "provides", "lock", "retry_on")
        }
        return {**told, "download": dataclasses.asdict(self.download) if self.download else None}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The environment, or its packages: what it is made from, and how."""

    fingerprint: str
    mark: str  # the file on the server that holds the fingerprint once all steps are done
    steps: tuple[Step, ...]
    empties: str | None = None  # a folder of rl's own that is emptied before the first step

    def to_wire(self) -> dict[str, object]:
        return {
            "fingerprint": self.fingerprint,
            "mark": self.mark,
            "empties": self.empties,
            "steps": [step.to_wire() for step in self.steps],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that makes one server's environment. ``packages`` is None where there are none to install."""

    manager: str
    prefix: str | None  # the environment's folder; None: an interpreter that is there is used as it is
    python: str  # the interpreter that jobs run with
    lock: str  # the path on the server of the lock that is held while any step runs
    environment: Part
    packages: Part | None = None
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)  # in <workdir>/.rl: name, content
    source_files: tuple[str, ...] = ()  # the project's files that the packages are read from

    @property
    def needs(self) -> frozenset[str]:
        """The programs that steps need."""
        return frozenset(name for step in self.steps for name in step.needs)

    @property
    def wants(self) -> frozenset[str]:
        """The programs that steps do better with."""
        return frozenset(name for step in self.steps for name in step.wants)

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.environment.steps + (self.packages.steps if self.packages else ())


def fingerprint_of(*parts: object) -> str:
    """Given plain data, return a short hash of it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def hint_for(step: Step, output: str) -> str | None:
    """Given a failed step and its output, return the next step for the user, where one is known."""
    return next((hint for words, hint in (*DISK_HINTS, *step.hints, *HINTS) if words in output), None)


# Whatever else it says: a build that fails on a full disk is no fault of the package.
DISK_HINTS: Hints = (
    (
        "No space left on device",
        "the disk is full there: rl servers --check shows it; workdir: in the inventory names another",
    ),
    (
        "Disk quota exceeded",
        "your quota there is used up: rl clean frees what rl made; workdir: names another disk",
    ),
    (
        "Read-only file system",
        "that folder can't be written there: workdir: and environment.prefix: in the inventory name others",
    ),
)

HINTS: Hints = (
    (
        "ensurepip is not",
        "python3 there lacks venv: ask for the package python3-venv, or set environment.manager: uv",
    ),
    (
        "No module named venv",
        "python3 there lacks venv: ask for the package python3-venv, or set environment.manager: uv",
    ),
    (
        "no such python",
        "environment.python asks for a Python that is not on that server; manager: uv or conda can bring it",
    ),
    (
        "No interpreter found",
        "environment.python asks for a Python that is not on that server and could not be downloaded",
    ),
    (
        "Could not find a version",
        "no such version for that server's Python and platform: see the requirements file",
    ),
    ("No solution found", "the requirements conflict, or none fits that Python: see the last lines"),
    ("ResolutionImpossible", "the requirements conflict: see the last lines"),
    (
        "Temporary failure in name resolution",
        "the server has no internet, or no DNS; environment.offline: true sends the packages from here",
    ),
    (
        "Failed to establish a new connection",
        "the server has no internet; environment.offline: true sends the packages from here",
    ),
    (
        "dns error",
        "the server has no internet, or no DNS; environment.offline: true sends the packages from here",
    ),
    (
        "not made by rl",
        "environment.prefix is a folder of rl's own; one that exists: manager: none, python: PATH",
    ),
    ("Could not open requirements file", "send it first: rl rsync, or rl prepare"),
)
