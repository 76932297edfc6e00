"""Login by password: the one thing that only the fabric transport can do."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remote_launch.errors import AuthenticationError, ConnectionLostError, HostKeyError
from remote_launch.transport import open_transport
from remote_launch.transport.command import Command
from tests.support.password_server import PASSWORD, PasswordServer
from tests.support.sshd import descendants, make_key, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remote_launch.transport.base import Target, Transport

    Opener = Callable[[Target], Transport]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PasswordServer]:
    with PasswordServer(tmp_path) as running:
        yield running


@pytest.fixture
def opened() -> Iterator[Opener]:
    with contextlib.ExitStack() as stack:

        def open_one(target: Target) -> Transport:
            transport = open_transport(target)
            stack.callback(transport.close)
            return transport

        yield open_one


def test_runs_commands_after_a_login_by_password(server: PasswordServer, opened: Opener) -> None:
    transport = opened(server.target())
    done = transport.run(Command(["sh", "-c", "cat; echo err >&2; exit 3"]), stdin=b"in")
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"in", b"err\n")
    transport.put(b"content", "~/folder/file")
    assert transport.get("~/folder/file") == b"content"


def test_tries_no_key_before_the_password(
    server: PasswordServer, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    make_key(tmp_path / ".ssh" / "id_ed25519")
    opened(server.target()).connect()
    assert server.logins == [("password", True)]


def test_tries_the_key_of_the_inventory_first_and_then_the_password(
    server: PasswordServer, opened: Opener, tmp_path: Path
) -> None:
    opened(server.target(private_key=make_key(tmp_path / "id"))).connect()
    assert server.logins == [("publickey", False), ("password", True)]


def test_a_wrong_password_is_an_authentication_error_that_does_not_tell_it(
    server: PasswordServer, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    target = server.target(password="wr0ng-secret")
    with pytest.raises(AuthenticationError, match="denied the login") as caught:
        opened(target).connect()
    error = caught.value
    said = [str(error), str(error.hint), str(error.to_dict()), repr(error.__cause__), repr(target)]
    assert not [text for text in [*said, caplog.text] if "wr0ng-secret" in text]


def test_a_good_password_is_in_no_log(
    server: PasswordServer, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    opened(server.target()).run(Command(["true"]))
    assert caplog.text
    assert PASSWORD not in caplog.text


def test_a_new_host_key_is_kept_and_a_changed_one_refused_with_the_line_that_forgets_it(
    server: PasswordServer, opened: Opener, tmp_path: Path
) -> None:
    import paramiko

    server.known_hosts.write_text("@cert-authority * ssh-ed25519 notakey\n# no newline at the end")
    opened(server.target()).connect()
    line = server.known_hosts.read_text().splitlines()[-1]
    assert line == f"[127.0.0.1]:{server.port} ecdsa-sha2-nistp256 {server.host_key.get_base64()}"
    opened(server.target()).connect()
    assert server.known_hosts.read_text().count(line) == 1

    server.host_key = paramiko.ECDSAKey.generate()
    logins = list(server.logins)
    with pytest.raises(HostKeyError, match="has changed") as caught:
        opened(server.target()).connect()
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}' -f {server.known_hosts}" in str(caught.value.hint)
    assert server.logins == logins, "the password was sent to a server that may be another"


def test_connects_again_after_the_connection_was_lost(
    server: PasswordServer, opened: Opener
) -> None:
    transport = opened(server.target())
    with pytest.raises(ConnectionLostError, match="may still be running"):
        transport.run(Command(["sh", "-c", "echo started; sleep 600"]), on_stdout=lambda _: server.drop())
    assert transport.run(Command(["echo", "again"])).text == "again"


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_rsync_goes_over_the_same_connection(
    server: PasswordServer, opened: Opener, tmp_path: Path, direction: str
) -> None:
    transport = opened(server.target())
    source, copy = tmp_path / "a source", tmp_path / "a copy"
    source.mkdir()
    for number in range(20):
        (source / f"file {number}").write_bytes(os.urandom(50_000))
    with transport.rsync_route() as route:
        there = f"{route.prefix}{source if direction == 'pull' else copy}/"
        ends = [f"{source}/", there] if direction == "push" else [there, f"{copy}/"]
        subprocess.run(["rsync", "-as", "-e", shlex.join(route.shell), *ends], check=True)
    sent, came = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in (source, copy))
    assert came == sent
    assert server.logins == [("password", True)]


def test_several_rsyncs_at_once(server: PasswordServer, opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(os.urandom(1_000_000))
    with opened(server.target()).rsync_route() as route:
        shell = shlex.join(route.shell)
        rsyncs = [
            subprocess.Popen(["rsync", "-a", "-e", shell, f"{tmp_path}/source/", f"{route.prefix}{number}/"])
            for number in range(6)
        ]
        assert [rsync.wait(60) for rsync in rsyncs] == [0] * 6
    assert len({(tmp_path / f"{number}" / "file").read_bytes() for number in range(6)}) == 1


def test_the_password_is_in_no_process_while_rsync_runs(
    server: PasswordServer, opened: Opener, tmp_path: Path
) -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("no /proc on this machine")
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    remote = tmp_path / "slow-rsync"
    remote.write_text(f"#!/bin/sh\nread _ < {fifo}\nexec rsync \"$@\"\n")
    remote.chmod(0o700)
    (tmp_path / "file").write_bytes(b"x")
    with opened(server.target()).rsync_route() as route:
        argv = ["rsync", "-a", f"--rsync-path={remote}", "-e", shlex.join(route.shell)]
        argv += [f"{tmp_path}/file", f"{route.prefix}copy"]
        rsync = subprocess.Popen(argv, env={**os.environ, **route.env})
        wait_for(lambda: any("bridge" in line for line in _cmdlines(rsync.pid)), 60, "the bridge to start")
        pids = [os.getpid(), *descendants(os.getpid())]
        seen = [_proc(pid, "cmdline") + _proc(pid, "environ") for pid in pids]
        assert len(seen) >= 3
        with fifo.open("w") as gate:
            gate.write("\n")
        assert rsync.wait(60) == 0
    assert (tmp_path / "copy").read_bytes() == b"x"
    assert not [text for text in seen if PASSWORD.encode() in text]


def test_nothing_is_left_of_a_route_and_a_connection(
    server: PasswordServer, opened: Opener, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    transport = opened(server.target())
    with transport.rsync_route() as route:
        socket_path = Path(route.shell[-1])
        assert socket_path.parent.stat().st_mode & 0o777 == 0o700
    assert not socket_path.parent.exists()
    transport.close()
    wait_for(
        lambda: {thread for thread in threading.enumerate() if thread.name.startswith("rl-")} <= before, 60,
        "threads to end",
    )


def _cmdlines(pid: int) -> list[str]:
    return [_proc(below, "cmdline").decode() for below in descendants(pid)]


def _proc(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
