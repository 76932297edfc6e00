"""Docker hosts for the tests in this folder, through pytest-docker. Skipped where docker can't run.

Each process that runs tests has hosts of its own. scripts/test, which has started docker's daemon before,
runs those of the folder ``training`` beside the others.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.support.docker_hosts import (
    COMPOSE_FILE,
    Cluster,
    DockerHost,
    free_subnet,
    remove_leftovers,
    write_inventory,
    write_override,
)
from tests.support.docker_image import (
    DockerUnavailableError,
    build_host_image,
    compose_command,
    running_daemon,
)
from tests.support.endings import orderly_end
from tests.support.served import until
from tests.support.sshd import end_masters
from tests.support.stand_in_cards import card_row, process_row, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pytest_docker.plugin import Services


class WriteInventory(Protocol):
    def __call__(self, folder: Path, hosts: list[DockerHost], **keys: Any) -> Path: ...


class GiveCards(Protocol):
    def __call__(self, host: DockerHost, count: int, *, first_is_busy: bool = False) -> None: ...


NVIDIA_SMI = "/usr/local/bin/nvidia-smi"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in item.path.parts:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def docker_image() -> Iterator[str]:
    """The tag of the hosts' image. A daemon that had to be started for it ends with the session.
    TERM, which scripts/test sends to what it runs in the background, leaves no container."""
    try:
        with orderly_end(), running_daemon():
            remove_leftovers()
            try:
                yield build_host_image()
            finally:
                remove_leftovers(of_pid=os.getpid())
    except DockerUnavailableError as error:
        pytest.skip(f"docker can't be used here: {error}")


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    try:
        return compose_command()
    except DockerUnavailableError as error:
        pytest.skip(f"docker can't be used here: {error}")


@pytest.fixture(scope="session")
def docker_compose_file(docker_image: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    override = tmp_path_factory.mktemp("compose") / "override.json"
    write_override(override, image=docker_image, subnet=free_subnet())
    return [str(COMPOSE_FILE), str(override)]


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return f"remote-launch-tests-{os.getpid()}"


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    return []  # hosts are started when a test asks for them


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return []  # all that has the session's label is removed at its end; should that fail, no test has


@pytest.fixture(scope="session")
def cluster(
    docker_services: Services, docker_compose_project_name: str, tmp_path_factory: pytest.TempPathFactory
) -> Cluster:
    """The session's containers. Tests take ``hosts`` or ``docker_host_factory``, which also heal them."""
    return Cluster(
        project=docker_compose_project_name,
        compose=docker_services._docker_compose.execute,
        folder=tmp_path_factory.mktemp("cluster"),
    )


@pytest.fixture
def docker_host_factory(
    cluster: Cluster, control_folder: Path
) -> Iterator[Callable[[int], list[DockerHost]]]:
    """Given a count (1 to 4), return that many healthy hosts. After the test every fault is undone."""
    given: list[DockerHost] = []

    def give(count: int) -> list[DockerHost]:
        given[:] = cluster.hosts(max(count, len(given)))
        return given[:count]

    yield give
    take_back(cluster, given, control_folder)


def take_back(cluster: Cluster, hosts: Sequence[DockerHost], control_folder: Path) -> None:
    """End rl's connections, then heal the hosts. In this order: a master whose connection breaks removes its
    socket when it notices, which may then be the next test's."""
    end_masters(control_folder)
    deadline = time.monotonic() + 60
    for file in [file for file in control_folder.iterdir() if file.is_socket()]:
        while _is_listened_to(file):
            assert time.monotonic() < deadline, f"the master of {file} has not ended"
            time.sleep(0.02)
        file.unlink(missing_ok=True)
    cluster.heal(hosts)


def _is_listened_to(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.fixture
def hosts(docker_host_factory: Callable[[int], list[DockerHost]]) -> list[DockerHost]:
    """host-0 and host-1."""
    return docker_host_factory(2)


@pytest.fixture
def shared_home_hosts(cluster: Cluster, control_folder: Path) -> Iterator[list[DockerHost]]:
    """shared-0 and shared-1: two machines with one /home/trainer, as in a lab with NFS. Healed after the
    test."""
    hosts = cluster.shared_home_hosts()
    yield hosts
    take_back(cluster, hosts, control_folder)


@pytest.fixture
def inventory() -> WriteInventory:
    """``inventory(folder, hosts, **keys)`` writes ``folder/.remote/configs.yaml`` and returns ``folder``."""
    return write_inventory


@pytest.fixture
def give_cards() -> Iterator[GiveCards]:
    """``give_cards(host, count)`` puts a stand-in's cards into a host, instead of those that it has; root may
    run something on the first of them."""
    changed: list[DockerHost] = []
    busy: list[tuple[DockerHost, str]] = []

    def give(host: DockerHost, count: int, *, first_is_busy: bool = False) -> None:
        changed.append(host)
        processes = []
        if first_is_busy:
            pid = host.exec("sleep 3600 >/dev/null 2>&1 & echo $!").strip()
            busy.append((host, pid))
            until(lambda: host.exec(f"cat /proc/{pid}/comm") == "sleep", "it to be sleep, not the shell")
            processes = [process_row(0, int(pid), 8800)]
        rows = [card_row(index, used_mb=9000 if processes and index == 0 else 4) for index in range(count)]
        # Moved into its place: rl may look at any moment.
        host.write(f"{NVIDIA_SMI}.new", program(rows, processes), user="root")
        host.exec(f"chmod 755 {NVIDIA_SMI}.new && mv {NVIDIA_SMI}.new {NVIDIA_SMI}")

    yield give
    for host in changed:
        host.exec(f"rm -f {NVIDIA_SMI}")
    for host, pid in busy:
        host.exec(f"kill {pid}")
