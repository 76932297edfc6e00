"""ssh's own words as errors with a next step."""

from __future__ import annotations

from pathlib import Path

import pytest

from remote_launch.errors import (
    AuthenticationError,
    ConnectError,
    ConnectTimeoutError,
    HostKeyError,
    ResolveError,
)
from remote_launch.transport.base import Target
from remote_launch.transport.ssh_errors import connect_error, known_host, login, lost_error, plain

TARGET = Target(name="gpu1", hostname="10.0.0.1", username="me", private_key=Path("/keys/k y"))
CHANGED = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Please contact your system administrator.
Add correct host key in /home/me/.ssh/known_hosts to get rid of this message.
Offending ED25519 key in /home/me/.ssh/known_hosts:3
Host key for [10.0.0.1]:2222 has changed and you have requested strict checking.
Host key verification failed.
"""


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("ssh: Could not resolve hostname gpu1: Name or service not known", ResolveError),
        ("ssh: Could not resolve hostname gpu1: nodename nor servname provided, or not known", ResolveError),
        ("ssh: connect to host 10.0.0.1 port 22: Connection timed out", ConnectTimeoutError),
        ("ssh: connect to host 10.0.0.1 port 22: Operation timed out", ConnectTimeoutError),
        (
            "Connection timed out during banner exchange\nConnection to 10.0.0.1 port 22 timed out",
            ConnectTimeoutError,
        ),
        ("ssh: connect to host 10.0.0.1 port 22: Connection refused", ConnectError),
        ("ssh: connect to host 10.0.0.1 port 22: No route to host", ConnectError),
        ("kex_exchange_identification: Connection closed by remote host", ConnectError),
        ("me@10.0.0.1: Permission denied (publickey,password).", AuthenticationError),
        (
            "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures",
            AuthenticationError,
        ),
        (
            "No ED25519 host key is known for gpu1 and you have requested strict checking.",
            HostKeyError,
        ),
        (CHANGED, HostKeyError),
        ("/home/me/.ssh/config: line 3: Bad configuration option: foo", ConnectError),
        ("", ConnectError),
    ],
)
def test_kinds(said: str, kind: type[ConnectError]) -> None:
    error = connect_error(TARGET, said)
    assert type(error) is kind
    assert str(error).startswith("gpu1: ")
    assert error.hint


def test_a_changed_key_gives_the_line_that_forgets_it() -> None:
    error = connect_error(TARGET, CHANGED)
    assert error.hint is not None
    assert "ssh-keygen -R '[10.0.0.1]:2222' -f /home/me/.ssh/known_hosts" in error.hint


def test_a_denied_login_tells_what_was_tried() -> None:
    said = 'Load key "/keys/k y": error in libcrypto\nme@10.0.0.1: Permission denied (publickey).'
    error = connect_error(TARGET, said)
    for words in ("user 'me'", "/keys/k y", "the server takes: publickey", "error in libcrypto"):
        assert words in str(error)
    assert "labml_remote" not in str(error.hint)


def test_without_a_username() -> None:
    error = connect_error(
        Target(name="a", hostname="h"), "laptop@h: Permission denied (publickey).", {"user": "laptop"}
    )
    assert "user 'laptop'" in str(error)
    by_hand, user = str(error.hint).splitlines()
    assert by_hand == "this must work without a question: ssh -o BatchMode=yes h"
    assert user.startswith("the user was ssh's choice")
    assert "labml_remote assumed 'ubuntu'; set username: in the inventory" in user


def test_an_open_key_gives_the_chmod_line() -> None:
    said = "@@@@\nPermissions 0644 for '/keys/k y' are too open.\n"
    said += "It is required...\nme@h: Permission denied (publickey)."
    assert connect_error(TARGET, said).hint == "chmod 600 '/keys/k y'"


def test_the_place_is_what_ssh_made_of_the_alias() -> None:
    error = connect_error(
        Target(name="a", hostname="box"), "Connection refused", {"hostname": "1.2.3.4", "port": "2222"}
    )
    assert "1.2.3.4 (box) port 2222" in str(error)


def test_a_lost_connection_says_that_things_may_run() -> None:
    said = "debug1: Sending command: x\ndebug2: channel 0\nclient_loop: send disconnect: Broken pipe"
    error = lost_error(TARGET, said, master_lives=False)
    assert "client_loop: send disconnect: Broken pipe" in str(error)
    assert "may still be running" in str(error)
    assert "debug" not in str(error)


def test_what_a_person_would_type() -> None:
    target = Target(
        name="a", hostname="h", username="u", port=2222, private_key=Path("/a b"), ssh_config=Path("/c")
    )
    assert login(target) == "-F /c -p 2222 -i '/a b' u@h"


def test_known_hosts_names() -> None:
    assert (known_host("h", None), known_host("h", 22), known_host("h", "2222")) == ("h", "h", "[h]:2222")


def test_debug_lines_are_nobody_s_business() -> None:
    assert (
        plain("debug1: x\r\nWarning: Permanently added 'h' (ED25519) to the list of known hosts.\r\nreal\r\n")
        == "real"
    )
