"""Files that this machine fetches for servers without internet."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.environments.recipes import recipe_for
from remote_launch.core.inventory import Environment, Inventory, Server, Sync
from remote_launch.core.project import Project
from remote_launch.errors import PrepareError
from remote_launch.operations import downloads as module
from remote_launch.operations.downloads import Downloads
from remote_launch.operations.fleet import Fleet

if TYPE_CHECKING:
    from pathlib import Path

URL = "https://m.example/Miniforge3-{os}-{machine}.sh"
NEED = {
    "url": "https://m.example/Miniforge3-Linux-x86_64.sh",
    "to": "~/.rl/downloads/Miniforge3-Linux-x86_64.sh",
}
COUNT = 8


class World:
    """What was fetched and what was sent."""

    def __init__(self, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        self.fetched: list[str] = []
        self.sent: list[tuple[str, str]] = []
        self.answer: dict[str, Any] | None = None
        self.lock = threading.Lock()
        patch.setattr(module, "fetch_here", self._fetch)
        patch.setattr(module, "rsync_push", self._push)
        environment = Environment(installer_url=URL)
        servers = {
            f"s{number}": Server(name=f"s{number}", workdir="~/p", transport="local", environment=environment)
            for number in range(COUNT)
        }
        project = Project(root=tmp_path)
        inventory = Inventory(
            name="p", servers=servers, sync=Sync(), path=project.config, project=project
        )
        self.servers = list(servers.values())
        self.fleet = Fleet(project, inventory)
        self.downloads = Downloads(self.fleet)
        self.step = recipe_for(self.servers[0], None).steps[0]

    def _fetch(self, url: str, path: Path, sha256: str | None, on_line: Any, cancel: Any) -> dict[str, Any]:
        assert (sha256, cancel) == (None, self.fleet.local_runs)
        with self.lock:
            self.fetched.append(url)
        if self.answer is not None:
            return self.answer
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"installer")
        on_line("downloading")
        return {"sha256": hashlib.sha256(b"installer").hexdigest(), "verified": True}

    def _push(self, transport: Any, folder: Path, to: str, *, files_from: bytes) -> None:
        assert (folder / files_from[:-1].decode()).read_bytes() == b"installer"
        with self.lock:
            self.sent.append((transport.target.name, to))

    def send(self, server: Server, need: dict[str, Any] = NEED) -> str:
        return self.downloads.send(server, self.step, need, lambda _step, _line: None)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_one_download_for_all_servers(world: World) -> None:
    with ThreadPoolExecutor(COUNT) as pool:
        digests = set(pool.map(world.send, world.servers))
    assert digests == {hashlib.sha256(b"installer").hexdigest()}
    assert world.fetched == [NEED["url"]]
    assert sorted(world.sent) == [(f"s{number}", "~/.rl/downloads") for number in range(COUNT)]


def test_what_failed_for_one_is_not_tried_for_each(world: World) -> None:
    world.answer = {"message": "no route to https://me:secret@m.example"}
    for server in world.servers[:2]:
        with pytest.raises(PrepareError, match="neither the server nor this machine") as caught:
            world.send(server)
        assert "secret" not in str(caught.value)
    assert (len(world.fetched), world.sent) == (1, [])


@pytest.mark.parametrize(
    "need",
    [
        {**NEED, "url": "file:///etc/passwd"},
        {**NEED, "url": "https://intranet.example/Miniforge3-Linux-x86_64.sh"},
        {**NEED, "url": "https://m.example/Miniforge3-Linux-../../x.sh"},
        {**NEED, "to": "~/.ssh/authorized_keys"},
        {"url": 3},
        {},
    ],
)
def test_a_server_gets_the_recipes_file_and_no_other(world: World, need: dict[str, Any]) -> None:
    with pytest.raises(PrepareError, match="none of the recipe's"):
        world.send(world.servers[0], need)
    assert world.fetched == []


class TestAhead:
    def ask(self, world: World, answer: dict[str, Any], *, offline: bool = True) -> dict[str, str]:
        server = world.servers[0]
        server = dataclasses.replace(
            server, environment=dataclasses.replace(server.environment, offline=offline)
        )
        recipe = recipe_for(server, None)
        return world.downloads.send_ahead(server, recipe, answer, lambda _step, _line: None)

    def test_an_offline_server_without_conda(self, world: World) -> None:
        machine = {"system": "Darwin", "machine": "arm64"}
        assert list(self.ask(world, {"programs": {"conda": None}, "machine": machine})) == ["install conda"]
        assert world.fetched == ["https://m.example/Miniforge3-MacOSX-arm64.sh"]

    def test_one_with_conda_or_with_internet(self, world: World) -> None:
        machine = {"system": "Linux", "machine": "x86_64"}
        assert self.ask(world, {"programs": {"conda": "/opt/conda/bin/conda"}, "machine": machine}) == {}
        assert self.ask(world, {"programs": {}, "machine": machine}, offline=False) == {}
        assert self.ask(world, {"programs": {}, "machine": {"system": "../..", "machine": "x"}}) == {}
        assert world.fetched == []
