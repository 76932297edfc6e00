"""What every transport does alike: one class of behaviours, run over local, openssh and fabric."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remote_launch.errors import CommandError, CommandTimeoutError
from remote_launch.transport import open_transport
from remote_launch.transport.base import Target
from remote_launch.transport.command import COMMAND_ID_VARIABLE, Command
from tests.support.ports import free_port
from tests.support.sshd import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remote_launch.transport.base import Transport

KINDS = ["local", "openssh", "fabric"]
AWKWARD = [
    "a b",
    "it's",
    'say "x"',
    "$HOME `id` $(id)",
    "two\nlines\n",
    "grüße 日本 🚀",
    "-n",
    "",
    "~",
    "*",
    "\\n \\",
    "!x",
    "a\tb",
    "%s",
]
MEGABYTE = 1 << 20


def skip_unless_there(kind: str) -> None:
    if importlib.util.find_spec(f"remote_launch.transport.{kind}") is None:
        pytest.skip(f"the {kind} transport is not written yet")


@pytest.fixture(params=KINDS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transport]:
    kind = request.param
    skip_unless_there(kind)
    # How long a user waits for a command to be stopped; a machine with much else to do takes longer.
    monkeypatch.setattr("remote_launch.transport.openssh._STOP_TIMEOUT_S", 60.0)
    monkeypatch.setattr("remote_launch.transport.fabric.STOP_TIMEOUT_S", 60.0)
    target = (
        Target(name="here", transport="local")
        if kind == "local"
        else request.getfixturevalue("sshd").target(kind)
    )
    opened = open_transport(target)
    yield opened
    opened.close()


def sh(script: str, *words: str, **fields: object) -> Command:
    return Command(list(words), shell=script, **fields)  # type: ignore[arg-type]


def with_id(command: Command) -> list[int]:
    """The processes that carry the command's id."""
    wanted = f"{COMMAND_ID_VARIABLE}={command.command_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (
                    wanted in (entry / "environ").read_bytes().split(b"\0")
                    and (entry / "cmdline").read_bytes()
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MEGABYTE


class TestCommands:
    def test_arguments_arrive_exact(self, transport: Transport) -> None:
        done = transport.run(Command(["printf", "%s\\0", *AWKWARD]))
        assert done.stdout.decode().split("\0")[:-1] == AWKWARD
        assert done.ok

    def test_arguments_of_a_script_arrive_exact(self, transport: Transport) -> None:
        words = [word for word in AWKWARD if word != "~"]  # a path: see quote_path
        done = transport.run(sh('printf "%s\\0" "$@"', *words))
        assert done.stdout.decode().split("\0")[:-1] == words

    def test_environment_arrives_exact(self, transport: Transport) -> None:
        env = {f"V{number}": value for number, value in enumerate(AWKWARD)}
        done = transport.run(Command(["env", "-0"], env=env))
        seen = dict(pair.split("=", 1) for pair in done.stdout.decode().split("\0") if "=" in pair)
        assert {name: seen.get(name) for name in env} == env

    def test_environment_is_in_no_argv(self, transport: Transport) -> None:
        secret = "hunter2-" + os.urandom(8).hex()
        command = sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '", env={"A_TOKEN": secret})
        assert secret.encode() not in transport.run(command).stdout

    def test_a_builtin_of_the_shell_is_not_taken_for_the_program(self, transport: Transport) -> None:
        assert transport.run(Command(["echo", "a\\nb"])).text == "a\\nb"

    def test_a_large_argument(self, transport: Transport) -> None:
        assert transport.run(Command(["printf", "%s", "x" * 100_000])).stdout == b"x" * 100_000

    def test_cwd_in_the_home_folder(self, transport: Transport) -> None:
        folder = f"~/.rl test {os.urandom(4).hex()}"
        home = transport.run(sh("pwd")).text
        try:
            transport.run(sh('mkdir "$1"', folder)).check()
            assert transport.run(sh("pwd", cwd=folder)).text == f"{home}/{folder[2:]}"
            assert transport.run(sh("pwd", cwd="~")).text == home
        finally:
            transport.run(sh('rmdir "$1"', folder))

    def test_a_program_in_the_home_folder(self, transport: Transport) -> None:
        name = f"~/.rl program {os.urandom(4).hex()}"
        transport.put(b"#!/bin/sh\necho hello\n", name, mode=0o700)
        try:
            assert transport.run(Command([name])).text == "hello"
        finally:
            transport.run(sh('rm "$1"', name))

    def test_a_missing_cwd_runs_nothing(self, transport: Transport) -> None:
        done = transport.run(sh("echo ran", cwd="/no/such folder"))
        assert done.exit_code == 98
        assert done.stdout == b""
        assert b"/no/such folder" in done.stderr

    def test_a_missing_program(self, transport: Transport) -> None:
        done = transport.run(Command(["no-such-program"]))
        assert done.exit_code == 127
        assert b"no-such-program" in done.stderr

    @pytest.mark.parametrize("code", [0, 1, 2, 98, 126, 127, 128, 160, 200, 254, 255])
    def test_exit_codes(self, transport: Transport, code: int) -> None:
        done = transport.run(sh(f"echo out; echo err >&2; exit {code}"))
        assert (done.exit_code, done.signal, done.stdout, done.stderr) == (code, None, b"out\n", b"err\n")

    @pytest.mark.parametrize("name", ["INT", "KILL", "TERM", "SEGV", "PIPE"])
    def test_signals(self, transport: Transport, name: str) -> None:
        done = transport.run(sh(f"trap - {name} 2>/dev/null; kill -{name} $$; sleep 5"))
        assert (done.exit_code, done.signal, done.stderr) == (None, name, b"")
        with pytest.raises(CommandError, match=f"signal {name}"):
            done.check()

    def test_a_background_child_does_not_hold_the_command(self, transport: Transport) -> None:
        done = transport.run(sh("sleep 600 </dev/null >/dev/null 2>&1 & echo $!"))
        os.kill(int(done.text), signal.SIGKILL)  # ProcessLookupError had it been waited for


class TestStreams:
    def test_a_megabyte_on_stderr_alone(self, transport: Transport) -> None:
        done = transport.run(sh("head -c 1048576 /dev/zero >&2"))
        assert (len(done.stdout), len(done.stderr)) == (0, MEGABYTE)

    def test_a_hundred_megabytes_with_bounded_memory(self, transport: Transport) -> None:
        size = 0

        def count(chunk: bytes) -> None:
            nonlocal size
            size += len(chunk)

        transport.run(sh("true"))
        before = rss_mib()
        done = transport.run(sh("head -c 104857600 /dev/zero; echo the end"), on_stdout=count)
        assert size == 100 * MEGABYTE + 8
        assert done.stdout.endswith(b"the end\n")
        assert len(done.stdout) == 64 * 1024
        assert rss_mib() - before < 30

    def test_too_much_output_without_a_callback(
        self, transport: Transport, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("process", transport.target.transport):
            monkeypatch.setattr(
                f"remote_launch.transport.{module}.CAPTURE_LIMIT_BYTES", MEGABYTE, raising=False
            )
        command = sh("yes")
        with pytest.raises(CommandError, match="printed more than"):
            transport.run(command)
        wait_for(lambda: not with_id(command), 60, "the command to be stopped")

    def test_ten_megabytes_in_and_out_at_once(self, transport: Transport) -> None:
        content = os.urandom(10 * MEGABYTE)
        assert transport.run(Command(["cat"]), stdin=content).stdout == content

    def test_stdin_that_nobody_reads(self, transport: Transport) -> None:
        assert transport.run(Command(["true"]), stdin=bytes(10 * MEGABYTE)).ok

    def test_stdin_ends(self, transport: Transport) -> None:
        assert transport.run(Command(["cat"])).stdout == b""

    def test_split_characters_come_together_again(self, transport: Transport) -> None:
        chunks: list[bytes] = []
        script = "printf '\\303'; sleep 0.2; printf '\\274\\n'"
        done = transport.run(sh(script), on_stdout=chunks.append)
        assert b"".join(chunks) == "ü\n".encode()
        assert done.text == "ü"

    def test_output_comes_as_it_is_written(self, transport: Transport, tmp_path: Path) -> None:
        seen = tmp_path / "seen"
        waiting = (
            'echo ready; i=0; while [ ! -e "$1" ] && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done; '
            'test -e "$1"'
        )
        assert transport.run(sh(waiting, str(seen)), on_stdout=lambda _: seen.touch()).ok


class TestStopping:
    def test_a_timeout_stops_all_processes_of_the_command(self, transport: Transport) -> None:
        for timeout_s in (0.5, 5, 60):  # on a busy machine the command has said nothing yet after the first
            command = sh("echo so far; setsid sleep 600 & sleep 600")
            said = rf"longer than {timeout_s:g} s and was stopped"
            with pytest.raises(CommandTimeoutError, match=said) as caught:
                transport.run(command, timeout_s=timeout_s)
            assert with_id(command) == []
            if caught.value.tail:
                break
        assert caught.value.tail == "so far"

    def test_a_timeout_kills_what_ignores_term(self, transport: Transport) -> None:
        command = sh("trap '' TERM; while :; do sleep 0.1; done")
        with pytest.raises(CommandTimeoutError):
            transport.run(command, timeout_s=0.5)
        wait_for(lambda: not with_id(command), 60, "the command to be gone")

    def test_an_exception_from_a_callback_stops_the_command(self, transport: Transport) -> None:
        def fail(chunk: bytes) -> None:
            raise ZeroDivisionError

        command = sh("echo x; sleep 600")
        with pytest.raises(ZeroDivisionError):
            transport.run(command, on_stdout=fail)
        wait_for(lambda: not with_id(command), 60, "the command to be gone")

    def test_cancel_stops_runs_of_other_threads(self, transport: Transport) -> None:
        command = sh("echo x; sleep 600")
        raised: list[BaseException] = []
        started = threading.Event()

        def work() -> None:
            try:
                transport.run(command, on_stdout=lambda _: started.set())
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert started.wait(60)
        transport.cancel()
        thread.join(60)
        assert [type(error) for error in raised] == [KeyboardInterrupt]
        wait_for(lambda: not with_id(command), 60, "the command to be gone")
        assert transport.run(sh("echo again")).text == "again"

    def test_two_threads_on_one_server(self, transport: Transport) -> None:
        texts: dict[int, str] = {}

        def work(number: int) -> None:
            texts[number] = transport.run(sh(f"sleep 0.1; echo {number}")).text

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert texts == {number: str(number) for number in range(4)}


class TestFiles:
    def test_put_and_get(self, transport: Transport, tmp_path: Path) -> None:
        path = tmp_path / "new folder" / "it's $x.bin"
        content = bytes(range(256)) * 1000
        transport.put(content, str(path))
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o600
        assert transport.get(str(path)) == content
        transport.put(b"", str(path), mode=0o755)
        assert transport.get(str(path)) == b""
        assert path.stat().st_mode & 0o777 == 0o755
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_home(self, transport: Transport) -> None:
        name = f"~/.rl test {os.urandom(4).hex()}"
        transport.put(b"x", name)
        try:
            assert transport.get(name) == b"x"
        finally:
            transport.run(sh('rm "$1"', name)).check()

    def test_a_missing_file(self, transport: Transport) -> None:
        with pytest.raises(CommandError, match="no such file"):
            transport.get("/no/such/file")

    def test_a_file_that_is_too_large(self, transport: Transport, tmp_path: Path) -> None:
        (tmp_path / "large").write_bytes(b"12345")
        assert transport.get(str(tmp_path / "large"), max_bytes=5) == b"12345"
        with pytest.raises(CommandError, match="larger than 4 bytes"):
            transport.get(str(tmp_path / "large"), max_bytes=4)

    def test_put_over_a_folder(self, transport: Transport, tmp_path: Path) -> None:
        with pytest.raises(CommandError):
            transport.put(b"x", str(tmp_path))


class TestForwards:
    def test_forward(self, transport: Transport) -> None:
        with Greeter() as greeter:
            tunnel = transport.forward(greeter.port)
            assert greeting(tunnel.port) == b"hello"
            assert greeting(tunnel.port) == b"hello"
            tunnel.close()
            wait_for(
                lambda: not listens(tunnel.port) or tunnel.port == greeter.port, 60, "the tunnel to close"
            )

    def test_forward_from_a_given_port(self, transport: Transport) -> None:
        port = free_port("127.0.0.1")
        with Greeter() as greeter:
            tunnel = transport.forward(greeter.port, local_port=port)
            assert tunnel.port == port
            assert greeting(port) == b"hello"
            tunnel.close()

    def test_reverse_forwards_are_apart(self, transport: Transport) -> None:
        with Greeter() as greeter:
            first, second = transport.reverse_forward(greeter.port), transport.reverse_forward(greeter.port)
            assert greeting(first.port) == b"hello"
            first.close()
            assert greeting(second.port) == b"hello"
            second.close()


class Greeter:
    """A TCP server that says hello to everyone."""

    def __enter__(self) -> Greeter:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # who only looks whether somebody listens is gone
                connection.sendall(b"hello")


def greeting(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        received = b""
        while chunk := connection.recv(100):
            received += chunk
    return received


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
