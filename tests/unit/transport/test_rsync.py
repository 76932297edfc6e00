"""An rsync that is broken off."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from remote_launch.transport.base import Target
from remote_launch.transport.local import LocalTransport
from remote_launch.transport.rsync import rsync_pull
from tests.support.served import until

if TYPE_CHECKING:
    from pathlib import Path

# Takes 3 s to put aside what it has of a file, as on a machine that stands still.
RSYNC = """#!/bin/sh
[ "$1" != --version ] || exec {real} --version
trap 'sleep 3; touch {folder}/aside; exit 20' TERM
touch {folder}/begun
while :; do sleep 0.05; done
"""


def test_it_has_time_to_put_aside_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "rsync"
    program.parent.mkdir()
    program.write_text(RSYNC.format(real=shutil.which("rsync"), folder=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (tmp_path / "there").mkdir()
    transport = LocalTransport(Target(name="a", hostname="a", transport="local"))

    def stop() -> None:
        until((tmp_path / "begun").exists, "rsync runs")
        transport.cancel()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        rsync_pull(transport, str(tmp_path / "there"), tmp_path / "here")
    thread.join()
    assert (tmp_path / "aside").exists()
