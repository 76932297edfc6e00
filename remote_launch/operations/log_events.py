"""What following jobs tells, event by event, and what is to be followed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remote_launch.core.jobs import JobRecord
    from remote_launch.errors import RemoteLaunchError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files of a job: global ranks (None: all, empty: none), and the command's (torchrun's) own."""

    ranks: tuple[int, ...] | None = None
    launcher: bool = True
    lines: int = 10  # how many of each file's last lines to begin with; -1: from the start
    since_age_s: float | None = None  # begin with what was written at most this long ago, instead
    attempt: int | None = None  # None: the newest, and those that begin later


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a log, without its newline. Untrusted: clean it before it goes to a terminal."""

    job: JobRecord
    rank: int | None
    stream: str  # stdout | stderr
    text: str
    attempt: int = 0
    goes_on: bool = False  # it is very long: the source's next event has more of it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """How a line looks that has no end yet: a progress bar (of several rows, perhaps), a prompt. It replaces
    what was told of the same source before; "" when nothing is left of it. What it comes to is told as
    LogLine."""

    job: JobRecord
    rank: int | None
    stream: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """A job came to an end (or, when not following, all of its logs so far were shown)."""

    job: JobRecord
    state: str
    exit_code: int | None
    signal: str | None
    reason: str | None
    replaced: tuple[str, ...] = ()  # servers of the launch whose places spares took: they may never answer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """About a server, no log line: the connection was lost; or it failed for good (``error``)."""

    server: str
    text: str
    error: RemoteLaunchError | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """A job waits for its next attempt, that begins in ``in_s``; each node of a launch tells so."""

    job: JobRecord
    attempt: int
    words: str  # which it is: "restart 1 of 3"
    in_s: float
    why: str = ""  # what ended the one before: "rank 3 on gpu-b exited with 1"


Event = LogLine | Unfinished | JobEnd | Notice | Rest
