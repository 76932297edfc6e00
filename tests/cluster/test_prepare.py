"""Getting servers ready: real pip and uv on hosts with addresses of their own, and what goes wrong there."""

from __future__ import annotations

import http.server
import threading
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import locks
from tests.support.cli import Rl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.docker_hosts import DockerHost


class Prepared:
    """A project of docker hosts, and what ``rl prepare --json`` says of it."""

    def __init__(self, folder: Path, hosts: list[DockerHost], inventory: WriteInventory, **keys: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.root, self.hosts = folder, hosts
        inventory(folder, hosts, **keys)
        self.name = keys["name"]
        self.rl = Rl(folder)
        self.errors: list[dict[str, Any]] = []

    def write(self, name: str, content: str) -> None:
        (self.root / name).write_text(content)

    def prepare(self, *words: str, code: int = 0) -> dict[str, dict[str, Any]]:
        envelope = self.rl.json("prepare", *words, code=code, timeout_s=1200)
        self.errors = envelope["errors"]
        return {row["server"]: row for row in envelope["data"]}

    def python(self, host: DockerHost, code: str) -> str:
        folder = f"/home/trainer/{self.name}/.rl"
        return host.exec(f"cd {folder} && */bin/python -c '{code}'", user="trainer")


def done(row: dict[str, Any]) -> list[str]:
    """The steps that were really done on a server."""
    return [step["step"] for step in row["steps"] if not step["unchanged"]]


@pytest.mark.parametrize("manager", ["uv", "venv"])
def test_only_what_changed_is_done(
    tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory, manager: str
) -> None:
    project = Prepared(tmp_path, hosts, inventory, name=f"noop-{manager}", environment={"manager": manager})
    project.write("requirements.txt", "six\n")
    first = project.prepare()
    assert [len(done(first[name])) for name in ("host-0", "host-1")] == [3, 3]
    again = project.prepare()
    assert [row["unchanged"] for row in again.values()] == [True, True]
    project.write("requirements.txt", "six\niniconfig\n")
    added = project.prepare()
    for host in hosts:
        assert [step.partition(" (")[0] for step in done(added[host.name])] == ["rsync", "install packages"]
        assert project.python(host, "import six, iniconfig; print(1)") == "1"


@pytest.mark.parametrize(
    ("kind", "manager"),
    [
        ("uv.lock", "uv"),
        ("uv.lock", "venv"),
        ("poetry.lock", "venv"),
        ("Pipfile.lock", "uv"),
        ("Pipfile", "venv"),
        ("pyproject.toml", "uv"),
    ],
)
def test_packages_come_from_what_the_project_has(
    tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory, kind: str, manager: str
) -> None:
    name = f"kind-{kind}-{manager}"
    project = Prepared(tmp_path, hosts[:1], inventory, name=name, environment={"manager": manager})
    locks.KINDS[kind](tmp_path)
    project.prepare()
    assert project.python(hosts[0], "import six, iniconfig; print(1)") == "1"
    assert project.prepare()["host-0"]["unchanged"]


@pytest.mark.parametrize(("kind", "manager"), [("requirements.txt", "venv"), ("uv.lock", "uv")])
def test_a_host_without_internet_gets_its_packages_from_here(
    tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory, kind: str, manager: str
) -> None:
    environment = {"manager": manager, "offline": True}
    host, name = hosts[0], f"offline-{manager}"
    project = Prepared(tmp_path, [host], inventory, name=name, environment=environment)
    locks.KINDS[kind](tmp_path)
    # It answers to this machine alone, and the packages that it sees otherwise are out of sight.
    host.exec("mkdir -p /root/hidden; for f in /etc/pip.conf /etc/uv; do mv $f /root/hidden/ || true; done")
    host.exec("iptables -w -A OUTPUT -p tcp ! --sport 22 ! -o lo -j DROP")
    try:
        project.prepare()
        assert project.python(host, "import six, iniconfig; print(1)") == "1"
        assert project.prepare()["host-0"]["unchanged"]
    finally:
        host.exec("mv /root/hidden/* /etc/ 2>/dev/null || true")


def test_a_host_that_is_down_hides_no_other(
    tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory
) -> None:
    keys = {"environment": {"manager": "uv"}, "servers": {"host-1": {"connect_timeout_s": 3}}}
    project = Prepared(tmp_path, hosts, inventory, name="down", **keys)
    hosts[1].kill()
    assert list(project.prepare(code=3)) == ["host-0"]
    assert [error["server"] for error in project.errors] == ["host-1"]
    hosts[1].start()
    inventory(tmp_path, hosts, name="down", environment={"manager": "uv"})
    rows = project.prepare()
    assert rows["host-0"]["unchanged"]
    assert done(rows["host-1"])


def test_hosts_that_share_a_home_are_prepared_once(
    tmp_path: Path, shared_home_hosts: list[DockerHost], inventory: WriteInventory
) -> None:
    project = Prepared(tmp_path, shared_home_hosts, inventory, name="both", environment={"manager": "venv"})
    project.write("requirements.txt", "six\n")
    rows = project.prepare()
    (maker,) = [name for name, row in rows.items() if done(row)]
    (other,) = set(rows) - {maker}
    assert rows[other]["shared_with"] == maker
    assert rows[other]["unchanged"]
    for host in shared_home_hosts:
        assert project.python(host, "import six; print(1)") == "1"


def test_a_host_without_python3_venv_comes_up_all_the_same(
    tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory
) -> None:
    library = hosts[0].exec("python3 -c 'import ensurepip, os; print(os.path.dirname(ensurepip.__file__))'")
    hosts[0].exec(f"mv {library} /root/ensurepip")
    try:
        project = Prepared(tmp_path, hosts[:1], inventory, name="bare", environment={"manager": "venv"})
        project.write("requirements.txt", "six\n")
        project.prepare()
        assert project.python(hosts[0], "import six; print(1)") == "1"
    finally:
        hosts[0].exec(f"mv /root/ensurepip {library}")


@pytest.mark.parametrize("manager", ["uv", "venv"])
def test_a_full_disk_is_said_and_nothing_half_made_taken_for_done(
    tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory, manager: str
) -> None:
    keys = {"servers": {"host-1": {"workdir": "/small/full"}}, "environment": {"manager": manager}}
    project = Prepared(tmp_path, hosts, inventory, name=f"full-{manager}", **keys)
    project.write("requirements.txt", "numpy\n")
    hosts[1].exec("rm -rf /small/*; chmod 1777 /small")  # docker forgets a tmpfs' mode at a restart
    assert list(project.prepare(code=3)) == ["host-0"]
    (error,) = project.errors
    assert "the disk is full" in error["message"]
    assert "df -h" in error["hint"]
    hosts[1].exec("rm -rf /tmp/full; cp -a /small/full /tmp/ && rm -r /small/full && ln -s /tmp/full /small/")
    assert done(project.prepare()["host-1"]), "what was half made was not taken for done"


class HalfWay(http.server.SimpleHTTPRequestHandler):
    """A page of wheels, each of which breaks off half way the first time it is asked for."""

    def __init__(self, *words: Any, broken: set[str], **more: Any) -> None:
        self.broken = broken
        super().__init__(*words, **more)

    def log_message(self, *words: Any) -> None: ...

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        if self.path.endswith(".whl") and self.path not in self.broken:
            self.broken.add(self.path)
            outputfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        outputfile.write(content)


@pytest.fixture
def half_way(tmp_path: Path, hosts: list[DockerHost]) -> Iterator[tuple[Path, str]]:
    """A folder of wheels over http, for the hosts alone, and its address."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    broken: set[str] = set()

    def handler(*words: Any) -> HalfWay:
        return HalfWay(*words, directory=str(folder), broken=broken)

    gateway = hosts[0].exec("ip route show default").split()[2]
    with http.server.ThreadingHTTPServer((gateway, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield folder, f"http://{gateway}:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("manager", ["uv", "venv"])
def test_a_connection_that_drops_half_way_is_tried_again(
    tmp_path: Path,
    hosts: list[DockerHost],
    inventory: WriteInventory,
    half_way: tuple[Path, str],
    manager: str,
) -> None:
    from tests.support.wheels import make_wheel

    folder, url = half_way
    make_wheel(folder, "halfway", padding_bytes=2_000_000)
    environment = {"manager": manager, "find_links": url}
    trusted = {"PIP_TRUSTED_HOST": urllib.parse.urlsplit(url).hostname}  # plain http
    keys = {"environment": environment, "defaults": {"env": trusted}}
    project = Prepared(tmp_path / "p", hosts[:1], inventory, name=f"half-{manager}", **keys)
    project.write("requirements.txt", "halfway\n")
    project.prepare()
    assert project.python(hosts[0], "import halfway; print(1)") == "1"
