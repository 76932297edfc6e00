"""The lines of authorized_keys: read here, and added by a shell script that runs on a server."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from remote_launch.core.authorized_keys import add_key_command, parse_public_key

if TYPE_CHECKING:
    from pathlib import Path

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIB+/" + "x" * 40
LINE = f"ssh-ed25519 {BLOB} me@laptop"


def add(home: Path, line: str = LINE) -> subprocess.CompletedProcess[str]:
    command = add_key_command(parse_public_key(line))
    argv = ["/bin/sh", "-c", command.shell or "", "sh", *command.argv]
    return subprocess.run(argv, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True)


class TestParsePublicKey:
    @pytest.mark.parametrize(
        ("text", "kind", "comment"),
        [
            (LINE, "ssh-ed25519", "me@laptop"),
            (f"  {LINE}\nsecond line\n", "ssh-ed25519", "me@laptop"),
            (f"sk-ssh-ed25519@openssh.com {BLOB}==", "sk-ssh-ed25519@openssh.com", ""),
            (f"ssh-rsa {BLOB} a key\tof \x1b[31mmine", "ssh-rsa", "a key of  [31mmine"),
        ],
    )
    def test_reads_a_line(self, text: str, kind: str, comment: str) -> None:
        key = parse_public_key(text)
        assert (key.kind, key.comment) == (kind, comment)
        assert key.line.split()[1].startswith(BLOB)

    @pytest.mark.parametrize(
        "text",
        ["", "hello", "-----BEGIN PRIVATE KEY-----", "ssh-rsa short", f"$(x) {BLOB}", f"ssh-rsa {BLOB};"],
    )
    def test_refuses_what_is_no_key_and_does_not_repeat_it(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a public key") as caught:
            parse_public_key(text)
        assert not text or text not in str(caught.value)


class TestTheScript:
    def test_makes_folder_and_file_for_the_user_alone(self, tmp_path: Path) -> None:
        assert add(tmp_path).stdout == "added\n"
        file = tmp_path / ".ssh/authorized_keys"
        assert file.read_text() == f"{LINE}\n"
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert [path.name for path in file.parent.iterdir()] == ["authorized_keys"]

    @pytest.mark.parametrize(
        "there",
        [
            f"{LINE}\n",
            f"ssh-ed25519  {BLOB}",
            f'no-pty,command="a b" ssh-ed25519 {BLOB} other name\n',
            f"# first\n\tssh-ed25519 {BLOB}\n",
        ],
    )
    def test_adds_no_key_twice(self, tmp_path: Path, there: str) -> None:
        file = tmp_path / ".ssh/authorized_keys"
        file.parent.mkdir()
        file.write_text(there)
        assert add(tmp_path).stdout == "present\n"
        assert file.read_text() == there

    @pytest.mark.parametrize(
        "there", [f"# {LINE}\n", f"  #{LINE}\n", f"ssh-ed25519 {BLOB[:-2]}zz\n", "\xff\x00\n", "last", "\n"]
    )
    def test_appends_to_anything_else(self, tmp_path: Path, there: str) -> None:
        file = tmp_path / ".ssh/authorized_keys"
        file.parent.mkdir()
        file.write_text(there, encoding="latin-1")
        assert add(tmp_path).stdout == "added\n"
        after = file.read_text(encoding="latin-1")
        assert after == there + ("" if there.endswith("\n") else "\n") + f"{LINE}\n"

    def test_many_at_once_on_one_home_add_it_once(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(6) as pool:
            said = [done.stdout for done in pool.map(add, [tmp_path] * 6)]
        assert sorted(said) == ["added\n", *["present\n"] * 5]
        assert (tmp_path / ".ssh/authorized_keys").read_text() == f"{LINE}\n"

    def test_a_lock_that_was_left_behind_is_taken_away(self, tmp_path: Path) -> None:
        lock = tmp_path / ".ssh/.rl-authorize"
        lock.mkdir(parents=True)
        os.utime(lock, (1, 1))
        assert add(tmp_path).stdout == "added\n"
        assert not lock.exists()

    def test_says_that_others_may_write_to_the_home(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        assert add(tmp_path).stdout.splitlines() == ["added", "open-home"]

    @pytest.mark.parametrize(
        ("in_the_way", "said"), [(".ssh", "can't make"), (".ssh/authorized_keys/folder", "is a folder")]
    )
    def test_fails_in_a_line_where_it_can_not_be(self, tmp_path: Path, in_the_way: str, said: str) -> None:
        path = tmp_path / in_the_way
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        done = add(tmp_path)
        assert done.returncode == 1
        assert said in done.stderr.splitlines()[-1]
