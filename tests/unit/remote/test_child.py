"""The fork that becomes the user's process."""

from __future__ import annotations

import errno
import os
import resource
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


def test_it_keeps_its_files_open_where_only_few_are_allowed(tmp_path: Path) -> None:
    """Numbers from 100 on are none there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = os.open(tmp_path / "kept", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    resource.setrlimit(resource.RLIMIT_NOFILE, (90, hard))
    try:
        child = Child(["ls", "-l", "/proc/self/fd"], {}, "/", JobDir(str(tmp_path)), 0o022, [kept])
        child.release()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(kept)
    assert os.waitpid(child.pid, 0)[1] == 0
    assert str(tmp_path / "kept") in (tmp_path / "job.out").read_text()
