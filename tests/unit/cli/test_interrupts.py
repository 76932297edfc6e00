"""A Ctrl-C is noticed in whatever the command waits for."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

# Ctrl-C in the instant before a wait begins: Python has taken the signal, and the wait knows nothing of it.
# Here another thread takes it, so that it is always so.
PROGRAM = """
import getpass, os, selectors, signal, sys, threading
from remote_launch.cli import main as module

def run(argv):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        os.write(1, b"waits")
        {wait}
    except KeyboardInterrupt:
        return 130
    return 1

module.run = run
module.main()
"""
WAITS = {
    "for a line": "input()",
    "for a password": "getpass.getpass()",
    "for a thread": "threading.Event().wait()",
    "for a pipe": "selectors.DefaultSelector().select()",
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_it_ends_the_wait(wait: str) -> None:
    master, slave = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(wait=wait)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        said = b""
        while b"waits" not in said:
            said += os.read(master, 1000)
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 130
    finally:
        program.kill()
        program.wait()
        os.close(master)
