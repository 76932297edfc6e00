from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import paramiko
import pytest

from remote_launch.transport.known_hosts import (
    HostKeyChangedError,
    HostKeyUnknownError,
    KnownHosts,
    host_key_name,
)

if TYPE_CHECKING:
    from pathlib import Path

ONE, OTHER = paramiko.ECDSAKey.generate(), paramiko.ECDSAKey.generate()
RSA = paramiko.RSAKey.generate(2048)


def line(names: str, key: paramiko.PKey = ONE) -> str:
    return f"{names} {key.get_name()} {key.get_base64()} a comment\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "known_hosts"


def hosts(path: Path, **options: bool) -> KnownHosts:
    return KnownHosts(user_files=[path], system_files=[], **options)


@pytest.mark.parametrize("names", ["gpu1", "a,gpu1", "gpu?", "*", "GPU1", "!gpu2,gpu*"])
def test_finds_a_host_by_name_list_and_wildcard(path: Path, names: str) -> None:
    path.write_text(line(names))
    hosts(path).check("gpu1", ONE)
    assert path.read_text() == line(names), "nothing is added to what is known"
    with pytest.raises(HostKeyChangedError):
        hosts(path).check("gpu1", OTHER)


@pytest.mark.parametrize("names", ["gpu2", "gpu", "!gpu1,*", "[gpu1]:2222", "gpu[1]"])
def test_other_hosts_are_not_meant(path: Path, names: str) -> None:
    path.write_text(line(names))
    assert hosts(path).key_types("gpu1") == []


def test_reads_what_ssh_keygen_hashed(path: Path) -> None:
    path.write_text(line("[gpu1]:2222"))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    assert "gpu1" not in path.read_text()
    assert hosts(path).key_types("[gpu1]:2222") == ["ecdsa-sha2-nistp256"]
    with pytest.raises(HostKeyChangedError) as caught:
        hosts(path).check("[gpu1]:2222", OTHER)
    assert (caught.value.name, caught.value.path) == ("[gpu1]:2222", path)


@pytest.mark.parametrize("hashed", [False, True])
def test_adds_a_new_key_once_and_ssh_keygen_finds_it(path: Path, hashed: bool) -> None:
    path.write_text("# a comment without a newline at its end")
    for _ in range(2):
        hosts(path, hash_names=hashed).check("[gpu1]:2222", ONE)
    assert len(path.read_text().splitlines()) == 2
    assert ("gpu1" in path.read_text()) is not hashed
    subprocess.run(["ssh-keygen", "-F", "[gpu1]:2222", "-f", str(path)], check=True, capture_output=True)


def test_makes_the_file_for_its_owner_alone(path: Path) -> None:
    path = path.parent / "new" / "known_hosts"
    hosts(path).check("gpu1", ONE)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_lines_that_make_no_sense_are_skipped(path: Path) -> None:
    path.write_text(
        "@cert-authority * ssh-ed25519 AAAA\n@cert-authority *\n*\n* ssh-rsa\n* ssh-rsa !!!\n* no AAAA\n"
        "* ssh-ed25519 AAAA\n|1|x|y ssh-rsa AAAA\n\n" + line("gpu1")
    )
    hosts(path).check("gpu1", ONE)
    with pytest.raises(HostKeyChangedError):
        hosts(path).check("gpu1", OTHER)


def test_a_revoked_key_is_refused_even_where_it_is_known(path: Path) -> None:
    path.write_text(line("gpu1") + "@revoked " + line("*"))
    with pytest.raises(HostKeyChangedError) as caught:
        hosts(path).check("gpu1", ONE)
    assert caught.value.revoked


def test_a_key_of_another_type_is_no_first_sight(path: Path) -> None:
    path.write_text(line("gpu1"))
    with pytest.raises(HostKeyChangedError):
        hosts(path).check("gpu1", RSA)
    path.write_text(line("gpu1") + line("gpu1", RSA))
    hosts(path).check("gpu1", RSA)


def test_a_key_known_for_the_host_is_good_on_another_port(path: Path) -> None:
    path.write_text(line("gpu1"))
    hosts(path).check("[gpu1]:2222", ONE)
    assert path.read_text() == line("gpu1")
    hosts(path).check("[gpu1]:2222", OTHER)
    assert path.read_text().endswith(f"[gpu1]:2222 {OTHER.get_name()} {OTHER.get_base64()}\n")


def test_a_strict_configuration_adds_nothing(path: Path) -> None:
    known = KnownHosts.from_ssh_config({
        "userknownhostsfile": f'"{path}" /other', "globalknownhostsfile": "none",
        "stricthostkeychecking": "yes",
    })
    assert [str(file) for file in known.user_files] == [str(path), "/other"]
    assert list(known.system_files) == []
    with pytest.raises(HostKeyUnknownError):
        known.check("gpu1", ONE)
    assert not path.exists()


def test_a_file_that_cannot_be_written_does_not_hinder(tmp_path: Path) -> None:
    hosts(tmp_path).check("gpu1", ONE)


def test_names_as_ssh_writes_them() -> None:
    assert host_key_name("GPU1", 22) == "gpu1"
    assert host_key_name("gpu1", 2222) == "[gpu1]:2222"
    assert host_key_name("gpu1", 2222, "alias") == "alias"
