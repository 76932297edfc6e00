"""What rsync says, and which flags it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from remote_launch.errors import ConnectionLostError, MissingProgramError, SyncError
from remote_launch.transport import rsync
from remote_launch.transport.rsync_report import (
    RsyncVersion,
    only_missing,
    parse_progress,
    parse_result,
    parse_version,
    sync_error,
)

OPENRSYNC = "openrsync: protocol version 29\nrsync version 2.6.9 compatible\n"
APPLE = "rsync  version 2.6.9  protocol version 29\nCopyright (C) 1996-2006 by Andrew Tridgell and others.\n"
MODERN = "rsync  version 3.2.7  protocol version 31\nCompress list:\n    zstd lz4 zlibx zlib none\n"
GIT = "rsync  version v3.4.1  protocol version 32\n"

STATS = """
Number of files: 1,005 (reg: 1,002, dir: 1, link: 2)
Number of created files: 3 (reg: 2, link: 1)
Number of regular files transferred: 1,002
Total file size: 13,908 bytes
Total transferred file size: 13,896 bytes
Literal data: 1,896 bytes
Matched data: 12,000 bytes
"""


@pytest.mark.parametrize(
    ("text", "version", "openrsync", "info"),
    [
        (OPENRSYNC, (2, 6, 9), True, False),
        (APPLE, (2, 6, 9), False, False),
        (MODERN, (3, 2, 7), False, True),
        (GIT, (3, 4, 1), False, True),
        ("rsync  version 3.0.9  protocol version 30", (3, 0, 9), False, False),
    ],
)
def test_versions(text: str, version: tuple[int, ...], openrsync: bool, info: bool) -> None:
    found = parse_version(text)
    assert found is not None
    assert (found.version, found.openrsync, found.has_info) == (version, openrsync, info)


def test_what_is_no_rsync() -> None:
    assert parse_version("bash: rsync: command not found") is None


@pytest.mark.parametrize("version", [(2, 6, 9), (3, 0, 9)])
def test_an_old_rsync_is_given_nothing_that_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
) -> None:
    monkeypatch.setattr(rsync, "local_rsync", lambda: RsyncVersion(version=version, openrsync=version < (3,)))
    words = rsync._push_words(None, Path("exclude.txt"), ["*.pyc"], dry_run=False)
    assert not [
        word
        for word in words
        if word.startswith(("--info", "-s", "--secluded", "--zc", "--compress-choice", "-8"))
    ]
    assert {"--safe-links", "-l", "-p", "-t", "--exclude=*.pyc", "--exclude-from=exclude.txt"} <= set(words)


@pytest.mark.parametrize("files_from", [None, b"a\0b"])
def test_links_are_never_followed_and_owners_never_sent(files_from: bytes | None) -> None:
    words = rsync._push_words(files_from, None, [], dry_run=False)
    assert not {
        "-L",
        "-K",
        "-k",
        "--copy-links",
        "--keep-dirlinks",
        "-a",
        "-o",
        "-g",
        "-D",
        "--delete",
    } & set(words)
    assert ("-r" in words) == (files_from is None)


def test_the_numbers() -> None:
    result = parse_result(STATS, code=24, duration_s=1.5)
    assert (result.files, result.size_bytes, result.literal_bytes, result.vanished) == (
        1002,
        13896,
        1896,
        True,
    )
    assert parse_result("Number of files transferred: 7\n", code=0, duration_s=0).files == 7


def test_names_of_a_dry_run() -> None:
    stdout = "rl>./\nrl>a b\nrl>new\\#012line\nrl>grüße\nother\n"
    assert parse_result(stdout, code=0, duration_s=0).names == ("./", "a b", "new\nline", "grüße")


def test_progress() -> None:
    line = b"\r    3   0%    0.00kB/s  0:00:00  \r    13,896  99%   13.25MB/s    0:00:00 (xfr#2, to-chk=0/5)"
    assert parse_progress(line) == (13896, 99)
    assert parse_progress(b"Number of files: 5") is None


def test_the_remote_shell_as_rsync_reads_it() -> None:
    assert rsync.shell_words(["ssh", "-i", "/a b/it's", ""]) == "ssh -i '/a b/it''s' ''"


@pytest.mark.parametrize(
    ("code", "stderr", "kind", "words"),
    [
        (
            127,
            "bash: line 1: rsync: command not found\nrsync error: ...",
            MissingProgramError,
            "not installed on the server",
        ),
        (
            12,
            "sh: 1: rsync: not found\nrsync: connection unexpectedly closed",
            MissingProgramError,
            "not installed on the server",
        ),
        (11, "rsync: write failed on x: No space left on device (28)", SyncError, "the disk is full"),
        (12, "rsync: [receiver] write failed on x: Disk quota exceeded (122)", SyncError, "quota"),
        (
            23,
            "rsync: send_files failed to open x: Permission denied (13)",
            SyncError,
            "some files could not be transferred",
        ),
        (255, "Connection to h closed by remote host.", ConnectionLostError, "the connection failed"),
        (
            12,
            "sh: 1: cd: can't cd to /x\nrsync: connection unexpectedly closed",
            SyncError,
            "the folder is not there",
        ),
        (2, "protocol version mismatch -- is your shell clean?", SyncError, "incompatible protocols"),
        (99, "", SyncError, "unexplained error"),
        (-9, "", SyncError, "ended by signal 9"),
    ],
)
def test_exit_codes_in_words(code: int, stderr: str, kind: type[Exception], words: str) -> None:
    error = sync_error("gpu1", "push", code, stderr)
    assert type(error) is kind
    assert str(error).startswith("gpu1: ")
    assert words in str(error)


def test_the_error_carries_its_evidence() -> None:
    error = sync_error("gpu1", "push", 23, "rsync: one\nrsync error: two")
    assert isinstance(error, SyncError)
    assert (error.command_exit_code, error.tail, error.server) == (23, "rsync: one\nrsync error: two", "gpu1")


def test_files_that_are_not_there_yet() -> None:
    missing = 'rsync: [sender] link_stat "/x/none" failed: No such file or directory (2)\n'
    assert only_missing(
        missing
        + "rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c"
    )
    assert not only_missing(missing + "rsync: send_files failed to open x: Permission denied (13)\n")
    assert not only_missing("")
    # The sender, with nothing to send, may be gone before this side's last word.
    gone = "rsync: [Receiver] write error: Broken pipe (32)\n"
    assert only_missing(missing + gone)
    assert not only_missing(gone)
