"""Download one file: resumed where it stopped, whole or not at all, and checked.

A lease keeps a second process out of the part that has come (see ``partfile``). Without a checksum, a file
counts as whole only when the server said how long it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import urllib.error
import urllib.parse

from .jobdir import CorruptError
from .lease import Lease
from .partfile import DIGEST, PartFile, digest_of
from .web import (
    DownloadError,
    LostError,
    asking,
    explained,
    is_connect_timeout,
    is_worth_another_try,
    length_of,
    range_of,
    received,
    shown,
    version_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn

    Progress = Callable[[int, "int | None"], None]

__all__ = ["DownloadError", "fetch"]

LIMIT_BYTES = 2 << 30
BACKOFF_S = 0.25
_LONGEST_BACKOFF_S = 5.0
_TELL_EVERY_S = 0.2
_BLOCK_BYTES = 1 << 16
_SIDECAR_LIMIT_BYTES = 1 << 16


def fetch(
    url: str, dest: str, sha256: str | None = None, on_progress: Progress | None = None,
    timeout_s: float = 30.0, attempts: int = 5,
) -> dict[str, Any]:
    """Have ``url`` in the file ``dest``; return {"path", "size_bytes", "sha256", "verified", "cached"}.

    ``on_progress(done_bytes, total_bytes or None)`` is called a few times a second. ``timeout_s`` is for any
    one answer; ``attempts`` counts those in a row that brought nothing new. A file that is there already and
    verified is not asked for. Raises DownloadError.
    """
    wanted = sha256.strip().lower() if sha256 is not None else None
    if wanted is not None and not DIGEST.fullmatch(wanted):
        raise DownloadError("checksum", f"{wanted[:80]!r} is not a sha256 (64 hex digits)")
    dest = os.path.abspath(os.path.expanduser(dest))
    try:
        urllib.parse.urlsplit(url)
    except ValueError as error:
        raise explained(error, url) from None
    file = PartFile(url, dest)
    work = _Download(url, file, wanted, on_progress, timeout_s, attempts)
    try:
        done = work.cached()
        if done is None:
            with Lease(f"{dest}.lock", "a download") as lease:
                done = work.cached() or work.run(lease)
    except (OSError, CorruptError) as error:
        _fail_disk(error, file)
    return done


class _Download:
    def __init__(
        self, url: str, file: PartFile, wanted: str | None, on_progress: Progress | None, timeout_s: float,
        attempts: int,
    ) -> None:
        self.url = url
        self.file = file
        self.dest = file.dest
        self.wanted = wanted
        self.on_progress = on_progress
        self.timeout_s = timeout_s
        self.attempts = attempts
        self.validator: str | None = None  # what If-Range asks about: which version the part is of
        self.total: int | None = None
        self.whole = False
        self.told_at = float("-inf")

    def cached(self) -> dict[str, Any] | None:
        """Return the answer for a file that is there and verified, without any request; else None."""
        wanted = self.wanted or self.file.verified()
        if wanted is None or not os.path.isfile(self.dest) or digest_of(self.dest) != wanted:
            return None
        with contextlib.suppress(OSError):  # the file serves in a read-only home too
            self.file.note_verified(wanted)
        return self._answer(wanted, verified=True, cached=True)

    def run(self, lease: Lease) -> dict[str, Any]:
        given = self.wanted
        if given is None:
            self.wanted = self._patiently(self._sidecar)
            found = self.cached() if self.wanted else None
            if found is not None:
                return found
        self._patiently(self._go_on)
        digest = digest_of(self.file.part)
        if self.wanted is not None and digest != self.wanted:
            self.file.forget()
            raise DownloadError(
                "checksum", f"{shown(self.url)}: its sha256 is {digest}, not {self.wanted}: deleted"
            )
        if not lease.held:
            raise DownloadError("disk", f"{self.dest}: another process took over while this one was stopped")
        self.file.put_in_place()
        self.file.note_verified(digest if self.wanted is not None else None)
        self.file.forget()
        return self._answer(digest, verified=self.wanted is not None, cached=False)

    def _answer(self, digest: str, *, verified: bool, cached: bool) -> dict[str, Any]:
        return {
            "path": self.dest, "size_bytes": os.path.getsize(self.dest), "sha256": digest,
            "verified": verified, "cached": cached,
        }

    def _patiently(self, step: Callable[[], Any]) -> Any:
        """Do a step until it succeeds, giving up after ``attempts`` in a row that brought nothing new. A
        firewall that swallows everything costs two time-outs, not five."""
        failures, most = 0, self.file.size
        while True:
            try:
                return step()
            except LostError as error:
                cause, have = error.cause, self.file.size
                failures, most = (0 if have > most else failures + 1), max(most, have)
                if isinstance(cause, urllib.error.HTTPError):
                    cause.close()
                limit = min(2, self.attempts) if is_connect_timeout(cause) else self.attempts
                if failures >= limit or not is_worth_another_try(cause):
                    raise explained(cause, self.url) from None
            time.sleep(min(BACKOFF_S * 2.0 ** max(failures - 1, 0), _LONGEST_BACKOFF_S))

    def _sidecar(self) -> str | None:
        """Return the checksum that lies beside the file on the server; None where there is none."""
        parts = urllib.parse.urlsplit(self.url)
        url = urllib.parse.urlunsplit(parts._replace(path=f"{parts.path}.sha256", fragment=""))
        try:
            with asking(url, {}, self.timeout_s) as answer:
                content = received(answer.read, _SIDECAR_LIMIT_BYTES)
        except LostError as error:
            if isinstance(error.cause, urllib.error.HTTPError) and not is_worth_another_try(error.cause):
                error.cause.close()
                return None
            raise
        found = DIGEST.search(content.decode("ascii", "replace"))
        return found.group().lower() if found else None

    def _go_on(self) -> None:
        """One connection: ask for what the part lacks and add it."""
        if self.whole:
            return
        have = self._resumable()
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and self.validator:
            headers["If-Range"] = self.validator
        try:
            with asking(self.url, headers, self.timeout_s) as answer:
                self._receive(answer, have)
        except LostError as error:
            if not isinstance(error.cause, urllib.error.HTTPError) or error.cause.code != 416 or not have:
                raise
            with error.cause as refusal:
                _, total = range_of(refusal)
            if total != have and not (self.wanted and digest_of(self.file.part) == self.wanted):
                self.file.forget()  # the part is of something else
                raise LostError(ConnectionError(errno.EPROTO, "the part on disk did not fit")) from None
            self.whole = True
            self._tell(have, last=True)

    def _receive(self, answer: Any, have: int) -> None:
        version = version_of(answer)
        if answer.status == 206:
            start, total = range_of(answer)
            if start != have or (self.validator and version and version != self.validator):
                self.file.forget()
                raise LostError(ConnectionError(errno.EPROTO, "the server sent another part than asked for"))
            length = length_of(answer)
            if total is None and length is not None:
                total = have + length
            version = version or self.validator
        elif answer.status == 200:
            have, total = 0, length_of(answer)
        else:
            raise DownloadError("http", f"{shown(self.url)}: HTTP {answer.status}", answer.status)
        self._check_size(total, have, answer.chunked)
        self.total, self.validator = total, version
        with self.file.added_to(have, version) as part:
            self._copy(answer, part, have)
        self.whole = True

    def _check_size(self, total: int | None, have: int, chunked: bool) -> None:
        if total is None and self.wanted is None and not chunked:
            raise DownloadError(
                "http", f"{shown(self.url)}: the server does not say how long it is; give its sha256"
            )
        if (total or 0) > LIMIT_BYTES:
            raise DownloadError("http", f"{shown(self.url)}: {total} bytes, larger than 2 GB")
        free = shutil.disk_usage(os.path.dirname(self.dest)).free
        if total is not None and total - have > free:
            raise DownloadError(
                "disk", f"{os.path.dirname(self.dest)}: no space: {total - have} bytes to come, {free} free"
            )

    def _copy(self, answer: Any, part: Any, have: int) -> None:
        self._tell(have)
        while self.total is None or have < self.total:
            # read1: what has come when the connection is lost is kept.
            most = _BLOCK_BYTES if self.total is None else min(_BLOCK_BYTES, self.total - have)
            block = received(answer.read1, most)
            if not block:
                break
            have += len(block)
            if have > LIMIT_BYTES:
                self.file.forget()
                raise DownloadError("http", f"{shown(self.url)}: larger than 2 GB")
            part.write(block)
            self._tell(have)
        if self.total is not None and have < self.total:
            raise LostError(ConnectionError(errno.ECONNRESET, f"{have} of {self.total} bytes came"))
        self._tell(have, last=True)

    def _tell(self, have: int, last: bool = False) -> None:
        now = time.monotonic()
        if self.on_progress is not None and (last or now - self.told_at >= _TELL_EVERY_S):
            self.told_at = now
            self.on_progress(have, self.total)

    def _resumable(self) -> int:
        """Return how many bytes of the part can be built on: it must be of this URL, and either the server
        can say that it is still the same version, or a checksum will."""
        is_of_this_url, self.validator = self.file.origin()
        if not is_of_this_url or not (self.validator or self.wanted):
            return 0
        if self.validator is not None and not self.validator.isprintable():
            return 0
        return self.file.size


def _fail_disk(error: Exception, file: PartFile) -> NoReturn:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            os.unlink(file.part)  # a full home folder is in its owner's way
    words = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    raise DownloadError("disk", f"{file.dest}: {words}") from error
