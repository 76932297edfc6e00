"""A prepare that is stopped: nothing of it runs on, and the next one goes through at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.cli import Rl, rl_path
from tests.support.sshd import SshdServer, sshd_servers, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A package whose build hangs, with a child in a session of its own.
SETUP = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
with open({pids!r}, "a") as file:
    file.write("%d %d " % (os.getpid(), child.pid))
print("building slowly", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdServer]:
    with sshd_servers(tmp_path_factory.mktemp("sshd"), 1) as started:
        yield started[0]


class Slow:
    """A project on one server, whose packages take for ever to install."""

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        self.pids_file = folder / "pids"
        self.workdir = folder / "work"
        root = folder / "project"
        (root / ".remote").mkdir(parents=True)
        (root / "slowpkg").mkdir()
        (root / "slowpkg" / "setup.py").write_text(SETUP.format(pids=str(self.pids_file)))
        (root / "requirements.txt").write_text("./slowpkg\n")
        environment = {"manager": "venv", "pip_args": ["--no-build-isolation", "--no-index"]}
        content = {
            "name": "proj",
            "servers": {"one": {**entry, "workdir": str(self.workdir)}},
            "environment": environment,
        }
        (root / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        self.rl = Rl(root)
        self.began: list[subprocess.Popen[str]] = []

    def begin(self) -> subprocess.Popen[str]:
        """Start a prepare; return it once the package is being built."""
        process = subprocess.Popen(
            [rl_path(), "prepare"],
            cwd=self.rl.project,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.began.append(process)
        wait_for(lambda: len(self.pids()) >= 2 or process.poll() is not None, 120, "the package's build")
        assert process.poll() is None, process.communicate()
        return process

    def pids(self) -> list[int]:
        return [int(word) for word in self.pids_file.read_text().split()] if self.pids_file.exists() else []

    def running(self) -> dict[int, str]:
        """What still runs of any prepare here: the package's build, pip, the program itself."""
        found = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().replace(b"\0", b" ").decode("utf-8", "replace")
                with open(f"/proc/{name}/stat") as file:
                    state = file.read().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z" and (str(self.workdir) in words or int(name) in self.pids()):
                found[int(name)] = words
        return found

    def freeze(self) -> None:
        """Have the server's own program stand still: it can't notice any more that nobody listens."""
        program = f"{self.workdir}/.rl/bin/"
        frozen = [pid for pid, words in self.running().items() if program in words]
        assert frozen, self.running()
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)

    def ends(self) -> None:
        deadline = time.monotonic() + 60
        while left := self.running():
            assert time.monotonic() < deadline, f"runs on: {left}"
            time.sleep(0.02)

    def goes_on(self) -> None:
        """The next prepare waits for nobody, and makes the environment that is there no second time."""
        (self.rl.project / "requirements.txt").write_text("# none\n")
        done = self.rl("prepare")
        assert "waiting" not in done.stderr
        assert "create environment" not in done.stderr
        assert "install packages (pip): done" in done.stderr
        assert "nothing to do" in self.rl("prepare").stdout


@pytest.fixture(params=["local", "ssh"])
def slow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Slow]:
    entry: dict[str, Any] = {"connection": "local"}
    if request.param == "ssh":
        server = request.getfixturevalue("sshd")
        entry = {"hostname": server.name, "ssh_config": str(server.ssh_config), "connect_timeout_s": 30}
    made = Slow(tmp_path, entry)
    yield made
    for process in made.began:
        process.kill()
        process.communicate()
    for pid in made.running():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("frozen", [False, True])
def test_ctrl_c_stops_the_server_too_and_the_next_goes_on(slow: Slow, frozen: bool) -> None:
    """``frozen``: then nothing ends that rl itself does not end there."""
    process = slow.begin()
    if frozen:
        slow.freeze()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the next rl prepare goes on from there" in said
    slow.ends()
    slow.goes_on()


def test_a_killed_rl_leaves_nothing_running_and_no_lock(slow: Slow) -> None:
    process = slow.begin()
    process.kill()
    process.communicate(timeout=60)
    slow.ends()
    slow.goes_on()
