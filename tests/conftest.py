"""For every test: a control folder of its own for ssh's masters, and nothing of the developer's agent or
settings."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.sshd import SshdServer, end_masters, sshd_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOREIGN = ("SSH_AUTH_SOCK", "SSH_ASKPASS", "RSYNC_RSH", "XDG_RUNTIME_DIR", "RL_COMMAND_ID")


def pytest_configure() -> None:
    """A run in the background (``&``, nohup) ignores these signals, and so would all that it starts. A
    handler is not inherited."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            interrupts = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupts else lambda *_: None)


@pytest.fixture(scope="session", autouse=True)
def control_folder() -> Iterator[Path]:
    """A short folder for ssh's sockets (104 bytes at most); every master in it is ended after the tests."""
    folder = Path(tempfile.mkdtemp(prefix="rlt-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        for name in _FOREIGN:
            patch.delenv(name, raising=False)
        patch.setenv("RL_CONTROL_DIR", str(folder))
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
        )
        yield folder
    end_masters(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdServer]:
    """One daemon for the whole test run. A test that hurts its server starts one of its own."""
    with sshd_servers(tmp_path_factory.mktemp("sshd"), 1) as servers:
        yield servers[0]
