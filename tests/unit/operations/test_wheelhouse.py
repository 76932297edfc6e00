"""Wheelhouses from a folder of wheels made by hand: no network, no server."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from remote_launch.core.environments.platforms import Platform
from remote_launch.errors import PrepareError
from remote_launch.operations import wheelhouse
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.wheelhouse import (
    MANIFEST,
    PINS,
    build_wheelhouse,
    index_settings,
    wheelhouse_cache_dir,
)
from remote_launch.transport.pip import download_wheels
from remote_launch.transport.programs_here import uv_here
from tests.support.wheels import make_wheel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from remote_launch.core.inventory import Server

pytest.importorskip("pip")
pytestmark = pytest.mark.skipif(uv_here() is None, reason="uv is not on this machine")
ARM = Platform(python="3.9.2", machine="aarch64", libc=("glibc", "2.31"))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.packages = folder / "packages"
        self.project = folder / "project"
        self.downloads = 0
        self.download: Callable[..., object] = download_wheels
        self.lines: list[str] = []
        self.packages.mkdir()
        (self.project / ".remote").mkdir(parents=True)
        (self.project / ".remote" / "configs.yaml").write_text(
            "environment:\n"
            f"  find_links: ['{self.packages}']\n"
            "  pip_args: [--no-index]\n"
            "servers:\n  gpu-a: {connection: local}\n  gpu-b: {connection: local}\n"
        )
        self.fleet = Fleet.load(str(self.project))

    def build(self, requirements: str | Path, platform: Platform = ARM, *, server: str = "gpu-a",
              refresh: bool = False) -> Path:  # fmt: skip
        return build_wheelhouse(
            self.fleet,
            self.fleet.server(server),
            platform,
            requirements,
            self.lines.append,
            refresh=refresh,
        )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bench = Bench(tmp_path)

    def counted(*args: object, **words: object) -> object:
        bench.downloads += 1
        return bench.download(*args, **words)

    monkeypatch.setattr(wheelhouse, "download_wheels", counted)
    return bench


def left_over() -> list[str]:
    folder = wheelhouse_cache_dir()
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


class TestWhatIsMade:
    def test_wheels_pins_and_manifest(self, bench: Bench) -> None:
        make_wheel(bench.packages, "app", requires=['lib; platform_machine == "aarch64"'])
        wheel = make_wheel(bench.packages, "lib", "1.0+cpu")
        place = bench.build("app\n")
        files = sorted(path.name for path in place.iterdir())
        wheels = ["app-1.0-py3-none-any.whl", wheel.name]
        assert files == [*wheels, MANIFEST, PINS]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert f"lib==1.0+cpu --hash=sha256:{digest}\n" in (place / PINS).read_text()
        manifest = json.loads((place / MANIFEST).read_text())
        assert manifest["files"][wheel.name] == digest
        assert sorted(manifest["files"]) == [*wheels, PINS]
        assert place.parent == wheelhouse_cache_dir()
        assert left_over() == [place.name]

    def test_it_can_be_installed_without_an_index(self, bench: Bench, tmp_path: Path) -> None:
        make_wheel(bench.packages, "app", requires=["lib"])
        make_wheel(bench.packages, "lib")
        place = bench.build("app\n")
        argv = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--find-links", str(place)]
        done = subprocess.run(
            [*argv, "--target", str(tmp_path / "there"), "-r", str(place / PINS)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "there" / "lib.py").exists()

    def test_paths_in_a_text_are_the_project_s(self, bench: Bench) -> None:
        make_wheel(bench.packages, "lib")
        (bench.project / "base.txt").write_text("lib\n")
        assert bench.build("-r base.txt\n") != bench.build(bench.project / "base.txt")


def without_pip(requirements: Path, _target: object, folder: Path, **_words: object) -> list[Path]:
    """A download that takes no time: a wheel with the version that the first line names."""
    name, _, version = requirements.read_text().split()[0].partition("==")
    return [make_wheel(folder, name, version or "1.0")]


class TestOnce:
    @pytest.fixture(autouse=True)
    def _without_pip(self, bench: Bench) -> None:
        bench.download = without_pip

    def test_the_second_call_finds_it(self, bench: Bench) -> None:
        place = bench.build("lib\n")
        assert bench.build("lib\n", server="gpu-b") == place
        assert bench.downloads == 1
        assert bench.lines[-1] == "packages found on this machine"

    def test_another_platform_or_text_is_another(self, bench: Bench) -> None:
        other = Platform(python="3.12", machine="x86_64", libc=("glibc", "2.31"))
        assert len({bench.build("lib\n"), bench.build("lib==1.0\n"), bench.build("lib\n", other)}) == 3

    def test_refresh_takes_what_is_new_once_a_command(self, bench: Bench) -> None:
        place = bench.build("lib\n")
        bench.download = lambda _file, _target, folder, **_words: [make_wheel(folder, "lib", "2.0")]
        bench.fleet = Fleet.load(str(bench.project))
        assert bench.build("lib\n") == place
        assert [path.name for path in place.glob("*.whl")] == ["lib-1.0-py3-none-any.whl"]
        for server in ("gpu-a", "gpu-b"):
            assert bench.build("lib\n", server=server, refresh=True) == place
        assert [path.name for path in place.glob("*.whl")] == ["lib-2.0-py3-none-any.whl"]
        assert bench.downloads == 2

    def test_one_that_lost_a_file_is_made_anew(self, bench: Bench) -> None:
        place = bench.build("lib\n")
        (place / "lib-1.0-py3-none-any.whl").unlink()
        assert bench.build("lib\n") == place
        assert (place / "lib-1.0-py3-none-any.whl").exists()

    def test_servers_alike_build_it_once_between_them(self, bench: Bench) -> None:
        outcomes = bench.fleet.map(
            ["gpu-a", "gpu-b"], lambda server: bench.build("lib\n", server=server.name)
        )
        assert len(set(outcomes.values.values())) == 1
        assert bench.downloads == 1

    def test_the_others_wait_for_the_first(self, bench: Bench) -> None:
        waiting = threading.Event()

        def slow(requirements: Path, target: object, folder: Path, **words: object) -> list[Path]:
            assert waiting.wait(60)
            return without_pip(requirements, target, folder, **words)

        def heard(line: str) -> None:
            if line.startswith("waiting for"):
                waiting.set()

        bench.download = slow
        fleet = bench.fleet
        outcomes = fleet.map(
            ["gpu-a", "gpu-b"], lambda server: build_wheelhouse(fleet, server, ARM, "lib\n", heard)
        )
        assert len(set(outcomes.values.values())) == 1
        assert bench.downloads == 1


class TestFailures:
    def test_each_server_has_the_error_in_its_name(self, bench: Bench) -> None:
        make_wheel(bench.packages, "lib", tag="cp39-cp39-manylinux_2_17_x86_64")
        outcomes = bench.fleet.map(
            ["gpu-a", "gpu-b"], lambda server: bench.build("lib\n", server=server.name)
        )
        for name, error in outcomes.errors.items():
            assert isinstance(error, PrepareError)
            assert re.match(rf"{name}: download packages: on this machine: no wheel of lib", error.message)
        assert len(outcomes.errors) == 2
        assert left_over() == []

    def test_an_interrupted_build_leaves_nothing(self, bench: Bench) -> None:
        def interrupted(_requirements: Path, _target: object, folder: Path, **_words: object) -> list[Path]:
            make_wheel(folder, "lib")
            raise KeyboardInterrupt

        bench.download = interrupted
        with pytest.raises(KeyboardInterrupt):
            bench.build("lib\n")
        assert left_over() == []
        bench.download = without_pip
        assert (bench.build("lib\n") / MANIFEST).exists()

    def test_a_cache_that_can_not_be_written(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        make_wheel(bench.packages, "lib")
        (bench.project / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(bench.project / "file"))
        with pytest.raises(PrepareError, match="Not a directory") as caught:
            bench.build("lib\n")
        assert "XDG_CACHE_HOME" in (caught.value.hint or "")


def test_old_ones_go_and_those_in_use_stay(bench: Bench) -> None:
    bench.download = without_pip
    made = []
    for number in range(8):
        made.append(bench.build(f"lib{number}\n"))
        if number != 6:
            os.utime(made[-1] / MANIFEST, (number, number))
    forgotten = wheelhouse_cache_dir() / ".key.half"
    forgotten.mkdir()
    os.utime(forgotten, (1, 1))
    made.append(bench.build("last\n"))
    assert left_over() == sorted(place.name for place in made[4:])


def test_where_packages_come_from(bench: Bench) -> None:
    (bench.project / ".remote" / "configs.yaml").write_text(
        "environment: {index_url: 'https://a/simple'}\n"
        "servers:\n"
        "  gpu-a:\n"
        "    connection: local\n"
        "    env: {PIP_INDEX_URL: 'https://b', UV_INDEX: 'own=https://c https://d', PIP_CERT: /there, X: y}\n"
    )
    server: Server = Fleet.load(str(bench.project)).server("gpu-a")
    found = {"PIP_INDEX_URL": "https://a/simple", "PIP_EXTRA_INDEX_URL": "https://c https://d"}
    assert index_settings(server) == found
