"""Files there and back by rsync, over every transport that can carry it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remote_launch.errors import ConnectError, ConnectionLostError, MissingProgramError, SyncError
from remote_launch.transport import open_transport
from remote_launch.transport.base import Target
from remote_launch.transport.rsync import rsync_pull, rsync_push
from tests.support.processes import at_work_in
from tests.support.sshd import SshdServer, sshd_servers, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remote_launch.transport.base import Transport

pytestmark = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")

NAMES = [
    "plain",
    "a b",
    "it's",
    'say "x"',
    "$HOME",
    "-n",
    "grüße 日本",
    "[1]*?",
    "back\\slash",
    "new\nline",
    "#x",
    ";y",
    "a:b",
]
FOLDERS = ["plain", "a b's \"$HOME\" back\\slash", "-n", "grüße\n[1]*?", "a:b"]


@pytest.fixture(params=["local", "openssh", "fabric"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    kind = request.param
    if importlib.util.find_spec(f"remote_launch.transport.{kind}") is None:
        pytest.skip(f"the {kind} transport is not written yet")
    target = (
        Target(name="here", transport="local")
        if kind == "local"
        else request.getfixturevalue("sshd").target(kind)
    )
    opened = open_transport(target)
    yield opened
    opened.close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my project"
    (folder / "package").mkdir(parents=True)
    (folder / "train.py").write_text("print()\n")
    (folder / "train.py").chmod(0o755)
    for name in NAMES:
        (folder / "package" / name).write_text(name)
    return folder


# Gives what is there at most 1 MB a second, so that there is time to do something meanwhile.
SLOW_RSYNC = """#!/bin/sh
[ "$1" = --server ] && exec {real} "$@"
exec {real} --bwlimit=1000 "$@"
"""


@pytest.fixture
def big_source(tmp_path: Path) -> Path:
    """A folder that takes 20 s to send with ``slow_rsync``."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "random").write_bytes(os.urandom(20_000_000))
    return source


@pytest.fixture
def slow_rsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This machine's rsync is slow, until ``undo``."""
    program = tmp_path / "bin" / "rsync"
    program.parent.mkdir()
    program.write_text(SLOW_RSYNC.format(real=shutil.which("rsync")))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return monkeypatch


def tree(folder: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file()
    }


class TestPush:
    @pytest.mark.parametrize("name", FOLDERS)
    def test_every_name_arrives_exact(
        self, transport: Transport, project: Path, tmp_path: Path, name: str
    ) -> None:
        there = tmp_path / "there" / name / "deep"
        result = rsync_push(transport, project, str(there))
        assert tree(there) == tree(project)
        assert result.files == len(NAMES) + 1
        assert result.literal_bytes == result.size_bytes > 0
        assert (there / "train.py").stat().st_mode & 0o777 == 0o755
        again = rsync_push(transport, project, str(there))
        assert (again.files, again.literal_bytes) == (0, 0)

    def test_home(self, transport: Transport, project: Path) -> None:
        name = f".rl test {os.urandom(4).hex()}"
        try:
            rsync_push(transport, project, f"~/{name}")
            assert tree(Path.home() / name) == tree(project)
        finally:
            shutil.rmtree(Path.home() / name, ignore_errors=True)

    def test_only_the_files_named(self, transport: Transport, project: Path, tmp_path: Path) -> None:
        names = ["train.py", *(f"package/{name}" for name in NAMES[1:])]
        rsync_push(transport, project, str(tmp_path / "there"), files_from="\0".join(names).encode())
        assert sorted(tree(tmp_path / "there")) == sorted(names)

    def test_excludes(self, transport: Transport, project: Path, tmp_path: Path) -> None:
        (project / "secret.key").touch()
        (project / "exclude.txt").write_text("*.key\n")
        there = tmp_path / "there"
        rsync_push(
            transport,
            project,
            str(there),
            exclude_from=project / "exclude.txt",
            excludes=["/package", "exclude.txt"],
        )
        assert sorted(tree(there)) == ["train.py"]

    def test_links_are_links_and_none_leads_out(
        self, transport: Transport, project: Path, tmp_path: Path
    ) -> None:
        (project / "inside").symlink_to("train.py")
        (project / "absolute").symlink_to("/etc/passwd")
        (project / "above").symlink_to("../../secret")
        (project / "folder").symlink_to("package")
        os.mkfifo(project / "fifo")
        there = tmp_path / "there"
        rsync_push(transport, project, str(there))
        links = {name: value for name, value in tree(there).items() if isinstance(value, str)}
        assert links == {"inside": "-> train.py", "folder": "-> package"}
        assert not (there / "fifo").exists()

    def test_what_is_only_there_stays(self, transport: Transport, project: Path, tmp_path: Path) -> None:
        there = tmp_path / "there"
        there.mkdir()
        (there / "data").write_text("x")
        rsync_push(transport, project, str(there))
        assert (there / "data").read_text() == "x"

    @pytest.mark.parametrize("exists", [True, False])
    def test_dry_run(self, transport: Transport, project: Path, tmp_path: Path, exists: bool) -> None:
        there = tmp_path / "there"
        if exists:
            rsync_push(transport, project, str(there))
            (project / "train.py").write_text("changed")
        before = tree(there) if exists else None
        result = rsync_push(transport, project, str(there), dry_run=True)
        changed = {name for name in result.names if not name.endswith("/")}
        assert changed == ({"train.py"} if exists else set(tree(project)))
        assert result.files == len(changed)
        assert (tree(there) if there.exists() else None) == before

    def test_compression_and_progress(self, transport: Transport, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "zeros").write_bytes(bytes(3_000_000))
        seen: list[tuple[int, int]] = []
        rsync_push(
            transport, source, str(tmp_path / "there"), compress=True, on_progress=lambda *it: seen.append(it)
        )
        assert tree(tmp_path / "there") == tree(source)
        assert seen[-1] == (3_000_000, 100)

    def test_a_missing_source(self, transport: Transport, tmp_path: Path) -> None:
        with pytest.raises(SyncError, match=r"here|server-1") as caught:
            rsync_push(transport, tmp_path / "none", str(tmp_path / "there"))
        assert "No such file or directory" in caught.value.tail

    def test_cancel(
        self, transport: Transport, big_source: Path, slow_rsync: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def stop(*_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rsync_push(transport, big_source, str(tmp_path / "there"), on_progress=stop)
        assert not (tmp_path / "there" / "random").exists()
        wait_for(lambda: not at_work_in(tmp_path / "there"), 60, "the rsync there to put aside what it has")
        slow_rsync.undo()
        rsync_push(transport, big_source, str(tmp_path / "there"))
        assert tree(tmp_path / "there") == tree(big_source)

    def test_cancel_from_another_thread(
        self, transport: Transport, big_source: Path, slow_rsync: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Ctrl-C reaches the main thread; the rsyncs of many servers run in others."""
        ends: list[str] = []

        def push() -> None:
            try:
                rsync_push(
                    transport, big_source, str(tmp_path / "there"), on_progress=lambda *_: transport.cancel()
                )
            except KeyboardInterrupt:
                ends.append("interrupted")

        thread = threading.Thread(target=push)
        thread.start()
        thread.join(60)
        assert ends == ["interrupted"]


class TestPull:
    @pytest.mark.parametrize("name", FOLDERS)
    def test_every_name_arrives_exact(
        self, transport: Transport, project: Path, tmp_path: Path, name: str
    ) -> None:
        there = project.rename(tmp_path / f"x {name}")
        result = rsync_pull(transport, str(there), tmp_path / "here")
        assert tree(tmp_path / "here") == tree(there)
        assert result.files == len(NAMES) + 1

    def test_only_the_files_named(self, transport: Transport, project: Path, tmp_path: Path) -> None:
        names = ["train.py", *(f"package/{name}" for name in NAMES[1:])]
        rsync_pull(transport, str(project), tmp_path / "here", files_from="\0".join(names).encode())
        assert sorted(tree(tmp_path / "here")) == sorted(names)

    def test_a_named_file_that_is_not_there(
        self, transport: Transport, project: Path, tmp_path: Path
    ) -> None:
        names = b"train.py\0none\0no/such"
        with pytest.raises(SyncError, match="some files could not be transferred"):
            rsync_pull(transport, str(project), tmp_path / "here", files_from=names)
        rsync_pull(transport, str(project), tmp_path / "here", files_from=names, missing_ok=True)
        assert sorted(tree(tmp_path / "here")) == ["train.py"]

    def test_a_named_link_can_be_followed(self, transport: Transport, project: Path, tmp_path: Path) -> None:
        (tmp_path / "disk.pt").write_text("big")
        (project / "last.pt").symlink_to(tmp_path / "disk.pt")
        rsync_pull(transport, str(project), tmp_path / "here", files_from=b"last.pt", follow_links=True)
        assert tree(tmp_path / "here") == {"last.pt": b"big"}

    def test_a_dry_run_makes_no_folder(self, transport: Transport, project: Path, tmp_path: Path) -> None:
        result = rsync_pull(transport, str(project), tmp_path / "here", dry_run=True)
        assert result.files == len(NAMES) + 1
        assert not (tmp_path / "here").exists()

    def test_patterns(self, transport: Transport, project: Path, tmp_path: Path) -> None:
        (project / "logs" / "deep").mkdir(parents=True)
        (project / "logs" / "deep" / "a.log").touch()
        rsync_pull(transport, str(project), tmp_path / "here", includes=["*.log", "*.py"])
        assert sorted(tree(tmp_path / "here")) == ["logs/deep/a.log", "train.py"]

    def test_links_stay_there_unless_asked_for(
        self, transport: Transport, project: Path, tmp_path: Path
    ) -> None:
        (project / "inside").symlink_to("train.py")
        (project / "absolute").symlink_to("/etc/passwd")
        rsync_pull(transport, str(project), tmp_path / "here")
        assert not {"inside", "absolute"} & set(tree(tmp_path / "here"))
        rsync_pull(transport, str(project), tmp_path / "here", links=True)
        assert {"inside", "absolute"} & set(tree(tmp_path / "here")) == {"inside"}

    def test_append(self, transport: Transport, tmp_path: Path) -> None:
        there = tmp_path / "there"
        there.mkdir()
        (there / "log").write_text("one\n")
        rsync_pull(transport, str(there), tmp_path / "here", append=True)
        (there / "log").write_text("one\ntwo\n")
        result = rsync_pull(transport, str(there), tmp_path / "here", append=True)
        assert (tmp_path / "here" / "log").read_text() == "one\ntwo\n"
        assert result.literal_bytes == 4

    def test_large_files_stay_there(self, transport: Transport, project: Path, tmp_path: Path) -> None:
        (project / "large").write_bytes(bytes(1001))
        rsync_pull(transport, str(project), tmp_path / "here", max_size_bytes=1000)
        assert "large" not in tree(tmp_path / "here")

    def test_a_missing_folder(self, transport: Transport, tmp_path: Path) -> None:
        with pytest.raises(SyncError, match="the folder is not there"):
            rsync_pull(transport, str(tmp_path / "none"), tmp_path / "here")


class TestTrouble:
    def test_a_full_disk(self, transport: Transport, tmp_path: Path) -> None:
        small = tmp_path / "small"
        small.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(small)], capture_output=True
        ).returncode:
            pytest.skip("can't mount a small disk here")
        try:
            source = tmp_path / "source"
            source.mkdir()
            (source / "large").write_bytes(os.urandom(500_000))
            with pytest.raises(SyncError, match="the disk is full"):
                rsync_push(transport, source, str(small / "there"))
        finally:
            unmount = ["umount", str(small)]
            wait_for(
                lambda: not subprocess.run(unmount, capture_output=True).returncode,
                60,
                "the rsync there to let go",
            )

    @pytest.mark.parametrize("kind", ["openssh", "fabric"])
    def test_no_rsync_on_the_server(self, kind: str, tmp_path: Path, project: Path) -> None:
        with sshd_servers(tmp_path, 1, sshd_options=["SetEnv PATH=/nowhere"]) as (server,):
            transport = open_transport(server.target(kind))
            with pytest.raises(MissingProgramError, match="rsync is not installed on the server"):
                rsync_pull(transport, "~", tmp_path / "here")
            transport.close()

    @pytest.mark.parametrize("kind", ["openssh", "fabric"])
    def test_the_server_dies_in_the_middle(
        self, kind: str, big_source: Path, slow_rsync: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        killers: list[threading.Thread] = []
        with sshd_servers(tmp_path, 1) as (server,):
            transport = open_transport(server.target(kind))

            def kill(*_: int) -> None:
                if not killers:
                    killers.append(threading.Thread(target=SshdServer.kill, args=(server,)))
                    killers[0].start()

            with pytest.raises((ConnectionLostError, ConnectError, SyncError)):
                rsync_push(transport, big_source, str(tmp_path / "there"), on_progress=kill)
            killers[0].join(60)
            transport.close()
        assert not (tmp_path / "there" / "random").exists()
