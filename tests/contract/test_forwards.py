"""Tunnels over real ssh: what carries them, what ends them, and what must not."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remote_launch.errors import ConnectError, TransportError, UsageError
from remote_launch.transport import masters, open_transport
from remote_launch.transport.base import KeptForward, Target
from remote_launch.transport.command import Command
from remote_launch.transport.forwards import is_kept, port_is_free, stop_kept
from remote_launch.transport.masters import Master, control_folder
from tests.support.echo import echo_once, sent_back
from tests.support.pages import Pages
from tests.support.ports import free_port
from tests.support.processes import paused
from tests.support.sshd import SshdServer, descendants, sshd_servers, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remote_launch.transport.base import Transport
    Opener = Callable[[Target], Transport]


@pytest.fixture(params=["openssh", "fabric"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def opened() -> Iterator[Callable[[Target], Transport]]:
    """Open transports that are ended after the test."""
    transports = []

    def opener(target: Target) -> Transport:
        transports.append(open_transport(target))
        return transports[-1]

    yield opener
    for transport in transports:
        transport.disconnect()


@pytest.fixture
def own_sshd(tmp_path: Path) -> Iterator[SshdServer]:
    """A daemon for one test, which may hurt it."""
    with sshd_servers(tmp_path, 1) as servers:
        yield servers[0]


@pytest.fixture
def pages() -> Iterator[Pages]:
    with Pages() as serving:
        yield serving


class TestForward:
    def test_a_web_page(self, sshd: SshdServer, kind: str, opened: Opener, pages: Pages) -> None:
        tunnel = opened(sshd.target(kind)).forward(pages.port, remote_host="localhost")
        assert pages.read(tunnel.port) == pages.text
        tunnel.close()
        wait_for(lambda: port_is_free(tunnel.port), 60, "the port to be free")

    def test_bytes_both_ways_and_half_closed(self, sshd: SshdServer, kind: str, opened: Opener) -> None:
        content = os.urandom(1 << 20)
        transport = opened(sshd.target(kind))
        with echo_once() as port:
            tunnel = transport.forward(port)
            assert sent_back(tunnel.port, content) == content
            tunnel.close()

    def test_nothing_listens_there_yet(self, sshd: SshdServer, kind: str, opened: Opener) -> None:
        port = free_port()
        tunnel = opened(sshd.target(kind)).forward(port)
        with socket.create_connection(("127.0.0.1", tunnel.port), timeout=60) as connection:
            assert connection.recv(1) == b""
        with Pages(port) as pages:
            assert pages.read(tunnel.port) == pages.text
        tunnel.close()

    def test_a_local_port_that_is_taken(self, sshd: SshdServer, kind: str, opened: Opener) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConnectError, match=f"can't listen on port {port} of this machine"):
                opened(sshd.target(kind)).forward(1, local_port=port)

    def test_listens_on_loopback_alone(self, sshd: SshdServer, kind: str, opened: Opener) -> None:
        tunnel = opened(sshd.target(kind)).forward(1)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.9", tunnel.port)) != 0
        tunnel.close()

    def test_goes_on_after_a_lost_connection(
        self, own_sshd: SshdServer, kind: str, opened: Opener, pages: Pages
    ) -> None:
        transport = opened(own_sshd.target(kind))
        tunnel = transport.forward(pages.port)
        assert transport.is_open()
        own_sshd.kill()
        wait_for(lambda: not transport.is_open(), 60, "the loss to be seen")
        own_sshd.start()
        assert pages.read(tunnel.port) == pages.text
        assert transport.is_open()
        tunnel.close()

    def test_disconnect_ends_it(self, sshd: SshdServer, opened: Opener) -> None:
        transport = opened(sshd.target())
        tunnel = transport.forward(1)
        transport.disconnect()
        wait_for(lambda: port_is_free(tunnel.port), 60, "the port to be free")
        sockets = f"f-{os.getpid()}-*"
        wait_for(lambda: not list(control_folder().glob(sockets)), 60, "the master to remove its socket")


_FORWARD = """
import sys, time
from pathlib import Path
from remote_launch.transport import open_transport
from remote_launch.transport.base import Target
name, hostname, port, username, key, config, kind, to = sys.argv[1:]
target = Target(name=name, hostname=hostname, port=int(port), username=username, private_key=Path(key),
                ssh_config=Path(config), transport=kind)
print(open_transport(target).forward(int(to)).port, flush=True)
time.sleep(600)
"""


def test_goes_through_the_master_that_took_the_place_of_one_which_is_still_in_use(
    own_sshd: SshdServer, opened: Opener, pages: Pages
) -> None:
    """The other one's connection may be dead, and the commands that wait for it with it."""
    transport = opened(own_sshd.target())
    tunnel = transport.forward(pages.port)
    begun, ended = threading.Event(), []

    def work() -> None:
        with contextlib.suppress(KeyboardInterrupt, TransportError):
            transport.run(Command([], shell="echo x; exec sleep 600"), on_stdout=lambda _: begun.set())
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    frozen = descendants(own_sshd.pid)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        Master(own_sshd.target()).retire()
        assert not ended
        assert pages.read(tunnel.port) == pages.text
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        transport.cancel()
        thread.join(60)


def test_a_killed_process_leaves_no_forward(
    sshd: SshdServer, kind: str, opened: Opener, pages: Pages
) -> None:
    words = [sshd.name, sshd.address, str(sshd.port), sshd.username, str(sshd.key), str(sshd.ssh_config)]
    argv = [sys.executable, "-c", _FORWARD, *words, kind, str(pages.port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert pages.read(port) == pages.text
        process.kill()
    wait_for(lambda: port_is_free(port), 60, "the port to be free")
    left = control_folder().glob(f"f-{process.pid}-*")
    tunnel = opened(sshd.target(kind)).forward(pages.port)  # the next one tidies up
    assert kind == "fabric" or not list(left)
    tunnel.close()


class TestKept:
    def keep(self, sshd: SshdServer, port: int, local_port: int) -> KeptForward:
        transport = open_transport(sshd.target())
        return transport.keep_forward(port, local_port=local_port, remote_host="localhost", owner="test")

    def test_outlives_what_ends_the_others(
        self, sshd: SshdServer, pages: Pages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(masters, "PERSIST_S", 1)
        port = free_port()
        kept = self.keep(sshd, pages.port, port)
        transport = open_transport(sshd.target())
        transport.disconnect()
        transport.connect()
        shared = Master(sshd.target()).path
        try:
            assert pages.read(port) == pages.text
            wait_for(lambda: not shared.exists(), 60, "the shared master's time to be over")
            assert is_kept(kept, port)
            assert pages.read(port) == pages.text
        finally:
            stop_kept(kept)
        wait_for(lambda: port_is_free(port), 60, "the port to be free")
        assert not is_kept(kept, port)
        assert not list(Path(kept.socket).parent.glob(f"{Path(kept.socket).name}*"))

    def test_a_master_that_died_is_seen(self, own_sshd: SshdServer) -> None:
        port = free_port()
        kept = self.keep(own_sshd, 1, port)
        os.kill(kept.pid, signal.SIGKILL)
        wait_for(lambda: port_is_free(port), 60, "the port to be free")
        assert not is_kept(kept, port)
        with socket.create_server(("127.0.0.1", port)):
            assert not is_kept(kept, port)
        again = self.keep(own_sshd, 1, port)
        assert is_kept(again, port)
        stop_kept(kept)  # an old record ends nothing that is new
        assert is_kept(again, port)
        stop_kept(again)

    def test_one_that_stands_still_for_a_while_is_there_and_can_be_stopped(self, sshd: SshdServer) -> None:
        port = free_port()
        kept = self.keep(sshd, 1, port)
        with paused(kept.pid, 6):
            assert is_kept(kept, port)
        with paused(kept.pid, 6):
            stop_kept(kept)
        wait_for(lambda: port_is_free(port), 60, "the port to be free")
        assert not list(Path(kept.socket).parent.glob(f"{Path(kept.socket).name}*"))

    def test_a_port_taken_meanwhile_leaves_no_master(self, sshd: SshdServer) -> None:
        before = set(control_folder().iterdir())
        refused = pytest.raises(ConnectError, match="can't forward")
        with socket.create_server(("127.0.0.1", 0)) as taken, refused:
            self.keep(sshd, 1, taken.getsockname()[1])
        assert not [path for path in set(control_folder().iterdir()) - before if path.is_socket()]

    def test_not_without_openssh(self, sshd: SshdServer) -> None:
        for target in (sshd.target("fabric"), Target(name="here", transport="local")):
            with pytest.raises(UsageError):
                open_transport(target).keep_forward(1, local_port=1, remote_host="localhost", owner="x")


def test_a_control_folder_with_odd_characters(
    sshd: SshdServer, pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(f"/tmp/rl%h:{os.getpid()}")
    monkeypatch.setenv("RL_CONTROL_DIR", str(folder))
    transport = open_transport(sshd.target())
    tunnel = transport.forward(pages.port)
    try:
        assert pages.read(tunnel.port) == pages.text
    finally:
        transport.disconnect()
    wait_for(lambda: not any(path.is_socket() for path in folder.iterdir()), 60, "the sockets to go")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
