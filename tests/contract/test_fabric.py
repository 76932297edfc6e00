"""What is the fabric transport's own to get right: ssh does it by itself for the other one."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import paramiko
import pytest

from remote_launch.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    ResolveError,
    TransportError,
)
from remote_launch.transport.command import Command
from remote_launch.transport.fabric import MAX_CHANNELS, FabricTransport
from tests.support.echo import echo_once, sent_back
from tests.support.sshd import SshdServer, make_key, sshd_servers, wait_for, write_ssh_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from remote_launch.transport.base import Target

    Opener = Callable[[Target], FabricTransport]

PROXY = """
import os, socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def back():
    while data := sock.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back).start()
while data := os.read(0, 65536):
    sock.sendall(data)
os._exit(0)
"""


@pytest.fixture
def opened() -> Iterator[Opener]:
    with contextlib.ExitStack() as stack:

        def open_one(target: Target) -> FabricTransport:
            transport = FabricTransport(target)
            stack.callback(transport.close)
            return transport

        yield open_one


@pytest.fixture
def own_sshd(tmp_path: Path) -> Iterator[SshdServer]:
    with sshd_servers(tmp_path, 1) as servers:
        yield servers[0]


def hello(transport: FabricTransport) -> str:
    return transport.run(Command(["echo", "hello"])).text


class TestTheWay:
    def test_an_alias_of_ssh_config(self, sshd: SshdServer, opened: Opener) -> None:
        alias = sshd.target("fabric", hostname=sshd.name, port=None, username=None, private_key=None)
        assert hello(opened(alias)) == "hello"

    def test_jump_hosts_the_first_one_first(self, tmp_path: Path, opened: Opener) -> None:
        with sshd_servers(tmp_path, 3) as servers:
            config = write_ssh_config(tmp_path / "config", servers)
            first, second, last = servers
            block = last.ssh_config_block().replace(f"Host {last.name} {last.address}", "Host behind")
            jumps = f"{first.name},{second.username}@{second.name}"
            config.write_text(f"{config.read_text()}\n{block}  ProxyJump {jumps}\n")
            behind = last.target("fabric", hostname="behind", port=None, private_key=None, ssh_config=config)
            done = opened(behind).run(Command([], shell="echo $SSH_CONNECTION"))
            assert done.text.split()[2:] == [last.address, str(last.port)]
            assert all("Accepted publickey" in server.log.read_text() for server in servers)
            assert [len(server.known_hosts.read_text().splitlines()) for server in servers] == [1, 1, 1]

    def test_a_jump_for_every_host_does_not_apply_to_the_jump_host(
        self, sshd: SshdServer, opened: Opener, tmp_path: Path
    ) -> None:
        config = tmp_path / "config"
        config.write_text(f"Host *\n  ProxyJump {sshd.name}\n" + sshd.ssh_config_block())
        assert hello(opened(sshd.target("fabric", ssh_config=config))) == "hello"

    def test_a_proxy_command_ends_with_the_connection(
        self, sshd: SshdServer, opened: Opener, tmp_path: Path
    ) -> None:
        (tmp_path / "proxy.py").write_text(PROXY)
        config = tmp_path / "config"
        command = f"{sys.executable} {tmp_path}/proxy.py %h %p"
        config.write_text(f"Host *\n  ProxyCommand {command}\n{sshd.ssh_config_block()}")
        transport = opened(sshd.target("fabric", ssh_config=config))
        assert hello(transport) == "hello"
        transport.close()  # a process left unreaped would be a ResourceWarning

    def test_an_agent_is_not_needed_and_home_keys_are_found(
        self, sshd: SshdServer, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh" / "id_ed25519").symlink_to(sshd.key)
        (tmp_path / "config").write_text("")
        target = sshd.target("fabric", private_key=None, ssh_config=tmp_path / "config")
        assert hello(opened(target)) == "hello"
        assert (tmp_path / ".ssh" / "known_hosts").exists()


class TestFailures:
    def test_a_name_without_an_address(self, sshd: SshdServer, opened: Opener) -> None:
        with pytest.raises(ResolveError, match=r"server-1: hostname .* has no address"):
            opened(sshd.target("fabric", hostname="no-such-host.invalid")).connect()

    def test_nothing_listens(self, sshd: SshdServer, opened: Opener) -> None:
        with pytest.raises(ConnectError, match="port 1 refused the connection"):
            opened(sshd.target("fabric", port=1)).connect()

    def test_a_server_that_says_nothing(
        self, sshd: SshdServer, opened: Opener, patient_paramiko: float
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            target = sshd.target("fabric", hostname="127.0.0.1", port=port, connect_timeout_s=1)
            started = time.monotonic()
            with pytest.raises(ConnectTimeoutError, match="did not answer within 1 s"):
                opened(target).connect()
            assert time.monotonic() - started < patient_paramiko / 2

    def test_a_key_that_the_server_does_not_know(
        self, sshd: SshdServer, opened: Opener, tmp_path: Path
    ) -> None:
        with pytest.raises(AuthenticationError, match=r"denied the login .*private key .*stranger"):
            opened(sshd.target("fabric", private_key=make_key(tmp_path / "stranger"))).connect()

    def test_a_key_that_is_not_there(self, sshd: SshdServer, opened: Opener, tmp_path: Path) -> None:
        with pytest.raises(AuthenticationError, match="nothing does not exist"):
            opened(sshd.target("fabric", private_key=tmp_path / "nothing")).connect()

    def test_no_key_at_all(
        self, sshd: SshdServer, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "config").write_text("")
        with pytest.raises(AuthenticationError, match="default keys"):
            opened(sshd.target("fabric", private_key=None, ssh_config=tmp_path / "config")).connect()

    def test_a_configuration_that_cannot_be_read(
        self, sshd: SshdServer, opened: Opener, tmp_path: Path
    ) -> None:
        (tmp_path / "config").write_text("Match nonsense\n")
        for file in ("config", "absent"):
            with pytest.raises(TransportError, match="can't"):
                opened(sshd.target("fabric", ssh_config=tmp_path / file)).connect()

    def test_threads_end_with_a_failed_login(self, sshd: SshdServer, opened: Opener, tmp_path: Path) -> None:
        before = threading.active_count()
        with pytest.raises(AuthenticationError):
            opened(sshd.target("fabric", private_key=make_key(tmp_path / "stranger"))).connect()
        wait_for(lambda: threading.active_count() <= before, 60, "the threads to end")


class TestBreaks:
    def test_a_server_that_dies_and_comes_back(self, own_sshd: SshdServer, opened: Opener) -> None:
        transport = opened(own_sshd.target("fabric"))
        with pytest.raises(ConnectionLostError, match=r"in the middle of a command.*may still be running"):
            transport.run(Command([], shell="echo x; sleep 600"), on_stdout=lambda _: own_sshd.kill())
        with pytest.raises(ConnectError):
            transport.connect()
        own_sshd.start()
        assert hello(transport) == "hello"

    def test_one_that_is_still_about_to_count_as_dead_is_lost_all_the_same(
        self, own_sshd: SshdServer, opened: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unlink = paramiko.Channel._unlink

        def slowly(channel: paramiko.Channel) -> None:
            unlink(channel)  # this wakes who waits for the command
            time.sleep(1)

        monkeypatch.setattr(paramiko.Channel, "_unlink", slowly)
        transport = opened(own_sshd.target("fabric"))
        with pytest.raises(ConnectionLostError, match="may still be running"):
            transport.run(Command([], shell="echo x; sleep 600"), on_stdout=lambda _: own_sshd.kill())
        with pytest.raises(ConnectError):
            transport.connect()

    def test_a_connection_that_broke_is_made_anew(self, own_sshd: SshdServer, opened: Opener) -> None:
        transport = opened(own_sshd.target("fabric"))
        assert hello(transport) == "hello"
        own_sshd.restart()
        assert hello(transport) == "hello"

    def test_a_killed_shell_is_not_a_lost_connection(self, sshd: SshdServer, opened: Opener) -> None:
        transport = opened(sshd.target("fabric"))
        with pytest.raises(ConnectionLostError, match="shell was killed on the server"):
            transport.run(Command([], shell="kill -KILL $PPID"))
        assert hello(transport) == "hello"


class TestLimits:
    def test_more_commands_than_channels(self, sshd: SshdServer, opened: Opener, tmp_path: Path) -> None:
        transport = opened(sshd.target("fabric"))
        transport.connect()
        texts: list[str] = []
        script = 'touch "$1"; ls "${1%/*}" | wc -l; sleep 0.2; rm "$1"'

        def work(number: int) -> None:
            texts.append(transport.run(Command([str(tmp_path / str(number))], shell=script)).text)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3 * MAX_CHANNELS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(texts) == len(threads)
        assert max(map(int, texts)) <= MAX_CHANNELS

    def test_streams_that_last_hold_up_no_command(self, sshd: SshdServer, opened: Opener) -> None:
        transport = opened(sshd.target("fabric"))
        transport.connect()
        begun = threading.Semaphore(0)

        def stream() -> None:
            with contextlib.suppress(KeyboardInterrupt):  # how ``cancel`` ends it
                command = Command([], shell="echo begun; exec sleep 600")
                transport.run(command, on_stdout=lambda _: begun.release())

        threads = [threading.Thread(target=stream) for _ in range(MAX_CHANNELS + 2)]
        for thread in threads:
            thread.start()
        for _ in range(MAX_CHANNELS):
            assert begun.acquire(timeout=60)
        wait_for(lambda: len(transport._watches) == len(threads), 60, "the others to wait for their turn")
        assert hello(transport) == "hello"
        assert not begun.acquire(blocking=False)
        transport.cancel()
        for thread in threads:
            thread.join(60)
        assert not [thread for thread in threads if thread.is_alive()]

    def test_a_short_timeout_harms_no_other_command(self, sshd: SshdServer, opened: Opener) -> None:
        transport = opened(sshd.target("fabric"))
        transport.connect()
        ready, results = threading.Event(), []

        def work() -> None:
            command = Command([], shell="echo x; sleep 1")
            results.append(transport.run(command, on_stdout=lambda _: ready.set()))

        thread = threading.Thread(target=work)
        thread.start()
        assert ready.wait(60)
        for timeout_s in (0.0001, 0.001, 0.01):
            with contextlib.suppress(Exception):
                transport.run(Command(["true"]), timeout_s=timeout_s)
        thread.join(60)
        assert [result.ok for result in results] == [True]

    def test_bytes_through_a_forward_both_ways(self, sshd: SshdServer, opened: Opener) -> None:
        content = os.urandom(3 << 20)
        transport = opened(sshd.target("fabric"))
        with echo_once() as port:
            tunnel = transport.forward(port)
            assert sent_back(tunnel.port, content) == content
            tunnel.close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", tunnel.port), timeout=5)

    def test_a_reverse_port_that_is_taken(self, sshd: SshdServer, opened: Opener) -> None:
        transport = opened(sshd.target("fabric"))
        refused = pytest.raises(ConnectError, match="won't listen")
        with socket.create_server(("127.0.0.1", 0)) as taken, refused:
            transport.reverse_forward(1, remote_port=taken.getsockname()[1])
