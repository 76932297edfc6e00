"""rl forward as people use it, over sshd: a page of a server in this machine's browser."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from remote_launch.transport.forwards import port_is_free
from tests.support.cli import Rl, rl_path
from tests.support.pages import Pages
from tests.support.ports import free_port
from tests.support.sshd import SshdServer, sshd_servers, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def project(folder: Path, sshd: SshdServer, **entry: Any) -> Rl:
    """A project on server a, and b, which is this machine."""
    (folder / ".remote").mkdir(parents=True)
    servers = {
        "a": {"hostname": sshd.name, "ssh_config": str(sshd.ssh_config), "connect_timeout_s": 30, **entry},
        "b": {"connection": "local"},
    }
    content = {"name": "project", "servers": servers, "environment": {"manager": "none"}}
    (folder / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content))
    return Rl(folder)


@pytest.fixture
def rl(tmp_path: Path, sshd: SshdServer) -> Iterator[Rl]:
    rl = project(tmp_path / "project", sshd)
    yield rl
    rl("forward", "--stop", "--all")


@pytest.fixture
def pages() -> Iterator[Pages]:
    with Pages() as serving:
        yield serving


class Running:
    """``rl forward`` in the foreground. ``said`` has its lines on stderr as they come."""

    def __init__(self, rl: Rl, *words: str) -> None:
        self.process = subprocess.Popen(
            [rl_path(), "forward", *words],
            cwd=rl.project,
            env={**rl.env, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def port(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), self.said
        return int(line.rpartition(":")[2])

    def expect(self, text: str, timeout_s: float = 60) -> None:
        with contextlib.suppress(AssertionError):
            wait_for(lambda: text in self.said, timeout_s, text)
        assert text in self.said, self.process.poll()

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(60)
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._reader.join(60)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.fixture
def forward(rl: Rl) -> Iterator[Any]:
    started: list[Running] = []

    def start(*words: str) -> Running:
        started.append(Running(rl, *words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


class TestForeground:
    def test_until_ctrl_c(self, rl: Rl, forward: Any, pages: Pages) -> None:
        running = forward("a", f":{pages.port}")
        port = running.port()
        assert pages.read(port) == pages.text
        [told] = rl.json("forward", "--list")["data"]
        assert (told["server"], told["local_port"], told["alive"]) == ("a", port, True)
        assert not told["background"]
        running.expect("Ctrl-C ends it")
        assert "nothing listens" not in running.said
        assert pages.asked == 1  # it did not knock itself
        assert running.end() == 130
        wait_for(lambda: port_is_free(port), 60, "the port to be free")
        assert rl.json("forward", "--list")["data"] == []

    def test_stopped_from_another_terminal(self, rl: Rl, forward: Any, pages: Pages) -> None:
        running = forward("a", f":{pages.port}")
        port = running.port()
        running.expect("Ctrl-C ends it")
        assert "stopped a" in rl("forward", "--stop", "a", str(pages.port)).stdout
        assert running.ended() == 0
        running.expect("stopped by rl forward --stop")
        wait_for(lambda: port_is_free(port), 60, "the port to be free")
        assert rl.json("forward", "--list")["data"] == []

    def test_taken_here_and_on_another_address_there(self, forward: Any) -> None:
        port = free_port()
        with socket.create_server(("127.0.0.9", port)) as elsewhere, socket.socket() as taken:
            taken.bind(("127.0.0.1", port))  # taken, and nobody listens
            running = forward("a", str(port))
            local = running.port()
            assert local != port
            running.expect(f"port {port} is not free here: {local} instead")
            running.expect("something listens, but on 127.0.0.9 only: --to 127.0.0.9 leads there")
            running.end()
            running = forward("a", f":{port}", "--to", "127.0.0.9")
            with socket.create_connection(("127.0.0.1", running.port()), timeout=60):
                elsewhere.settimeout(60)
                elsewhere.accept()[0].close()
            running.end()

    def test_nothing_there_yet(self, forward: Any) -> None:
        port = free_port()
        running = forward("a", f":{port}")
        local = running.port()
        running.expect(f"nothing listens on port {port} of a yet")
        with Pages(port) as pages:
            assert pages.read(local) == pages.text
        running.end()

    def test_killed_hard(self, rl: Rl, forward: Any, pages: Pages) -> None:
        running = forward("a", f":{pages.port}")
        port = running.port()
        running.end(signal.SIGKILL)
        wait_for(lambda: port_is_free(port), 60, "the port to be free")
        assert rl.json("forward", "--list")["data"] == []

    def test_a_lost_connection_is_made_again(self, tmp_path: Path, pages: Pages) -> None:
        with sshd_servers(tmp_path / "sshd", 1) as (sshd,):
            running = Running(project(tmp_path / "lossy", sshd), "a", f":{pages.port}")
            try:
                port = running.port()
                sshd.kill()
                running.expect("the connection to a is lost")
                sshd.start()
                running.expect(f"connected again: http://127.0.0.1:{port}")
                assert pages.read(port) == pages.text
            finally:
                running.end()

    def test_by_fabric(self, tmp_path: Path, sshd: SshdServer, pages: Pages) -> None:
        rl = project(tmp_path / "fabric", sshd, transport="fabric")
        running = Running(rl, "a", f":{pages.port}")
        try:
            assert pages.read(running.port()) == pages.text
        finally:
            running.end()
        refused = rl("forward", "a", str(pages.port), "--background", code=2)
        assert "through fabric" in refused.stderr


class TestBackground:
    def test_begins_stays_and_is_stopped(self, rl: Rl, pages: Pages) -> None:
        done = rl("forward", "a", f":{pages.port}", "--background")
        port = int(done.stdout.strip().rpartition(":")[2])
        assert pages.read(port) == pages.text
        rl("disconnect", "--server", "a")
        assert pages.read(port) == pages.text
        again = rl("forward", "a", f":{pages.port}", "--background")
        assert (again.stdout, "there already" in again.stderr) == (done.stdout, True)
        assert "stopped a" in rl("forward", "--stop", "a", str(pages.port)).stdout
        wait_for(lambda: port_is_free(port), 60, "the port to be free")
        assert "no such forward" in rl("forward", "--stop", "a", code=2).stderr

    def test_a_dead_one_is_shown_and_starts_again_on_its_port(self, rl: Rl, pages: Pages) -> None:
        words = f"{free_port()}:{pages.port}"  # one that the system gives to nobody else meanwhile
        told = rl.json("forward", "a", words, "--background")["data"]
        os.kill(told["pid"], signal.SIGKILL)
        wait_for(lambda: port_is_free(told["local_port"]), 60, "ssh to be gone")
        listed = rl("forward", "--list")
        assert "dead, seen" in listed.stdout
        line = f"rl forward a {told['local_port']}:{pages.port} --background"
        assert f"again: {line}" in listed.stderr
        after = rl.json("forward", "a", str(pages.port), "--background")["data"]
        assert after["local_port"] == told["local_port"]
        assert [one["alive"] for one in rl.json("forward", "--list")["data"]] == [True]

    def test_what_can_not_be(self, rl: Rl) -> None:
        refused = rl("forward", "b", "6006", code=2).stderr
        assert "nothing needs forwarding" in refused
        assert "open http://127.0.0.1:6006 here" in refused
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert f"port {port} is taken" in rl("forward", "a", f"{port}:80", code=2).stderr
        envelope = json.loads(rl("forward", "--json", "a", "x:y", code=2).stdout)
        assert envelope["errors"][0]["type"] == "UsageError"
