"""Commands as values: what a shell is given, what travels on stdin, what people see."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from remote_launch.errors import UsageError
from remote_launch.transport.command import (
    MASK,
    Command,
    is_secret,
    is_secret_name,
    mask_env,
    mask_urls,
    quote,
    quote_path,
    read_exit,
    stop_command,
)
from tests.support.sshd import wait_for


def run(command: Command, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command as a login shell would, with what is sent on stdin."""
    return subprocess.run(
        ["/bin/sh", "-c", command.remote()], input=command.stdin(content), capture_output=True, timeout=60
    )


def test_the_login_shell_sees_a_reader_that_every_shell_takes_alike() -> None:
    command = Command(["echo", "it's\n!"], env={"TOKEN": "secret"}, cwd="/tmp")
    assert "secret" not in command.remote()
    reader = f"'eval \"$(dd bs=1 count={len(command.header())} 2>/dev/null)\"'"
    assert command.remote() == f"exec /bin/sh -c {reader} /bin/sh RL_COMMAND_ID={command.command_id}"


def test_the_command_s_own_stdin_begins_right_after_the_command() -> None:
    assert run(Command(["cat"]), b"\n\nbinary \x00\xff\n").stdout == b"\n\nbinary \x00\xff\n"


def test_a_connection_that_breaks_in_the_header_runs_nothing() -> None:
    command = Command(["echo", "ran"], env={"A": "1", "B": "2"})
    whole = command.header()
    for length in range(len(whole) - 2):  # without the last newline it is whole
        done = subprocess.run(
            ["/bin/sh", "-c", command.script()], input=whole[:length], capture_output=True, timeout=60
        )
        assert done.stdout == b"", whole[:length]


@pytest.mark.parametrize("name", ["A-B", "1A", "", "A B", "A=", "Ä", "A\n"])
def test_a_name_that_no_shell_takes_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Command(["true"], env={name: "x"}).stdin(None)


def test_a_nul_is_refused() -> None:
    with pytest.raises(UsageError, match="NUL"):
        Command(["echo", "a\0b"]).stdin(None)


def test_bytes_that_are_no_text_go_through() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert run(Command(["printf", "%s", name], env={"A": name})).stdout == b"caf\xe9"


def test_the_id_is_in_the_environment() -> None:
    command = Command(["printenv", "RL_COMMAND_ID"])
    assert run(command).stdout.decode().strip() == command.command_id


def test_every_command_has_its_own_id() -> None:
    assert Command(["true"]).command_id != Command(["true"]).command_id


def test_a_command_killed_says_nothing_of_the_shell_s() -> None:
    done = run(Command([], shell="kill -KILL $$"))
    assert (done.returncode, done.stderr) == (137, b"")


@pytest.mark.parametrize(
    ("code", "read"),
    [
        (0, (0, None)),
        (1, (1, None)),
        (128, (128, None)),
        (129, (None, "HUP")),
        (137, (None, "KILL")),
        (139, (None, "SEGV")),
        (143, (None, "TERM")),
        (159, (None, "SYS")),
        (160, (160, None)),
        (255, (255, None)),
    ],
)
def test_exit_codes_and_signals(code: int, read: tuple[int | None, str | None]) -> None:
    assert read_exit(code) == read


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("~", '"$HOME"'),
        ("~/", '"$HOME"/'),
        ("~/a b", "\"$HOME\"/'a b'"),
        ("~x/y", "'~x/y'"),
        ("/a", "/a"),
        ("", "''"),
        ("$(id)", "'$(id)'"),
    ],
)
def test_paths(path: str, word: str) -> None:
    assert quote_path(path) == word


def test_quote_is_one_word() -> None:
    assert quote("a b;c") == "'a b;c'"


def test_what_people_see() -> None:
    assert Command(["echo", "a b"], env={"TOKEN": "x"}).masked() == "echo 'a b'"
    assert Command(["x"], shell="a long script", label="probe").masked() == "probe"
    assert Command([], shell="echo hi").masked() == "echo hi"


@pytest.mark.parametrize(
    "name",
    [
        "WANDB_API_KEY",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "password",
        "DB_PASSWD",
        "DB_PASS",
        "MYSQL_PWD",
        "AUTH",
        "GOOGLE_CREDENTIALS",
    ],
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)
    assert mask_env({name: "x", "PATH": "/bin"}) == {name: MASK, "PATH": "/bin"}


@pytest.mark.parametrize(
    "url",
    [
        "https://me:s3cret@host/simple",
        "https://s3cret@host/x",
        "postgres://u:s3cret@db:5432/x",
        "https://me:an@s3cret@host/x",
    ],
)
def test_a_login_in_a_url_is_hidden(url: str) -> None:
    text = f"pip install --index-url {url} --flag"
    assert "s3cret" not in mask_urls(text)
    assert mask_urls(text).endswith("--flag")
    assert "s3cret" not in Command(["git", "clone", url]).masked()
    assert "s3cret" not in str(mask_env({"HTTPS_PROXY": url}))
    assert is_secret("HTTPS_PROXY", url)


@pytest.mark.parametrize(
    "text", ["https://host/a@b", "ssh://git@host/x", "a@b", "http://host/ user@host", "me@host:/x"]
)
def test_what_is_no_login_stays(text: str) -> None:
    assert mask_urls(text) == text
    assert not is_secret("URL", text)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc on this machine")
@pytest.mark.parametrize("slow", ["the reader", "the login shell"])
def test_a_command_that_is_about_to_begin_is_stopped_too(slow: str, tmp_path: Path) -> None:
    dd = tmp_path / "dd"
    dd.write_text(f'#!/bin/sh\necho x > {tmp_path}/begun; sleep 600; exec {shutil.which("dd")} "$@"\n')
    dd.chmod(0o755)
    command = Command([f"{tmp_path}/ran"], shell='touch "$1"')
    first = f"echo x > {tmp_path}/begun; sleep 600; " if slow == "the login shell" else ""
    with subprocess.Popen(
        ["/bin/sh", "-c", first + command.remote()],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(command.stdin(None))
            process.stdin.close()
            wait_for((tmp_path / "begun").exists, 60, "the shell to be at work")
            run(stop_command(command))
            process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "ran").exists()


def test_one_that_is_there_to_the_end_is_not_called_stopped(tmp_path: Path) -> None:
    kill = tmp_path / "kill"  # a disk hangs, say: no signal reaches it
    command = Command(["sleep", "600"])
    sweep = stop_command(command)
    with subprocess.Popen(command.argv_of_shell(), stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(command.stdin(None))
            process.stdin.close()
            script = (sweep.shell or "").replace("kill -", f"{kill} -")
            kill.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/asked\n')
            kill.chmod(0o755)
            assert run(Command(sweep.argv, shell=script)).returncode == 1
            asked = [word for word in (tmp_path / "asked").read_text().split() if word != "-0"]
            assert (asked[0], set(asked[1:])) == ("-TERM", {"-KILL"})
        finally:
            os.killpg(process.pid, signal.SIGKILL)


# The shell's own end, or what it says of its child's: the signal goes to both.
ENDED_BY_TERM = (-signal.SIGTERM, 128 + signal.SIGTERM)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_another_users_process_is_not_waited_for() -> None:
    command = Command(["sleep", "600"])
    # As this machine's ssh, where another user of this machine is the server.
    with (
        subprocess.Popen(
            ["sh", "-c", "read line", "ssh", command.remote()], stdin=subprocess.PIPE, user=65534
        ) as other,
        subprocess.Popen(command.argv_of_shell(), stdin=subprocess.PIPE, user=1) as process,
    ):
        try:
            assert process.stdin is not None
            process.stdin.write(command.stdin(None))
            process.stdin.close()
            sweep = stop_command(command)
            done = subprocess.run(sweep.argv_of_shell(), input=sweep.stdin(None), user=1)
            assert done.returncode == 0
            assert process.wait(60) in ENDED_BY_TERM
            assert other.poll() is None
        finally:
            process.kill()
            other.kill()


def test_stopping_nothing_is_well() -> None:
    assert run(stop_command(Command(["true"]))).returncode == 0
