"""password_command: run once, its failure told without what it printed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from remote_launch.errors import AuthenticationError
from remote_launch.transport.passwords import run_password_command
from remote_launch.transport.process import Cancel
from tests.support.sshd import wait_for

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("prints", "password"),
    [
        ("one\\ntwo\\n", "one"),
        ("no newline", "no newline"),
        (" spaces stay \\r\\nx", " spaces stay "),
        ("z\\303\\274n", "zün"),
    ],
)
def test_the_first_line_is_the_password(prints: str, password: str) -> None:
    assert run_password_command("a", f"printf '{prints}'") == password


def test_runs_once_for_all_that_share_it(tmp_path: Path) -> None:
    command = f"echo x >> {tmp_path}/calls; echo pw"
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda name: run_password_command(name, command), "abcdefgh"))
    assert answers == {"pw"}
    assert (tmp_path / "calls").read_text() == "x\n"


def test_its_failure_is_shared_too_and_names_each_server(tmp_path: Path) -> None:
    command = f"echo x >> {tmp_path}/calls; echo why >&2; exit 1"
    for server in "ab":
        with pytest.raises(AuthenticationError, match=f"{server}: its password_command ended .*: why"):
            run_password_command(server, command)
    assert (tmp_path / "calls").read_text() == "x\n"


def test_what_it_printed_is_in_no_error() -> None:
    with pytest.raises(AuthenticationError) as caught:
        run_password_command("a", "echo hidden; echo the hidden one >&2; exit 2")
    error = caught.value
    assert "hidden" not in f"{error} {error.hint} {error.to_dict()} {error.__cause__!r}"


def test_has_its_time() -> None:
    with pytest.raises(AuthenticationError, match=r"did not end within 0\.2 s"):
        run_password_command("a", "exec sleep 600", timeout_s=0.2)


def test_can_be_cancelled(tmp_path: Path) -> None:
    cancel, seen = Cancel(), []

    def call() -> None:
        try:
            run_password_command("a", f"touch {tmp_path}/began; exec sleep 600", cancel=cancel)
        except KeyboardInterrupt:
            seen.append("cancelled")

    thread = threading.Thread(target=call)
    thread.start()
    wait_for((tmp_path / "began").exists, 60, "the command to begin")
    cancel.set()
    thread.join(60)
    assert seen == ["cancelled"]
