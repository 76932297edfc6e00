"""What ssh's masters leave behind."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

from remote_launch.transport.base import Target
from remote_launch.transport.masters import Master
from tests.support.sshd import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# A master that says yes to its end, stands still for a moment, and only then removes the socket of its name.
SLOW_TO_END = """#!/bin/sh
[ "$5 $6" = "-O exit" ] || exit 1
(sleep 1; rm -f "$4"; touch {folder}/removed) </dev/null >/dev/null 2>&1 &
"""


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def test_a_master_that_ends_slowly_does_not_remove_the_next_one_s_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control_folder: Path
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(SLOW_TO_END.format(folder=tmp_path))
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    master = Master(Target(name="a", hostname=f"host-{os.getpid()}"))
    with listen(master.path):
        master.drop()
    with listen(master.path):
        wait_for((tmp_path / "removed").exists, 60, "the first one to end")
        assert master.path.exists()
    master.path.unlink()


def test_one_that_does_not_answer_loses_its_place(
    monkeypatch: pytest.MonkeyPatch, control_folder: Path
) -> None:
    def silent(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        raise subprocess.TimeoutExpired("ssh", 1)

    monkeypatch.setattr("remote_launch.transport.masters.control_socket", silent)
    master = Master(Target(name="a", hostname=f"host-{os.getpid()}"))
    with listen(master.path):
        master.drop()
    assert not master.path.exists()
