"""Which files a sync would send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from remote_launch.errors import SyncError
from remote_launch.transport.listing import list_files

if TYPE_CHECKING:
    from pathlib import Path


def rsync_that_ends_with(code: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A surrogate for rsync, first on PATH: it lists one file. (Root can read every folder.)"""
    program = folder / "rsync"
    program.write_text(f"#!/bin/sh\necho '3 a'\necho 'opendir \"b\" failed' >&2\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_folder_that_cannot_be_read_is_no_folder_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shorter list has the sync delete on the servers what is still here."""
    rsync_that_ends_with(23, tmp_path, monkeypatch)
    with pytest.raises(SyncError, match="opendir") as caught:
        list_files(tmp_path)
    assert "exclude.txt" in str(caught.value.hint)


def test_a_file_that_vanished_meanwhile_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rsync_that_ends_with(24, tmp_path, monkeypatch)
    assert [file.path for file in list_files(tmp_path).files] == ["a"]
