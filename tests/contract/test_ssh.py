"""What goes wrong between two machines, over both ssh transports; and what is openssh's alone: its
masters."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remote_launch.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    HostKeyError,
    MissingProgramError,
    ResolveError,
    TransportError,
    UsageError,
)
from remote_launch.transport import open_transport
from remote_launch.transport.command import Command
from remote_launch.transport.masters import Master, control_folder
from remote_launch.transport.openssh import OpensshTransport
from tests.support.ports import free_port
from tests.support.processes import paused
from tests.support.sshd import SshdServer, descendants, make_key, sshd_servers, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["openssh", "fabric"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def own_sshd(tmp_path: Path) -> Iterator[SshdServer]:
    """A daemon for one test, which may hurt it."""
    with sshd_servers(tmp_path, 1) as servers:
        yield servers[0]


def failure(sshd: SshdServer, kind: str, **changes: object) -> TransportError:
    """Connect, which must fail, and return the error."""
    transport = open_transport(sshd.target(kind, **changes))
    try:
        with pytest.raises(TransportError) as caught:
            transport.connect()
    finally:
        transport.close()
    assert caught.value.server == sshd.name
    assert caught.value.hint
    return caught.value


def keyless(sshd: SshdServer, folder: Path) -> Path:
    """An ssh_config for the server that names no key."""
    lines = sshd.ssh_config.read_text().splitlines()
    config = folder / "config"
    config.write_text("\n".join(line for line in lines if "IdentityFile" not in line) + "\n")
    return config


class TestNoConnection:
    def test_wrong_key(self, sshd: SshdServer, kind: str, tmp_path: Path) -> None:
        key = make_key(tmp_path / "other")
        error = failure(sshd, kind, private_key=key, ssh_config=keyless(sshd, tmp_path))
        assert type(error) is AuthenticationError
        assert str(key) in str(error)
        assert sshd.username in str(error)

    def test_without_a_username_the_hint_tells_what_labml_remote_did(
        self, sshd: SshdServer, kind: str, tmp_path: Path
    ) -> None:
        key = make_key(tmp_path / "other")
        error = failure(sshd, kind, username=None, private_key=key, ssh_config=keyless(sshd, tmp_path))
        assert "labml_remote assumed 'ubuntu'; set username:" in str(error.hint)

    def test_a_key_that_is_not_there(self, sshd: SshdServer, kind: str, tmp_path: Path) -> None:
        error = failure(sshd, kind, private_key=tmp_path / "none")
        assert type(error) is AuthenticationError
        assert str(tmp_path / "none") in str(error)

    def test_changed_host_key(self, own_sshd: SshdServer, kind: str) -> None:
        first = open_transport(own_sshd.target(kind))
        first.connect()
        first.disconnect()
        own_sshd.restart(new_host_key=True)
        error = failure(own_sshd, kind)
        assert type(error) is HostKeyError
        assert f"ssh-keygen -R '[{own_sshd.address}]:{own_sshd.port}' -f {own_sshd.known_hosts}" in str(
            error.hint
        )

    def test_refused(self, sshd: SshdServer, kind: str) -> None:
        error = failure(sshd, kind, port=free_port(sshd.address))
        assert type(error) is ConnectError
        assert "refused" in str(error)

    def test_unresolvable(self, sshd: SshdServer, kind: str) -> None:
        assert type(failure(sshd, kind, hostname="no-such-host.invalid")) is ResolveError

    def test_black_hole(self, sshd: SshdServer, kind: str, patient_paramiko: float) -> None:
        with socket.create_server((sshd.address, 0)) as silent:
            started = time.monotonic()
            error = failure(sshd, kind, port=silent.getsockname()[1], connect_timeout_s=1)
            assert type(error) is ConnectTimeoutError
            assert time.monotonic() - started < patient_paramiko / 2  # ssh by itself waits for ever


class TestLostConnection:
    def test_server_killed_in_the_middle_of_a_command(
        self, own_sshd: SshdServer, kind: str, tmp_path: Path
    ) -> None:
        transport = open_transport(own_sshd.target(kind))
        killer = threading.Thread(target=own_sshd.kill)
        with pytest.raises(ConnectionLostError, match="may still be running"):
            transport.run(Command([], shell="echo x; sleep 600"), on_stdout=lambda _: killer.start())
        killer.join(60)
        with pytest.raises(ConnectError):
            transport.run(Command(["true"]))
        own_sshd.start()
        assert transport.run(Command(["true"])).ok
        transport.close()


@pytest.fixture
def transport(sshd: SshdServer) -> Iterator[OpensshTransport]:
    """An openssh transport without a master."""
    transport = OpensshTransport(sshd.target())
    transport.disconnect()
    yield transport
    transport.disconnect()


def master_pid(transport: OpensshTransport) -> int | None:
    done = Master(transport.target).control("check")
    return int(done.stderr.split(b"pid=")[1].split(b")")[0]) if done.returncode == 0 else None


_CONNECT = """
import sys
from pathlib import Path
from remote_launch.transport.base import Target
from remote_launch.transport.command import Command
from remote_launch.transport.openssh import OpensshTransport
name, hostname, port, username, key, config = sys.argv[1:]
key, config = Path(key), Path(config)
target = Target(
    name=name, hostname=hostname, port=int(port), username=username, private_key=key, ssh_config=config
)
assert OpensshTransport(target).run(Command(["echo", "hello"])).text == "hello"
"""


def connecting_process(sshd: SshdServer) -> subprocess.Popen[bytes]:
    words = [sshd.name, sshd.address, str(sshd.port), sshd.username, str(sshd.key), str(sshd.ssh_config)]
    return subprocess.Popen([sys.executable, "-c", _CONNECT, *words])


class TestMasters:
    def test_survives_the_process_and_is_used_by_the_next(
        self, sshd: SshdServer, transport: OpensshTransport
    ) -> None:
        assert connecting_process(sshd).wait(120) == 0
        first = master_pid(transport)
        assert first is not None
        assert transport.run(Command(["true"])).ok
        transport.close()
        assert master_pid(transport) == first

    def test_many_that_open_it_at_once_open_one(self, sshd: SshdServer, transport: OpensshTransport) -> None:
        others = set(own_masters())  # of other tests in this process
        processes = [connecting_process(sshd) for _ in range(3)]
        threads = [threading.Thread(target=OpensshTransport(transport.target).connect) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert [process.wait(120) for process in processes] == [0, 0, 0]
        assert len(set(own_masters()) - others) == 1

    def test_a_stale_socket_is_replaced(self, transport: OpensshTransport) -> None:
        transport.connect()
        first = master_pid(transport)
        assert first is not None
        os.kill(first, signal.SIGKILL)  # leaves the socket behind
        wait_for(lambda: not Path(f"/proc/{first}").exists(), 60, "the master to be gone")
        assert transport._master.path.exists()
        assert transport.run(Command(["true"])).ok
        assert master_pid(transport) not in (first, None)

    def test_after_a_pause_a_master_whose_server_is_silent_is_replaced(
        self, own_sshd: SshdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("remote_launch.transport.masters.CHECK_S", 0.5)
        transport = OpensshTransport(own_sshd.target())
        transport.connect()
        first = master_pid(transport)
        frozen = descendants(own_sshd.pid)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        long_ago = time.time() - 60
        os.utime(transport._master._stamp, (long_ago, long_ago))
        try:
            assert transport.run(Command(["true"])).ok
            assert master_pid(transport) != first
        finally:
            for pid in frozen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            transport.disconnect()

    def test_a_server_that_is_slow_to_answer_costs_no_command_of_others(
        self, own_sshd: SshdServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("remote_launch.transport.masters.CHECK_S", 0.5)
        transport, texts, begun = OpensshTransport(own_sshd.target()), [], threading.Event()

        def work() -> None:
            script = 'echo a; while [ ! -e "$1" ]; do sleep 0.1; done; echo b'
            command = Command([str(tmp_path / "go on")], shell=script)
            texts.append(transport.run(command, on_stdout=lambda _: begun.set()).text)

        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(60)
        first = master_pid(transport)
        long_ago = time.time() - 60
        os.utime(transport._master._stamp, (long_ago, long_ago))
        frozen = descendants(own_sshd.pid)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert OpensshTransport(own_sshd.target()).run(Command(["echo", "x"])).text == "x"
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
            (tmp_path / "go on").touch()
            thread.join(60)
        assert texts == ["a\nb"]
        wait_for(lambda: not Path(f"/proc/{first}").exists(), 60, "the master that nobody uses to end")
        transport.disconnect()

    def test_after_a_pause_a_good_master_is_kept(
        self, transport: OpensshTransport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("remote_launch.transport.masters.CHECK_S", 60)  # good, on whatever machine
        transport.connect()
        first = master_pid(transport)
        os.utime(transport._master._stamp, (1, 1))
        transport.connect()
        assert master_pid(transport) == first
        assert transport._master._stamp.stat().st_mtime > 1

    def test_disconnect_ends_it(self, transport: OpensshTransport) -> None:
        transport.connect()
        pid = master_pid(transport)
        transport.disconnect()
        assert not transport._master.path.exists()
        assert not transport._master._stamp.exists()
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 60, "the master to end")

    def test_disconnect_ends_one_that_stands_still_for_a_while(self, transport: OpensshTransport) -> None:
        transport.connect()
        pid = master_pid(transport)
        with paused(pid, 6):
            transport.disconnect()
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 60, "the master to end")

    def test_more_sessions_than_the_server_allows(self, transport: OpensshTransport) -> None:
        oks: list[bool] = []
        threads = [
            threading.Thread(target=lambda: oks.append(transport.run(Command(["sleep", "0.5"])).ok))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert oks == [True] * 12

    def test_the_shell_that_waits_is_killed(self, transport: OpensshTransport) -> None:
        with pytest.raises(ConnectionLostError, match="killed on the server"):
            transport.run(Command([], shell="kill -9 $PPID; sleep 0.2"))

    def test_what_the_login_shell_prints_is_not_ssh_s(self, transport: OpensshTransport) -> None:
        done = transport.run(Command([], shell="echo 'Permission denied (publickey).' >&2; exit 255"))
        assert (done.exit_code, done.stderr) == (255, b"Permission denied (publickey).\n")

    def test_an_alias_of_the_ssh_config(self, sshd: SshdServer) -> None:
        transport = OpensshTransport(
            sshd.target(hostname=sshd.name, port=None, username=None, private_key=None)
        )
        assert transport.run(Command(["echo", "x"])).text == "x"
        transport.disconnect()

    def test_the_user_s_forwards_and_commands_do_not_disturb(self, sshd: SshdServer, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            config = tmp_path / "config"
            config.write_text(
                f"Host *\n  LocalForward {port} localhost:1\n  ExitOnForwardFailure yes\n"
                "  RemoteCommand tmux\n  RequestTTY yes\n"
                f"  LogLevel QUIET\n{sshd.ssh_config.read_text()}"
            )
            transport = OpensshTransport(sshd.target(ssh_config=config))
            assert transport.run(Command(["echo", "x"])).text == "x"
            assert transport.run(Command([], shell="exit 255")).exit_code == 255
            transport.disconnect()

    def test_a_quiet_config_does_not_hide_errors(self, sshd: SshdServer, tmp_path: Path) -> None:
        config = tmp_path / "config"
        config.write_text(f"Host *\n  LogLevel QUIET\n{sshd.ssh_config.read_text()}")
        assert "refused" in str(failure(sshd, "openssh", ssh_config=config, port=free_port(sshd.address)))

    def test_a_strict_config_stays_strict(self, own_sshd: SshdServer) -> None:
        own_sshd.ssh_config.write_text(own_sshd.ssh_config.read_text() + "  StrictHostKeyChecking yes\n")
        error = failure(own_sshd, "openssh")
        assert type(error) is HostKeyError
        assert "by hand" in str(error.hint)

    def test_a_key_that_others_can_read(self, sshd: SshdServer, tmp_path: Path) -> None:
        key = tmp_path / "open key"
        key.write_bytes(sshd.key.read_bytes())
        key.chmod(0o644)
        error = failure(sshd, "openssh", private_key=key, ssh_config=keyless(sshd, tmp_path))
        assert type(error) is AuthenticationError
        assert error.hint == f"chmod 600 '{key}'"

    def test_no_ssh_on_this_machine(
        self, sshd: SshdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        error = failure(sshd, "openssh", hostname="elsewhere")
        assert type(error) is MissingProgramError
        assert "openssh-client" in str(error.hint)

    @pytest.mark.parametrize("there", [False, True], ids=["none", "one that may not be run"])
    def test_no_ssh_any_more_though_its_master_is_still_there(
        self, sshd: SshdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
    ) -> None:
        transport = open_transport(sshd.target())
        try:
            assert transport.run(Command(["true"])).exit_code == 0
            if there:
                (tmp_path / "ssh").touch(mode=0o644)
            monkeypatch.setenv("PATH", str(tmp_path))
            with pytest.raises(MissingProgramError, match="no `ssh` on this machine"):
                transport.run(Command(["true"]))
        finally:
            transport.close()


class TestControlFolder:
    def test_a_folder_that_others_can_enter_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tmp_path.chmod(0o755)
        monkeypatch.setenv("RL_CONTROL_DIR", str(tmp_path))
        with pytest.raises(UsageError, match="nobody else can enter"):
            control_folder()

    def test_a_link_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "real").mkdir(mode=0o700)
        (tmp_path / "link").symlink_to(tmp_path / "real")
        monkeypatch.setenv("RL_CONTROL_DIR", str(tmp_path / "link"))
        with pytest.raises(UsageError):
            control_folder()

    def test_the_runtime_folder_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RL_CONTROL_DIR")
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        assert control_folder() == tmp_path / "remote_launch"
        assert (tmp_path / "remote_launch").stat().st_mode & 0o777 == 0o700

    def test_a_path_too_long_for_a_socket(
        self, sshd: SshdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RL_CONTROL_DIR", str(tmp_path / ("x" * 100)))
        with pytest.raises(UsageError, match="too long"):
            Master(sshd.target())


def own_masters() -> list[Path]:
    """The sockets that are there and answer."""
    sockets = [file for file in Path(os.environ["RL_CONTROL_DIR"]).iterdir() if file.is_socket()]
    check = ["ssh", "-F", "none", "-O", "check", "x", "-S"]
    return [
        file for file in sockets if subprocess.run([*check, str(file)], capture_output=True).returncode == 0
    ]
