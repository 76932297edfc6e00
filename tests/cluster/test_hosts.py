"""The test hosts are what the other tests take them for."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.docker_hosts import DockerHost

LISTEN = """
import socket
server = socket.create_server(("0.0.0.0", 0))
server.settimeout(120)
print(server.getsockname()[1], flush=True)
connection, peer = server.accept()
print(peer[0], connection.recv(100).decode(), flush=True)
"""
SAY = 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 60).sendall(b"hello")'


def test_each_host_is_a_machine_of_its_own(hosts: list[DockerHost]) -> None:
    seen = [host.ssh("hostname; hostname -I; id -un").stdout.split() for host in hosts]
    assert [(name, user) for name, _, user in seen] == [("host-0", "trainer"), ("host-1", "trainer")]
    assert [address for _, address, _ in seen] == [host.address for host in hosts]
    hosts[0].ssh("echo here > ~/mark")
    assert hosts[1].ssh("cat ~/mark", check=False).returncode != 0
    keys = {host.exec("cat /etc/ssh/ssh_host_ed25519_key.pub") for host in hosts}
    assert len(keys) == 2


def test_two_machines_share_a_home(shared_home_hosts: list[DockerHost]) -> None:
    first, second = shared_home_hosts
    assert [host.ssh("hostname; id -un").stdout.split() for host in shared_home_hosts] == [
        ["shared-0", "trainer"], ["shared-1", "trainer"],
    ]
    first.ssh("echo here > ~/mark")
    assert second.ssh("cat ~/mark && rm ~/mark").stdout == "here\n"
    first.ssh("echo mine > /tmp/mark")
    assert second.ssh("cat /tmp/mark", check=False).returncode != 0


@pytest.mark.parametrize("by", ["name", "address"])
def test_hosts_reach_each_other_on_any_port(hosts: list[DockerHost], by: str) -> None:
    first, second = hosts
    first.write("/tmp/listen.py", LISTEN)
    second.write("/tmp/say.py", SAY)
    argv = ["ssh", "-F", str(first.ssh_config), first.name, "python3 /tmp/listen.py"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as listening:
        assert listening.stdout is not None
        port = listening.stdout.readline().strip()
        second.ssh(f"python3 /tmp/say.py {getattr(first, by)} {port}")
        assert listening.stdout.read().split() == [second.address, "hello"]


def test_a_host_knows_itself_by_its_name(hosts: list[DockerHost]) -> None:
    for host in hosts:
        assert host.ssh("getent hosts $(hostname)").stdout.split()[0] == host.address


def test_the_user_has_no_root(hosts: list[DockerHost]) -> None:
    host = hosts[0]
    assert host.ssh("command -v sudo", check=False).returncode != 0
    assert host.ssh("id -G").stdout.split() == [host.exec("id -g trainer")]
    assert host.ssh("touch /etc/mark", check=False).returncode != 0
    assert host.ssh("command -v rsync && python3 -c 'import venv, ensurepip'").returncode == 0


def test_the_password_logs_in(hosts: list[DockerHost]) -> None:
    paramiko = pytest.importorskip("paramiko")
    host = hosts[0]
    client = paramiko.SSHClient()
    client.load_host_keys(str(host.known_hosts))
    with client:
        client.connect(
            host.address,
            username=host.username,
            password=host.password,
            look_for_keys=False,
            allow_agent=False,
        )
        _, stdout, _ = client.exec_command("hostname")
        assert stdout.read().decode().strip() == host.name


def test_a_killed_host_comes_back_as_it_was(hosts: list[DockerHost]) -> None:
    host = hosts[1]
    host.ssh("echo kept > ~/mark")
    host.kill()
    assert host.ssh("true", check=False, connect_timeout_s=1).returncode == 255
    host.start()
    assert host.ssh("cat ~/mark").stdout == "kept\n"


def test_a_frozen_host_says_nothing(hosts: list[DockerHost]) -> None:
    host = hosts[1]
    host.pause()
    with pytest.raises(TimeoutError), socket.create_connection((host.address, 22), timeout=1) as connection:
        connection.recv(4)
    host.heal()
    assert host.ssh("true").returncode == 0


def test_a_cable_can_be_pulled_and_plugged_in(hosts: list[DockerHost]) -> None:
    first, second = hosts
    second.disconnect()
    assert first.ssh("timeout 2 bash -c ': < /dev/tcp/host-1/22'", check=False).returncode != 0
    second.heal()
    first.ssh("timeout 60 bash -c ': < /dev/tcp/host-1/22'")
    assert second.ssh("hostname -I").stdout.split() == [second.address]


def test_a_blocked_peer_is_not_heard(hosts: list[DockerHost]) -> None:
    first, second = hosts
    first.block(second.address)
    assert second.ssh(f"timeout 2 bash -c ': < /dev/tcp/{first.address}/22'", check=False).returncode == 124
    assert first.ssh("true").returncode == 0
    first.unblock()
    second.ssh(f"timeout 60 bash -c ': < /dev/tcp/{first.address}/22'")


def test_more_hosts_when_asked(docker_host_factory: Callable[[int], list[DockerHost]]) -> None:
    hosts = docker_host_factory(3)
    assert [host.ssh("hostname").stdout.strip() for host in hosts] == ["host-0", "host-1", "host-2"]


def test_what_a_test_leaves_running_is_ended(hosts: list[DockerHost]) -> None:
    host = hosts[0]
    host.ssh("setsid sleep 1000 > /dev/null 2>&1 &")
    assert host.processes("sleep 1000")
    host.heal()
    assert host.processes("sleep 1000") == []


def test_the_inventory_names_the_hosts(
    hosts: list[DockerHost], tmp_path: Path, inventory: WriteInventory
) -> None:
    project = inventory(tmp_path, hosts, name="demo", servers={"host-1": {"nproc_per_node": 2}})
    content = yaml.safe_load((project / ".remote" / "configs.yaml").read_text())
    assert content["name"] == "demo"
    assert content["servers"]["host-0"]["hostname"] == hosts[0].address
    assert content["servers"]["host-1"]["nproc_per_node"] == 2
