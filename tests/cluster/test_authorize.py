"""``rl authorize`` against real sshd daemons that check real passwords and permissions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl, rl_path
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.docker_hosts import DockerHost

HOME = "/home/trainer"
FILE = f"{HOME}/.ssh/authorized_keys"


@pytest.fixture
def bare(hosts: list[DockerHost]) -> Iterator[list[DockerHost]]:
    """The hosts, with no folder ~/.ssh; it is put back afterwards."""
    for host in hosts:
        host.exec(f"mv {HOME}/.ssh /root/ssh-of-trainer")
    yield hosts
    for host in hosts:
        host.exec(f"chown trainer:trainer {HOME}; chmod 755 {HOME}; rm -rf {HOME}/.ssh")
        host.exec(f"mv /root/ssh-of-trainer {HOME}/.ssh")


@pytest.fixture
def ssh_config(tmp_path: Path, hosts: list[DockerHost]) -> Path:
    """ssh's configuration with a key that isn't made yet."""
    path = tmp_path / "ssh_config"
    path.write_text(
        f"Host *\n  IdentityFile {tmp_path}/.ssh/id_ed25519\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {hosts[0].known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
    )
    return path


@pytest.fixture
def written(tmp_path: Path, inventory: WriteInventory, ssh_config: Path) -> Any:
    def write(hosts: list[DockerHost], **changes: dict[str, Any]) -> Rl:
        keys = {"private_key": None, "ssh_config": str(ssh_config)}
        servers = {host.name: {**keys, **changes.get(host.name, {})} for host in hosts}
        return Rl(inventory(tmp_path / "project", hosts, servers=servers))

    return write


def modes(host: DockerHost) -> list[str]:
    return host.exec(f"stat -c '%a %U' {HOME}/.ssh {FILE}").splitlines()


def test_a_password_once_and_then_the_key(bare: list[DockerHost], written: Any) -> None:
    first, second = bare
    second.exec(f"install -d -m 755 -o trainer {HOME}/.ssh; printf 'ssh-rsa AAAAB3 me' > {FILE}; "
                f"chown trainer {FILE}; chmod 644 {FILE}")
    rl = written(bare, **{host.name: {"password": host.password} for host in bare})
    done = rl("authorize")
    assert done.stdout.count("key installed") == 2
    for host in bare:
        assert modes(host) == ["700 trainer", "600 trainer"]
    lines = second.exec(f"cat {FILE}").splitlines()
    assert [lines[0], len(lines)] == ["ssh-rsa AAAAB3 me", 2]
    assert first.exec(f"cat {FILE}") == lines[1]

    by_key = written(bare)
    checked = by_key.json("servers", "--check")
    assert [(one["transport"], one["reachable"]) for one in checked["data"]] == [("openssh", True)] * 2
    again = by_key.json("authorize")
    assert [one["state"] for one in again["data"]] == ["already"] * 2
    by_key("disconnect")


def test_typed_on_a_terminal(bare: list[DockerHost], written: Any) -> None:
    host = bare[0]
    rl = written([host])
    with Terminal([rl_path(), "authorize"], cwd=rl.project, env=rl.env) as terminal:
        terminal.expect(rf"password for trainer@{host.address}.*skip it\): ", timeout_s=120)
        terminal.type("wrong")
        terminal.expect(r"was refused; password for .*skip it\): ", timeout_s=120)
        terminal.type(host.password)
        assert terminal.end(timeout_s=120) == 0, terminal.screen
    assert host.password not in terminal.screen
    assert modes(host) == ["700 trainer", "600 trainer"]


def test_a_home_that_is_not_ones_own_to_write(bare: list[DockerHost], written: Any) -> None:
    closed, fine = bare
    closed.exec(f"chown root:root {HOME}")
    rl = written(bare, **{host.name: {"password": host.password} for host in bare})
    done = rl("authorize", code=3)
    assert f"can't make {HOME}/.ssh" in done.stderr
    assert "Permission denied" in done.stderr
    assert modes(fine) == ["700 trainer", "600 trainer"]


def test_a_home_that_others_may_write_is_said_to_be_the_reason(
    bare: list[DockerHost], written: Any
) -> None:
    host = bare[0]
    host.exec(f"chmod 777 {HOME}")
    done = written([host], **{host.name: {"password": host.password}})("authorize", code=1)
    assert "no login by it" in done.stderr
    assert "chmod go-w ~" in done.stderr
