"""Local processes: streamed, bounded, ended."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.transport import process as process_module
from remote_launch.transport.process import TAIL_BYTES, Cancel, ProcessTimeout, run_process

if TYPE_CHECKING:
    from pathlib import Path


def test_the_tail_is_kept_when_a_callback_takes_the_rest() -> None:
    sizes: list[int] = []
    ended = run_process(
        ["sh", "-c", "head -c 1000000 /dev/zero; printf end"],
        on_stdout=lambda chunk: sizes.append(len(chunk)),
    )
    assert sum(sizes) == 1_000_003
    assert len(ended.stdout) == TAIL_BYTES
    assert ended.stdout.endswith(b"\0end")


def test_outputs_closed_before_the_end() -> None:
    program = "import os, sys; os.close(1); os.close(2); sys.stdin.buffer.read(); os._exit(7)"
    ended = run_process([sys.executable, "-c", program], stdin=bytes(1_000_000))
    assert ended.returncode == 7


def test_a_timeout_has_what_was_said() -> None:
    for timeout_s in (0.3, 3, 30):  # on a busy machine it has said nothing yet after the first
        with pytest.raises(ProcessTimeout) as caught:
            run_process(["sh", "-c", "echo out; echo err >&2; sleep 600"], timeout_s=timeout_s)
        if caught.value.stderr:
            break
    assert (caught.value.stdout, caught.value.stderr) == (b"out\n", b"err\n")


def test_a_timeout_after_the_outputs_are_closed() -> None:
    with pytest.raises(ProcessTimeout):
        run_process(["sh", "-c", "exec >&- 2>&-; sleep 600"], timeout_s=0.3)


def test_aborting_comes_before_killing() -> None:
    order: list[str] = []
    with pytest.raises(ProcessTimeout):
        run_process(["sleep", "600"], timeout_s=0.1, on_abort=lambda: order.append("abort"))
    assert order == ["abort"]


def test_grace_lets_a_program_clean_up(tmp_path: Path) -> None:
    program = 'trap \'echo cleaned > "$1"; exit\' TERM; echo ready; while :; do sleep 0.05; done'
    cancel = Cancel()
    argv = ["sh", "-c", program, "sh", str(tmp_path / "note")]
    with pytest.raises(KeyboardInterrupt):
        run_process(argv, on_stdout=lambda _: cancel.set(), cancel=cancel, grace_s=60)
    assert (tmp_path / "note").read_text() == "cleaned\n"


def test_a_cancel_the_moment_the_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = Cancel()

    class Watched(subprocess.Popen):
        def __init__(self, *words: Any, **more: Any) -> None:
            super().__init__(*words, **more)
            cancel.set()

    monkeypatch.setattr(process_module.subprocess, "Popen", Watched)
    with pytest.raises(KeyboardInterrupt):
        run_process(["sleep", "600"], cancel=cancel, timeout_s=60)


def test_cancel_ends_the_runs_under_way_and_no_later_one() -> None:
    cancel = Cancel()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            run_process(["sleep", "600"], cancel=cancel)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(cancel._wakers) < 3:
        assert time.monotonic() < deadline
    cancel.set()
    for thread in threads:
        thread.join(60)
    assert [type(error) for error in raised] == [KeyboardInterrupt] * 3
    assert run_process(["true"], cancel=cancel).returncode == 0


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        run_process(["no-such-program"])
