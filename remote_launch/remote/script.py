"""Run a program to its end, and tell its output as it comes: what a step of a prepare does."""

from __future__ import annotations

import codecs
import os
import selectors
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

BEAT_S = 2.0
_TAIL_CHARS = 8192


def run_told(
    argv: list[str], cwd: str, env: dict[str, str], tell: Callable[[dict[str, Any]], None]
) -> tuple[int, str]:
    """Run ``argv`` in a session of its own; return its wait status and the end of its output (stdout and
    stderr together). ``tell`` gets {"out": text}, and {"alive": 1} when there was nothing for BEAT_S."""
    child = subprocess.Popen(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    tail = _tell_output(child, tell)
    while True:  # it may close its output and go on
        try:
            code = child.wait(BEAT_S)
            return (-code if code < 0 else code << 8), tail
        except subprocess.TimeoutExpired:
            tell({"alive": 1})


def _tell_output(child: subprocess.Popen[bytes], tell: Callable[[dict[str, Any]], None]) -> str:
    assert child.stdout is not None
    tail = ""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a chunk's end may cut a character
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(BEAT_S):
                if child.poll() is None:
                    tell({"alive": 1})
                    continue
                # Between the two looks it may have said its last words.
                if not selector.select(0):
                    return tail  # what it has left running holds the output open
            chunk = os.read(child.stdout.fileno(), 65536)
            if not chunk:
                return tail
            output = decoder.decode(chunk)
            tail = (tail + output)[-_TAIL_CHARS:]
            tell({"out": output})
