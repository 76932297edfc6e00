"""Docker hosts for the tests in this folder, through pytest-docker. Skipped where docker can't run."""

from __future__ import annotations

import os
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_docker.plugin import Services


class WriteInventory(Protocol):
    def __call__(self, folder: Path, hosts: list[DockerHost], **keys: Any) -> Path: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in item.path.parts:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def docker_image() -> Iterator[str]:
    """The tag of the hosts' image. A daemon that had to be started for it ends with the session."""
    try:
        with running_daemon():
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
    return ["down --volumes --timeout 1"]


@pytest.fixture(scope="session")
def cluster(
    docker_services: Services, docker_compose_project_name: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The session's containers. Tests take ``hosts`` or ``docker_host_factory``, which also heal them."""
    cluster = Cluster(
        project=docker_compose_project_name,
        compose=docker_services._docker_compose.execute,
        folder=tmp_path_factory.mktemp("cluster"),
    )
    yield cluster
    cluster.heal()  # compose can't stop a paused container


@pytest.fixture
def docker_host_factory(cluster: Cluster) -> Iterator[Callable[[int], list[DockerHost]]]:
    """Given a count (1 to 4), return that many healthy hosts. After the test every fault is undone."""
    yield cluster.hosts
    cluster.heal()


@pytest.fixture
def hosts(docker_host_factory: Callable[[int], list[DockerHost]]) -> list[DockerHost]:
    """host-0 and host-1."""
    return docker_host_factory(2)


@pytest.fixture
def shared_home_hosts(cluster: Cluster) -> Iterator[list[DockerHost]]:
    """shared-0 and shared-1: two machines with one /home/trainer, as in a lab with NFS. Healed after the
    test."""
    yield cluster.shared_home_hosts()
    cluster.heal()


@pytest.fixture
def inventory() -> WriteInventory:
    """``inventory(folder, hosts, **keys)`` writes ``folder/.remote/configs.yaml`` and returns ``folder``."""
    return write_inventory
