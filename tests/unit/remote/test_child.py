"""The fork that becomes the user's process."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from remote_launch.remote.child import Child
from remote_launch.remote.jobdir import JobDir

if TYPE_CHECKING:
    from pathlib import Path


def fails(number: int) -> int:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(("name", "number"), [("fork", errno.EAGAIN), ("pipe", errno.EMFILE)])
def test_a_child_that_cant_be_made_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, name, lambda: fails(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        Child(["true"], {}, "/", JobDir(str(tmp_path)), 0o022)
    assert os.listdir("/proc/self/fd") == before
