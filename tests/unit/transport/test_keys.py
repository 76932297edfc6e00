"""Keys of this machine, by the real ssh-keygen; no server."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from remote_launch.errors import AuthenticationError
from remote_launch.transport import keys
from remote_launch.transport.base import Target

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen here")


def test_makes_a_key_and_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new folder/key"
    assert not keys.has_key(path)
    keys.make_key(path, "a")
    assert keys.has_key(path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert keys.public_key(path, "a") == path.with_name("key.pub").read_text().strip()


def test_a_key_that_can_not_be_made_names_the_server(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuthenticationError, match="no key could be made at"):
        keys.make_key(tmp_path / "file/key", "a")


def test_the_key_knows_its_public_half_better_than_the_file_beside_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        keys.make_key(tmp_path / name, "a")
    right = (tmp_path / "one.pub").read_text().split()[1]
    shutil.copy(tmp_path / "two.pub", tmp_path / "one.pub")
    assert keys.public_key(tmp_path / "one", "a").split()[1] == right


def test_of_a_key_with_a_passphrase_the_public_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "words", "-f", path], check=True)
    public = tmp_path / "key.pub"
    assert keys.public_key(path, "a") == public.read_text().strip()
    public.unlink()
    with pytest.raises(AuthenticationError, match="passphrase") as caught:
        keys.public_key(path, "a")
    assert f"ssh-keygen -y -f {path} > {public}" in str(caught.value.hint)


def test_a_key_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    keys.make_key(path, "a")
    (tmp_path / "key.pub").unlink()
    path.chmod(0o644)
    with pytest.raises(AuthenticationError, match="others on this machine can read it") as caught:
        keys.public_key(path, "a")
    assert caught.value.hint == f"chmod 600 {path}"


def test_a_public_file_stands_for_a_key_in_an_agent(tmp_path: Path) -> None:
    public = tmp_path / "token.pub"
    public.write_text("ssh-ed25519 AAAA token\n")
    assert keys.has_key(tmp_path / "token")
    assert keys.has_key(public)
    assert keys.private_half(public) == public
    assert keys.public_key(tmp_path / "token", "a") == "ssh-ed25519 AAAA token"
    (tmp_path / "token").write_text("")
    assert keys.private_half(public) == tmp_path / "token"


def test_the_files_that_ssh_would_offer(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f'Host h\n  IdentityFile "{tmp_path}/a key"\n  IdentityFile {tmp_path}/other\n')
    target = Target(name="a", hostname="h", ssh_config=config)
    assert keys.identity_files(target) == [tmp_path / "a key", tmp_path / "other"]


@pytest.mark.parametrize(
    ("hostname", "port", "login"),
    [("h", None, "me@h"), ("h", 22, "me@h"), ("h", 2222, "me@h:2222"), ("::1", 2222, "me@[::1]:2222")],
)
def test_the_login_as_people_write_it(tmp_path: Path, hostname: str, port: int | None, login: str) -> None:
    (tmp_path / "config").write_text("")
    target = Target(name="a", hostname=hostname, port=port, username="me", ssh_config=tmp_path / "config")
    assert keys.login_name(target) == login
