"""Wheels for another machine, from a folder of wheels made by hand: no network."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from remote_launch.errors import CommandError, ConfigError
from remote_launch.transport import pip, pip_errors, pip_programs
from remote_launch.transport.pip import WheelTarget, download_wheels
from remote_launch.transport.process import Cancel
from remote_launch.transport.programs_here import uv_here
from tests.support.wheels import make_sdist, make_wheel, source_files

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("pip")
needs_uv = pytest.mark.skipif(uv_here() is None, reason="uv is not on this machine")


def target(python: str = "3.9.2", machine: str = "aarch64", *, uv: bool = True) -> WheelTarget:
    tag = "cp" + "".join(python.split(".")[:2])
    names = [*(f"manylinux_2_{minor}" for minor in range(36, 16, -1)), "manylinux2014", "linux"]
    return WheelTarget(
        python=python,
        implementation="cp",
        abis=(tag, "abi3", "none"),
        platforms=tuple(f"{name}_{machine}" for name in names),
        machine=machine,
        uv_platform=f"{machine}-manylinux_2_36" if uv else None,
        words=f"Python {python} on {machine}, glibc 2.36",
    )


class Bench:
    """A project, a folder that packages are found in, and the lines that were told."""

    def __init__(self, folder: Path) -> None:
        self.packages = folder / "packages"
        self.project = folder / "project"
        self.destination = folder / "wheels"
        self.lines: list[str] = []
        for made in (self.packages, self.project, self.destination):
            made.mkdir()

    def download(
        self, text: str, wanted: WheelTarget | None = None, *args: str, cancel: Cancel | None = None
    ) -> list[str]:
        (self.project / "requirements.txt").write_text(text)
        found = download_wheels(
            self.project / "requirements.txt",
            wanted or target(),
            self.destination,
            project_dir=self.project,
            env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.packages)},
            pip_args=args,
            on_line=self.lines.append,
            cancel=cancel,
        )
        return [path.name for path in found]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    return Bench(tmp_path)


@needs_uv
class TestChoosing:
    def test_markers_are_those_of_the_server(self, bench: Bench) -> None:
        markers = {
            "older": 'python_version < "3.10"',
            "newer": 'python_version >= "3.10"',
            "arm": 'platform_machine == "aarch64"',
            "intel": 'platform_machine == "x86_64"',
            "windows": 'sys_platform == "win32"',
            "exact": 'python_full_version >= "3.9.2"',
        }
        make_wheel(bench.packages, "app", requires=[f"{name}; {when}" for name, when in markers.items()])
        for name in markers:
            make_wheel(bench.packages, name)
        found = bench.download("app\n")
        assert [name.split("-")[0] for name in found] == ["app", "arm", "exact", "older"]

    def test_the_wheel_is_the_server_s(self, bench: Bench) -> None:
        for tag in (
            "cp39-cp39-manylinux_2_17_x86_64",
            "cp39-cp39-manylinux_2_28_aarch64",
            "cp311-cp311-manylinux_2_28_aarch64",
            "cp39-cp39-manylinux_2_38_aarch64",
            "cp39-cp39-musllinux_1_2_aarch64",
        ):
            make_wheel(bench.packages, "fast", tag=tag)
        assert bench.download("fast\n") == ["fast-1.0-cp39-cp39-manylinux_2_28_aarch64.whl"]

    def test_an_older_version_with_a_wheel_is_preferred_to_a_source(self, bench: Bench) -> None:
        make_wheel(bench.packages, "fast", "1.0", tag="cp39-cp39-manylinux_2_17_aarch64")
        make_sdist(bench.packages, "fast", "2.0", builds="cp311-cp311-linux_x86_64")
        assert bench.download("fast\n") == ["fast-1.0-cp39-cp39-manylinux_2_17_aarch64.whl"]

    def test_includes_constraints_and_wheels_by_path(self, bench: Bench) -> None:
        for version in ("1.0", "2.0"):
            make_wheel(bench.packages, "lib", version)
        make_wheel(bench.project / "vendor", "mine")
        (bench.project / "more").mkdir()
        (bench.project / "more" / "base.txt").write_text("lib\n")
        (bench.project / "limits.txt").write_text("lib<2\n")
        text = "-r more/base.txt\n-c limits.txt  # old\n./vendor/mine-1.0-py3-none-any.whl\n"
        assert bench.download(text) == ["lib-1.0-py3-none-any.whl", "mine-1.0-py3-none-any.whl"]

    def test_a_file_that_is_not_there(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match=r"gone\.txt, which .*requirements\.txt includes"):
            bench.download("-r gone.txt\n")

    def test_pip_args_that_choose(self, bench: Bench, tmp_path: Path) -> None:
        make_wheel(tmp_path / "beside", "early", "1.0a1")
        args = ("--pre", "--upgrade", "--find-links", str(tmp_path / "beside"))
        assert bench.download("early>=0.9\n", None, *args) == ["early-1.0a1-py3-none-any.whl"]


@needs_uv
class TestHashes:
    def test_the_right_one(self, bench: Bench) -> None:
        wheel = make_wheel(bench.packages, "lib")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert bench.download(f"lib==1.0 \\\n    --hash=sha256:{digest}\n") == [wheel.name]

    def test_a_wrong_one(self, bench: Bench) -> None:
        make_wheel(bench.packages, "lib")
        with pytest.raises(CommandError, match="not the one that the requirements name by its hash"):
            bench.download(f"lib==1.0 --hash=sha256:{'1' * 64}\n")


@needs_uv
class TestSources:
    def test_pure_python_is_built_here(self, bench: Bench) -> None:
        make_sdist(bench.packages, "plain-thing", requires=["lib"])
        make_wheel(bench.packages, "lib")
        found = bench.download("plain-thing\n")
        assert found == ["lib-1.0-py3-none-any.whl", "plain_thing-1.0-py3-none-any.whl"]

    def test_compiled_is_an_error(self, bench: Bench) -> None:
        make_sdist(bench.packages, "native", builds="cp311-cp311-linux_x86_64")
        message = r"no wheel of native==1\.0 for Python 3\.9\.2 on aarch64.*cp311-cp311-linux_x86_64 only"
        with pytest.raises(CommandError, match=message):
            bench.download("native\n")

    def test_one_that_can_not_be_built(self, bench: Bench) -> None:
        make_sdist(bench.packages, "native")
        folder = bench.project / "native"
        folder.mkdir()
        for name, text in source_files("native").items():
            (folder / name).write_text(text.replace("build_wheel", "no_such_hook"))
        with pytest.raises(CommandError, match=r"native.*can't be built on this machine"):
            bench.download("./native\n")

    def test_a_folder_of_the_project(self, bench: Bench) -> None:
        folder = bench.project / "libs" / "mine"
        folder.mkdir(parents=True)
        for name, text in source_files("mine", requires=["lib"]).items():
            (folder / name).write_text(text)
        make_wheel(bench.packages, "lib")
        assert bench.download("-e ./libs/mine\n") == ["lib-1.0-py3-none-any.whl", "mine-1.0-py3-none-any.whl"]


@needs_uv
class TestFailures:
    def test_no_wheel_for_the_platform(self, bench: Bench) -> None:
        make_wheel(bench.packages, "fast", tag="cp39-cp39-manylinux_2_17_x86_64")
        with pytest.raises(CommandError, match=r"no wheel of fast\S* for Python 3\.9\.2 on aarch") as caught:
            bench.download("fast\n")
        assert "another version of fast" in (caught.value.hint or "")

    def test_a_conflict(self, bench: Bench) -> None:
        make_wheel(bench.packages, "a", requires=["c<2"])
        make_wheel(bench.packages, "b", requires=["c>=2"])
        make_wheel(bench.packages, "c", "1.0")
        make_wheel(bench.packages, "c", "2.0")
        with pytest.raises(CommandError, match="can't be met together") as caught:
            bench.download("a\nb\n")
        assert "depend on c>=2" in caught.value.message

    def test_a_sentence_of_uv_that_goes_on_in_the_next_line(self) -> None:
        said = "error: No solution found\n  cause: so your requirements\n         are unsatisfiable."
        error = pip_errors.failure(said, 1, "uv pip compile", "Python 3.9.2 on aarch64")
        assert "can't be met together" in error.message

    def test_no_such_package(self, bench: Bench) -> None:
        with pytest.raises(CommandError, match="no package nosuch"):
            bench.download("nosuch\n")

    def test_no_such_version(self, bench: Bench) -> None:
        make_wheel(bench.packages, "lib")
        with pytest.raises(CommandError, match="no version lib==7 in the indexes"):
            bench.download("lib==7\n")

    def test_an_index_out_of_reach_and_its_login(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        (bench.project / "requirements.txt").write_text("six\n")
        with pytest.raises(CommandError, match="index can't be reached from this machine") as caught:
            download_wheels(
                bench.project / "requirements.txt",
                target(),
                bench.destination,
                project_dir=bench.project,
                env={"PIP_INDEX_URL": "http://me:hunter2@127.0.0.1:9/simple", "PIP_RETRIES": "0"},
                on_line=bench.lines.append,
            )
        assert "hunter2" not in f"{caught.value.message}{caught.value.tail}{bench.lines}"

    def test_it_can_be_cancelled(self, bench: Bench) -> None:
        make_sdist(bench.packages, "slow")
        folder = bench.project / "slow"
        folder.mkdir()
        mark = bench.project / "building"
        wait = f"\nopen({str(mark)!r}, 'w').close()\nimport time; time.sleep(600)\n"
        for name, text in source_files("slow").items():
            (folder / name).write_text(text + wait if name == "backend.py" else text)
        cancel, ended = Cancel(), threading.Event()

        def stop() -> None:
            while not ended.wait(0.05):
                if mark.exists():
                    cancel.set()

        thread = threading.Thread(target=stop)
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                bench.download("./slow\n", cancel=cancel)
        finally:
            ended.set()
            thread.join()


def test_pip_is_told_of_the_indexes_that_only_uv_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_INDEX", "https://me:word@own.host/simple")
    compiled = (
        "a==1\n    # from https://pypi.org/simple\nb==1\n    # from https://own.host/simple\n"
        "c==1\n    # from https://given.host/simple/\nd==1\n    # from file:///wheels\n"
        "e==1\n    # from https://torch.host/whl/cpu\nf==1\n    # from https://links.host/f.html\n"
    )
    env = {"PIP_EXTRA_INDEX_URL": "https://you:word@given.host/simple", "UV_FIND_LINKS": "/x,/wheels"}
    assert pip._lines_of(compiled, env) == [
        "--extra-index-url https://me:word@own.host/simple",
        "--extra-index-url https://torch.host/whl/cpu",
        "--find-links https://links.host/f.html",
        *(f"{name}==1" for name in "abcdef"),
    ]


class TestWithoutUv:
    @pytest.fixture(autouse=True)
    def _no_uv(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (pip, pip_programs):
            monkeypatch.setattr(module, "uv_here", lambda: None)

    def test_pip_chooses_for_a_machine_like_this_one(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pip.this_machine, "machine", lambda: "x86_64")
        monkeypatch.setattr(pip.this_machine, "system", lambda: "Linux")
        make_wheel(bench.packages, "app", requires=["lib"])
        make_wheel(bench.packages, "lib")
        wanted = target("{}.{}".format(*sys.version_info), "x86_64")
        assert bench.download("app\n", wanted) == ["app-1.0-py3-none-any.whl", "lib-1.0-py3-none-any.whl"]

    def test_another_machine_needs_uv(self, bench: Bench) -> None:
        with pytest.raises(CommandError, match=r"Python 3\.9\.2 on aarch64.* without uv") as caught:
            bench.download("app\n")
        assert "pip install uv" in (caught.value.hint or "")


def test_pip_of_another_interpreter(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(pip_programs, "find_spec", lambda _name: None)
    found = pip_programs.Programs({}, bench.project, bench.lines.append, None).pip()
    assert found.argv == [str(folder / "python3"), "-m", "pip"]
    assert found.python == "{}.{}".format(*sys.version_info)


def test_no_pip_at_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip_programs, "find_spec", lambda _name: None)
    monkeypatch.setattr(pip_programs, "uv_here", lambda: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CommandError, match="pip is not on this machine"):
        bench.download("app\n")
