"""What rsync says: its version, its statistics, its exit code in words."""

from __future__ import annotations

import dataclasses
import re

from remote_launch.errors import (
    ConnectionLostError,
    MissingProgramError,
    RemoteLaunchError,
    SyncError,
    last_lines,
)

MARK = "rl>"  # begins the lines that --out-format prints
VANISHED = 24  # files went away while rsync read them: harmless, training writes and deletes all the time
PARTIAL = 23

# rsync(1), "EXIT VALUES"; 126, 127 and 255 are the remote shell's.
EXIT_CODES = {
    1: "syntax or usage error",
    2: "the two rsyncs speak incompatible protocols",
    3: "a file or folder to read or write can't be selected",
    4: "an action that one of the two rsyncs does not know",
    5: "error starting the client-server protocol",
    6: "the daemon could not write to its log",
    10: "error in socket I/O",
    11: "error in file I/O",
    12: "the stream between the two rsyncs broke",
    13: "error in the program's diagnostics",
    14: "error in communication between processes",
    20: "stopped by a signal",
    21: "a child process failed",
    22: "out of memory",
    23: "some files could not be transferred",
    24: "some files vanished before they could be transferred",
    25: "the limit of deletions stopped it",
    30: "timeout while sending or receiving",
    35: "timeout waiting for the daemon",
    126: "rsync can't be executed there",
    127: "rsync was not found there",
    255: "the connection failed",
}
_INSTALL = "apt-get install rsync, dnf install rsync, or without root: conda install -c conda-forge rsync"
_NUMBER = r"[\d,.]+"
_NOT_THERE = re.compile(
    r"(link_stat|change_dir|chdir|file has vanished).*(No such file or directory \(2\)|vanished)"
)
_SENDER_GONE = re.compile(r"rsync: \[(?i:receiver|generator)\] write error: Broken pipe \(32\)")
_PROGRESS = re.compile(rb"\s*([\d,.]+)\s+(\d+)%")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RsyncVersion:
    """A rsync program: (3, 2, 7) for its version; openrsync, which macOS has, claims 2.6.9 and has little
    more."""

    version: tuple[int, ...]
    openrsync: bool = False

    @property
    def has_info(self) -> bool:
        """--info=progress2 (3.1)."""
        return self.version >= (3, 1) and not self.openrsync

    @property
    def has_8_bit_output(self) -> bool:
        """-8 (2.6.9), which openrsync hasn't."""
        return self.version >= (2, 6, 9) and not self.openrsync

    def __str__(self) -> str:
        return ("openrsync " if self.openrsync else "") + ".".join(map(str, self.version))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SyncResult:
    """What a sync did, or with ``dry_run`` would do. Bytes are of file contents, not of the network."""

    files: int = 0  # regular files whose content was sent
    size_bytes: int = 0  # their size
    literal_bytes: int = 0  # of that, what had to travel (the rest was there already: delta)
    names: tuple[str, ...] = ()  # dry run only: each path that would change, folders with a final "/"
    vanished: bool = False  # some files went away meanwhile
    duration_s: float = 0.0


def parse_version(text: str) -> RsyncVersion | None:
    """Given the output of ``rsync --version``, return what it is; None when it is no rsync's."""
    # openrsync: "openrsync: protocol version 29" and then "rsync version 2.6.9 compatible"
    match = re.search(r"rsync\s+version\s+v?(\d+(?:\.\d+)*)", text)
    openrsync = "openrsync" in text
    if match is None:
        return RsyncVersion(version=(2, 6, 9), openrsync=True) if openrsync else None
    return RsyncVersion(version=tuple(int(part) for part in match[1].split(".")), openrsync=openrsync)


def parse_result(stdout: str, *, code: int, duration_s: float) -> SyncResult:
    """Given the end of rsync's output with --stats, return the numbers; what a version doesn't print is 0."""
    names = tuple(
        unescape(line[len(MARK) :].encode("utf-8", "surrogateescape"))
        for line in stdout.splitlines()
        if line.startswith(MARK)
    )
    return SyncResult(
        files=_number(stdout, rf"Number of (?:regular )?files transferred: ({_NUMBER})"),
        size_bytes=_number(stdout, rf"Total transferred file size: ({_NUMBER})"),
        literal_bytes=_number(stdout, rf"Literal data: ({_NUMBER})"),
        names=names,
        vanished=code == VANISHED,
        duration_s=duration_s,
    )


def parse_progress(chunk: bytes) -> tuple[int, int] | None:
    """Given a piece of output, return the last (bytes, percent) that --info=progress2 wrote in it."""
    for piece in reversed(chunk.split(b"\r")):
        if match := _PROGRESS.match(piece):
            return _digits(match[1].decode()), int(match[2])
    return None


def only_missing(stderr: str) -> bool:
    """True when nothing but files that aren't there (yet) was wrong."""
    complaints = [
        line
        for line in stderr.splitlines()
        # A sender that has nothing to send may be gone before this side's last word reaches it.
        if line.strip() and not line.startswith("rsync error:") and not _SENDER_GONE.match(line)
    ]
    return bool(complaints) and all(_NOT_THERE.search(line) for line in complaints)


def sync_error(server: str, what: str, code: int, stderr: str) -> RemoteLaunchError:
    """Given rsync's exit code and stderr, return the error."""
    tail = last_lines(stderr)
    if code in (12, 14, 126, 127) and re.search(
        r"rsync.*not found|not found.*rsync|No such file.*rsync$", stderr, re.MULTILINE
    ):
        return MissingProgramError(server, "rsync is not installed on the server", hint=_INSTALL)
    words = EXIT_CODES.get(code, "unexplained error") if code >= 0 else f"ended by signal {-code}"
    hint = None
    if "No space left on device" in stderr:
        words, hint = "the disk is full", "free some space (df -h), or set another `workdir:`"
    elif "quota exceeded" in stderr.lower():
        words, hint = "the disk quota is used up", "free some space (quota -s), or set another `workdir:`"
    elif code == 127:
        return MissingProgramError(server, "rsync is not installed on the server", hint=_INSTALL)
    elif code == 255 or (code == 12 and "Broken pipe" in stderr):
        return ConnectionLostError(
            server, f"{what}: the connection failed\n{tail}", hint="run it again: it goes on where it stopped"
        )
    elif "is your shell clean" in stderr or "unexpected tag" in stderr:
        hint = (
            "the login shell prints something there: make ~/.bashrc silent for shells that aren't interactive"
        )
    elif "Permission denied" in stderr:
        hint = "look at who owns these files, on both sides"
    elif re.search(r"can't cd to|cd: .*No such file|change_dir .* failed: No such file", stderr):
        words, hint = "the folder is not there", f"does the project exist on {server} yet? rl rsync"
    return SyncError(
        f"{server}: {what}: {words} (rsync's exit code {code})" + (f"\n{tail}" if tail else ""),
        server=server,
        command="rsync",
        exit_code_of_command=code,
        tail=tail,
        hint=hint,
    )


def _number(text: str, pattern: str) -> int:
    match = re.search(pattern, text)
    return _digits(match[1]) if match else 0


def _digits(text: str) -> int:
    return int(re.sub(r"\D", "", text) or 0)


def unescape(name: bytes) -> str:
    r"""Given a name as rsync prints it, with unprintable bytes as \#ooo (octal), return the name."""
    raw = re.sub(rb"\\#(\d{3})", lambda match: bytes([int(match[1], 8)]), name)
    return raw.decode("utf-8", "surrogateescape")
