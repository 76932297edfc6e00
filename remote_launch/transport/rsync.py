"""Files to a server and back, by the local rsync program over the transport's own connection.

rsync never sees a remote path: the remote side is started by ``cd <folder> && rsync``, quoted here, and
works on "./". So every name arrives exact with every version of rsync on either end (-s and the escaping
rules differ from 2.6 to 3.4).
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from remote_launch.errors import MissingProgramError, SyncError
from remote_launch.transport.command import Command, quote
from remote_launch.transport.files import safe
from remote_launch.transport.process import ProcessTimeout, run_process
from remote_launch.transport.rsync_report import (
    MARK,
    PARTIAL,
    VANISHED,
    RsyncVersion,
    SyncResult,
    only_missing,
    parse_progress,
    parse_result,
    parse_version,
    sync_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from remote_launch.transport.base import RsyncRoute, Transport

PARTIAL_DIR = ".rl-partial"
_OUTPUT_LIMIT_BYTES = 32 * 1024 * 1024
_ASIDE_S = 15.0  # for one that is broken off, to put half a file aside: a moment, where nothing stands still


def rsync_push(
    transport: Transport,
    source_dir: Path,
    dest_path: str,
    *,
    files_from: bytes | None = None,
    exclude_from: Path | None = None,
    excludes: Sequence[str] = (),
    compress: bool = False,
    dry_run: bool = False,
    timeout_s: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SyncResult:
    """Copy what is in ``source_dir`` into the folder ``dest_path`` (made if absent) on the server. Deletes
    nothing there.

    ``files_from`` is a NUL-separated list of paths relative to ``source_dir``: then only these go, folders
    not recursively. Links are copied as links, except those that lead out of the project. ``on_progress``
    gets (bytes sent, percent). Raises SyncError, MissingProgramError, ConnectError, ConnectionLostError.
    """
    if dry_run and not _is_folder(transport, dest_path):
        # As if it were there, empty: everything is new.
        with tempfile.TemporaryDirectory(prefix="rl-empty-") as empty:
            local = _Run(transport, "push (dry run)", timeout_s, on_progress)
            words = _push_words(files_from, exclude_from, excludes, dry_run=True)
            return local.run([*words, "--", f"{source_dir.absolute()}/", f"{empty}/"], files_from)
    words = _push_words(files_from, exclude_from, excludes, dry_run=dry_run)
    if compress:
        words += ["-z", "--compress-level=1"]  # zstd where both have it; a third of the default's CPU
    with transport.rsync_route() as route:
        words += _remote_words(route, dest_path, make=not dry_run)
        run = _Run(transport, "push", timeout_s, on_progress, route)
        return run.run([*words, "--", f"{source_dir.absolute()}/", _end(route, dest_path)], files_from)


def rsync_pull(
    transport: Transport,
    source_path: str,
    dest_dir: Path,
    *,
    files_from: bytes | None = None,
    includes: Sequence[str] = (),
    excludes: Sequence[str] = (),
    recursive: bool = False,
    append: bool = False,
    links: bool = False,
    follow_links: bool = False,
    max_size_bytes: int | None = None,
    missing_ok: bool = False,
    compress: bool = False,
    dry_run: bool = False,
    timeout_s: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SyncResult:
    """Copy what is in the folder ``source_path`` on the server into ``dest_dir`` (made if absent). Deletes
    nothing.

    ``files_from`` is a NUL-separated list of paths relative to ``source_path``; with ``recursive`` its
    folders come whole. With ``includes`` only files that match one of these patterns come. ``append`` is
    for files that only grow: what is here is not read again, and a file that is not longer there is left
    alone. Links come only with ``links``, and then none that leads out, or with ``follow_links`` as what they
    lead to there; devices never. Files larger than ``max_size_bytes`` are left there. ``missing_ok``: paths
    of ``files_from`` that aren't there are no error. Raises as ``rsync_push`` does.
    """
    words = _common_words(files_from, dry_run=dry_run)
    words += ["-t"]
    if recursive and files_from is not None:
        words.append("-r")
    if links:
        words += ["-l", "--safe-links"]
    if follow_links:
        words += ["-L"]
    # Append writes in place; rsync refuses both.
    words += ["--append"] if append else [f"--partial-dir={PARTIAL_DIR}"]
    words += [f"--exclude={pattern}" for pattern in (f"{PARTIAL_DIR}/", *excludes)]
    if includes:
        words += ["--include=*/", *(f"--include={pattern}" for pattern in includes), "--exclude=*", "-m"]
    if max_size_bytes is not None:
        words += [f"--max-size={max_size_bytes}"]
    if compress:
        words += ["-z", "--compress-level=1"]
    with contextlib.ExitStack() as stack:
        if dry_run and not dest_dir.is_dir():
            # As if it were there, empty: all would come.
            dest_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rl-empty-")))
        else:
            dest_dir.mkdir(parents=True, exist_ok=True)
        route = stack.enter_context(transport.rsync_route())
        words += _remote_words(route, source_path, make=False)
        run = _Run(transport, "pull", timeout_s, on_progress, route, missing_ok=missing_ok)
        return run.run([*words, "--", _end(route, source_path), f"{dest_dir.absolute()}/"], files_from)


@functools.cache
def local_rsync() -> RsyncVersion:
    """Return the version of this machine's rsync. Raises MissingProgramError."""
    hint = "install rsync: apt-get install rsync, dnf install rsync, brew install rsync"
    try:
        done = subprocess.run(
            ["rsync", "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=15, check=False
        )
    except FileNotFoundError:
        raise MissingProgramError("this machine", "there is no `rsync`", hint=hint) from None
    version = parse_version((done.stdout + done.stderr).decode("utf-8", "replace"))
    if version is None:
        raise MissingProgramError("this machine", "`rsync --version` is not rsync's", hint=hint)
    return version


def _push_words(
    files_from: bytes | None, exclude_from: Path | None, excludes: Sequence[str], *, dry_run: bool
) -> list[str]:
    words = _common_words(files_from, dry_run=dry_run)
    words += [
        *("-l", "--safe-links"),  # links as links; none that leads out. Never -L or -K: they follow
        "-p",  # the executable bit; no owner, no group
        "-t",  # times, by which the next sync knows what is unchanged
        f"--partial-dir={PARTIAL_DIR}",  # half a file is kept aside, never taken for a whole one
        f"--exclude={PARTIAL_DIR}/",
    ]
    words += [f"--exclude={pattern}" for pattern in excludes]
    if exclude_from is not None:
        words.append(f"--exclude-from={exclude_from}")
    return words


def _common_words(files_from: bytes | None, *, dry_run: bool) -> list[str]:
    version = local_rsync()
    words = ["rsync", "--stats"]
    words += ["-r"] if files_from is None else ["--files-from=-", "--from0"]
    if dry_run:
        words += ["-n", f"--out-format={MARK}%n"]
        if version.has_8_bit_output:
            words.append("-8")
    elif version.has_info:
        words.append("--info=progress2")
    return words


def _remote_words(route: RsyncRoute, path: str, *, make: bool) -> list[str]:
    """The words that start the remote side in its folder; for a local route, make the folder."""
    if not route.prefix:
        if make:
            _local_path(route, path).mkdir(parents=True, exist_ok=True)
        return []
    folder = quote(_at_home(path))
    start = f"mkdir -p {folder} && " if make else ""
    return ["-e", shell_words(route.shell), f"--rsync-path={start}cd {folder} && rsync"]


def _end(route: RsyncRoute, path: str) -> str:
    return f"{route.prefix}./" if route.prefix else f"{_local_path(route, path)}/"


def _at_home(path: str) -> str:
    """A path as the remote shell sees it, which starts in the home folder."""
    return "." if path in ("~", "~/") else safe(path.removeprefix("~/"))


def _local_path(route: RsyncRoute, path: str) -> Path:
    return Path(route.home or str(Path.home()), _at_home(path))


def shell_words(words: Sequence[str]) -> str:
    """Given an argv, return it as rsync's -e reads it: spaces part words, quotes keep them, a quote inside
    is doubled."""
    return " ".join(
        word if word and not set(word) & set(" '\"") else "'" + word.replace("'", "''") + "'"
        for word in words
    )


def _is_folder(transport: Transport, path: str) -> bool:
    return transport.run(Command(["test", "-d", _at_home(path)], label=f"is {path} there")).ok


class _Run:
    """One rsync process: its output read, its end judged."""

    def __init__(
        self,
        transport: Transport,
        what: str,
        timeout_s: float | None,
        on_progress: Callable[[int, int], None] | None,
        route: RsyncRoute | None = None,
        *,
        missing_ok: bool = False,
    ) -> None:
        self._server = transport.target.name
        self._what = what
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._route = route
        self._missing_ok = missing_ok
        self._stdout = bytearray()

    def run(self, argv: Sequence[str], files_from: bytes | None) -> SyncResult:
        # LC_ALL: numbers and messages as they are parsed here. -8 keeps names out of its reach.
        env = {"LC_ALL": "C", **(self._route.env if self._route else {})}
        try:
            ended = run_process(
                argv,
                stdin=files_from or b"",
                timeout_s=self._timeout_s,
                on_stdout=self._read,
                env=env,
                grace_s=_ASIDE_S,
                cancel=self._route.cancel if self._route else None,
            )
        except FileNotFoundError:
            raise MissingProgramError("this machine", "there is no `rsync`", hint="install rsync") from None
        except ProcessTimeout:
            raise SyncError(
                f"{self._server}: {self._what}: took longer than {self._timeout_s:g} s and was stopped",
                server=self._server,
                command="rsync",
                hint="run it again: it goes on where it stopped",
            ) from None
        stderr = ended.stderr.decode("utf-8", "replace")
        code = ended.returncode
        harmless = code in (0, VANISHED) or (code == PARTIAL and self._missing_ok and only_missing(stderr))
        if not harmless:
            raise sync_error(self._server, self._what, code, stderr)
        stdout = self._stdout.decode("utf-8", "surrogateescape")
        return parse_result(stdout, code=code, duration_s=ended.duration_s)

    def _read(self, chunk: bytes) -> None:
        if self._on_progress is not None and (seen := parse_progress(chunk)):
            self._on_progress(*seen)
        self._stdout += chunk
        # A dry run over millions of files: the numbers are at the end.
        if len(self._stdout) > _OUTPUT_LIMIT_BYTES:
            del self._stdout[: _OUTPUT_LIMIT_BYTES // 2]
