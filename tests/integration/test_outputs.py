"""Files back from servers, and to every server: over sshd daemons on loopback, with servers that lie."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from remote_launch.errors import WorkspaceError
from remote_launch.operations.clean_outputs import measure_outputs, remove_outputs
from remote_launch.operations.fleet import Fleet
from tests.support.cli import Rl, rl_path
from tests.support.sshd import SshdServer, sshd_servers, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG_MB = 24
SLOW_RSYNC = """#!/bin/sh
# 0.5 MB/s while the file "slow" is there.
[ "$2" = --sender ] && [ -e %s ] || exec %s "$@"
shift
exec %s --server --bwlimit=512 "$@"
"""
SHELL = """#!/bin/sh
PATH=%s:$PATH exec sh -c "$SSH_ORIGINAL_COMMAND"
"""
ODD = ["plain.pt", "a b's \"$HOME\".pt", "[1]*?.pt", "new\nline.pt", "-n.pt", "grüße.pt"]


def shell_with_rsync(folder: Path, content: str) -> Path:
    """Return a shell for an sshd whose rsync is this program."""
    (folder / "bin").mkdir()
    for path, text in ((folder / "bin" / "rsync", content), (folder / "shell", SHELL % (folder / "bin"))):
        path.write_text(text)
        path.chmod(0o755)
    return folder / "shell"


def own_rsync() -> str:
    return str(shutil.which("rsync"))


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[list[SshdServer], Path]]:
    """A server that sends slowly as long as the file is there."""
    sign = tmp_path / "slow"
    sign.touch()
    shell = shell_with_rsync(tmp_path, SLOW_RSYNC % (sign, own_rsync(), own_rsync()))
    with sshd_servers(tmp_path / "sshd", 1, sshd_options=[f"ForceCommand {shell}"]) as started:
        yield started, sign


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SshdServer]]:
    with sshd_servers(tmp_path_factory.mktemp("sshd"), 2) as started:
        yield started


def make_project(tmp_path: Path, servers: list[SshdServer], **keys: Any) -> Rl:
    project = tmp_path / "project"
    (project / ".remote").mkdir(parents=True, exist_ok=True)
    (project / "train.py").write_text("print(1)\n")
    entries = {
        server.name: {
            "hostname": server.name, "ssh_config": str(server.ssh_config), "connect_timeout_s": 30,
            "workdir": str(tmp_path / "work" / server.name), "nproc_per_node": 1, **keys,
        }
        for server in servers
    }  # fmt: skip
    content = {
        "name": "project", "servers": entries, "environment": {"manager": "none"},
        "outputs": ["checkpoints/"],
    }  # fmt: skip
    (project / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return Rl(project)


@pytest.fixture
def rl(tmp_path: Path, servers: list[SshdServer]) -> Rl:
    rl = make_project(tmp_path, servers)
    rl("rsync")
    return rl


def write(rl: Rl, number: int, name: str, content: str = "x", age_s: float = 0) -> Path:
    """Write a file in the workdir of server-<number>."""
    path = rl.project.parent / "work" / f"server-{number}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def here(rl: Rl, number: int, name: str = "") -> Path:
    return rl.project / ".remote" / "outputs" / f"server-{number}" / name


class TestPull:
    def test_two_nodes_with_the_same_names(self, rl: Rl) -> None:
        for number in (1, 2):
            for name in ODD:
                write(rl, number, f"checkpoints/{name}", f"{number} {name}")
        listed = rl("pull", "checkpoints/", "--dry-run")
        assert "6 files" in listed.stderr
        assert not here(rl, 1).exists()
        shown = rl("pull", "checkpoints/")
        assert ".remote/outputs/server-2/" in shown.stdout
        for number in (1, 2):
            for name in ODD:
                assert here(rl, number, f"checkpoints/{name}").read_text() == f"{number} {name}"
        again = rl.json("pull", "checkpoints/[[]1*.pt")
        assert [one["files"] for one in again["data"]] == [0, 0], "it is here already"

    def test_nothing_new_is_told_from_nothing_there(self, rl: Rl) -> None:
        write(rl, 1, "checkpoints/last.pt").parent.parent.joinpath("empty").mkdir()
        assert "none there" in rl("pull", "server-1:empty").stdout
        rl("pull")
        told = rl.json("pull")["data"]
        assert [(one["files"], one["files_there"]) for one in told] == [(0, 1), (0, 0)]
        [first, second] = rl("pull").stdout.splitlines()[1:]
        assert ("up to date" in first, "none there" in first) == (True, False)
        assert ("up to date" in second, "none there" in second) == (False, True)
        planned = rl("pull", "--dry-run").stderr
        assert "server-1: up to date" in planned
        assert "server-2: none there" in planned
        assert "up to date" not in rl("pull", "server-1:checkpoints", "--exclude", "*").stdout

    def test_one_that_lacks_the_path_is_one_error(self, rl: Rl) -> None:
        write(rl, 2, "checkpoints/last.pt")
        envelope = rl.json("pull", "checkpoints/last.pt", code=3)
        assert envelope["status"] == "partial"
        assert [one["server"] for one in envelope["data"]] == ["server-2"]
        [error] = envelope["errors"]
        assert (error["server"], "nothing of that name" in error["message"]) == ("server-1", True)
        assert here(rl, 2, "checkpoints/last.pt").exists()
        rl("pull", "server-1:checkpoints/last.pt", code=1)
        rl("pull", "server-3:checkpoints/last.pt", code=2)

    def test_into_a_folder_of_ones_own(self, rl: Rl, tmp_path: Path) -> None:
        for name in ("runs/a/x.pt", "runs/b/x.pt", "runs/b/log", "checkpoints/1.pt"):
            write(rl, 1, name)
        there = tmp_path / "mine"
        there.mkdir()
        (there / "dotfile").symlink_to("/etc/hostname")  # what is the user's own stays
        rl("pull", "server-1:runs/*/x.pt", str(there))
        rl("pull", "server-1:checkpoints", str(there), "--exclude", "*.tmp")
        rl("pull", "server-1:runs/b/log", str(there))
        rl("pull", "runs/b/log", str(there), code=3)  # of several servers: a folder a server
        names = {str(path.relative_to(there)) for path in there.rglob("*") if not path.is_dir()}
        assert names == {"a/x.pt", "b/x.pt", "checkpoints/1.pt", "log", "server-1/log", "dotfile"}

    def test_job_rsync_brings_outputs_and_a_sync_leaves_them_alone(self, rl: Rl) -> None:
        write(rl, 1, "checkpoints/last.pt", "1")
        (rl.project / "old").mkdir()
        (rl.project / "old/sent.py").touch()
        rl("rsync")
        envelope = rl.json("job-rsync")
        assert [one["files"] for one in envelope["data"]["outputs"]] == [1, 0]
        assert here(rl, 1, "checkpoints/last.pt").read_text() == "1"
        assert rl.json("job-rsync", "--no-outputs")["data"]["outputs"] == []
        # What a sync once sent becomes outputs, and goes here: there it stays.
        config = rl.project / ".remote" / "configs.yaml"
        config.write_text(config.read_text().replace("- checkpoints/", "- checkpoints/\n- old/"))
        (rl.project / "checkpoints").mkdir()
        (rl.project / "checkpoints/mine.pt").touch()
        rl("rsync")
        work = rl.project.parent / "work" / "server-1"
        assert (work / "old/sent.py").exists()
        assert sorted(path.name for path in (work / "checkpoints").iterdir()) == ["last.pt"]

    @pytest.mark.parametrize("how", ["the server dies", "Ctrl-C"])
    def test_what_was_broken_off_goes_on_from_there(
        self, tmp_path: Path, slow: tuple[list[SshdServer], Path], how: str
    ) -> None:
        servers, sign = slow
        rl = make_project(tmp_path, servers)
        rl("rsync")
        big = write(rl, 1, "checkpoints/big.pt")
        block = os.urandom(1 << 20)
        with big.open("wb") as file:
            for number in range(BIG_MB):
                file.write(number.to_bytes(8, "big") + block[8:])
        process = subprocess.Popen(
            [rl_path(), "pull", "server-1:checkpoints"], cwd=rl.project,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        folder = here(rl, 1, "checkpoints")

        def coming() -> bool:
            return any(path.stat().st_size > 1 << 20 for path in folder.glob(".big.pt.*"))

        wait_for(lambda: coming() or process.poll() is not None, 60, "the file to come")
        assert process.poll() is None, process.communicate()
        if how == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            servers[0].kill()
        _, said = process.communicate(timeout=60)
        if how == "Ctrl-C":
            assert process.returncode == 130
            assert "goes on from there" in said
        else:
            assert process.returncode == 1
            servers[0].start()
        assert not (folder / "big.pt").exists(), "half a file is not taken for a whole one"
        aside = folder / ".rl-partial" / "big.pt"  # by a child of the rsync that rl waits for
        wait_for(lambda: aside.exists() and aside.stat().st_size, 60, f"half a file: {said}")
        sign.unlink()
        [pulled] = rl.json("pull", "server-1:checkpoints")["data"]
        assert (pulled["files"], pulled["size_bytes"]) == (1, BIG_MB << 20)
        assert pulled["literal_bytes"] < BIG_MB << 20
        assert (folder / "big.pt").read_bytes() == big.read_bytes()
        assert not (folder / ".rl-partial").exists()


LYING_PYTHON = """#!/bin/sh
# Answers what it likes where it is asked for files.
if [ "$4" = outputs ]; then cat >/dev/null; cat %s; else exec python3 "$@"; fi
"""
LYING_RSYNC = """#!/bin/sh
# Whatever it is to send, it sends another folder's content.
[ "$2" = --sender ] || exec %s "$@"
for word in "$@"; do
  shift
  [ "$word" = --safe-links ] || set -- "$@" "$word"
done
cd %s && exec %s "$@"
"""


class TestServersThatLie:
    @pytest.mark.parametrize("told", [
        {"kind": "matches", "base": "checkpoints", "names": ["../../evil.pt"]},
        {"kind": "matches", "base": "checkpoints", "names": ["authorized_keys"]},
        {"kind": "folder", "base": "/etc"},
        {"kind": "file", "base": "checkpoints/*.pt", "names": [".bashrc"]},
    ])  # fmt: skip
    def test_about_names(
        self, tmp_path: Path, servers: list[SshdServer], told: dict[str, Any]
    ) -> None:
        answer = tmp_path / "answer"
        answer.write_text(json.dumps({"workdir": "/", "found": [{"text": "x", "files": [], **told}]}))
        python = tmp_path / "python3"
        python.write_text(LYING_PYTHON % answer)
        python.chmod(0o755)
        rl = make_project(tmp_path, servers[:1], python=str(python))
        refused = rl("pull", "checkpoints/*.pt", str(tmp_path / "mine"), code=1)
        assert "makes no sense" in refused.stderr
        assert not (tmp_path / "mine").exists()

    def test_about_what_they_send(self, tmp_path: Path) -> None:
        evil, outside = tmp_path / "evil", tmp_path / "outside"
        for folder in (evil / "down", outside):
            folder.mkdir(parents=True)
        (evil / "out").symlink_to(outside)
        (evil / "down" / "up").symlink_to("../../../..")
        shell = shell_with_rsync(tmp_path, LYING_RSYNC % (own_rsync(), evil, own_rsync()))
        with sshd_servers(tmp_path / "sshd", 1, sshd_options=[f"ForceCommand {shell}"]) as servers:
            rl = make_project(tmp_path, servers)
            write(rl, 1, "checkpoints/last.pt")
            rl("pull", "checkpoints", code=None)
            (evil / "down" / "up").unlink()
            (evil / "out").unlink()
            (evil / "out").mkdir()  # were the link here now, this would be written through it
            (evil / "out" / "evil").touch()
            rl("pull", "checkpoints", code=None)
        links = [path for path in here(rl, 1).rglob("*") if path.is_symlink()]
        assert all(path.resolve().is_relative_to(here(rl, 1)) for path in links), links
        assert (here(rl, 1, "checkpoints/out/evil")).exists(), "it lied, and harmed nothing"
        assert not list(outside.iterdir())


class TestPushOutputs:
    def test_evens_out(self, rl: Rl) -> None:
        write(rl, 1, "checkpoints/last.pt", "epoch 5")
        write(rl, 1, "checkpoints/old/1.pt", "epoch 1")
        write(rl, 2, "checkpoints/mine.log", "mine")
        shown = rl("push-outputs")
        assert "server-2: 2 files" in shown.stdout
        work = rl.project.parent / "work" / "server-2" / "checkpoints"
        assert (work / "last.pt").read_text() == "epoch 5"
        assert (work / "mine.log").read_text() == "mine"
        assert "server-2 has all that server-1 has" in rl("push-outputs", "server-1").stderr

    def test_of_two_that_differ_none_is_chosen_by_itself(
        self, tmp_path: Path, servers: list[SshdServer]
    ) -> None:
        """The third lacks the file: no reason to take the newest one's, and to replace the other's by it."""
        rl = make_project(tmp_path, servers)
        config = rl.project / ".remote" / "configs.yaml"
        content = yaml.safe_load(config.read_text())
        third = {"connection": "local", "workdir": str(tmp_path / "work" / "server-3")}
        content["servers"]["server-3"] = third
        config.write_text(yaml.safe_dump(content))
        rl("rsync")
        older = write(rl, 1, "checkpoints/last.pt", "epoch 5", age_s=7200)
        write(rl, 2, "checkpoints/last.pt", "epoch 9")
        refused = rl("push-outputs", code=2).stderr
        assert "whose outputs? checkpoints/last.pt is on server-1 and server-2, not on server-3" in refused
        assert "the newest is server-2's" in refused
        assert older.read_text() == "epoch 5"
        rl("push-outputs", "server-2")
        assert older.read_text() == "epoch 9"

    def test_newer_files_are_replaced_only_on_request(self, rl: Rl) -> None:
        write(rl, 1, "checkpoints/last.pt", "epoch 5", age_s=7200)
        newer = write(rl, 2, "checkpoints/last.pt", "epoch 9")
        assert "the newest is server-2's" in rl("push-outputs", code=2).stderr
        rl("push-outputs", "server-1", code=2)
        assert newer.read_text() == "epoch 9"
        rl("push-outputs", "server-1", "--yes")
        assert newer.read_text() == "epoch 5"

    def test_what_each_node_writes_for_itself_stays(self, rl: Rl) -> None:
        config = rl.project / ".remote" / "configs.yaml"
        content = yaml.safe_load(config.read_text())
        content["outputs"].append({"path": "checkpoints/shards", "per_node": True})
        config.write_text(yaml.safe_dump(content))
        write(rl, 1, "checkpoints/last.pt", "epoch 5")
        write(rl, 1, "checkpoints/shards/rank0.pt")
        write(rl, 2, "checkpoints/shards/rank1.pt")
        assert "server-2: 1 file" in rl("push-outputs").stdout
        work = rl.project.parent / "work" / "server-2" / "checkpoints"
        assert sorted(path.name for path in work.rglob("*.pt")) == ["last.pt", "rank1.pt"]
        rl("pull")
        assert here(rl, 2, "checkpoints/shards/rank1.pt").exists()

    def test_a_link_to_another_disk_stays_one(self, rl: Rl, tmp_path: Path) -> None:
        write(rl, 1, "checkpoints/last.pt", "epoch 5")
        (tmp_path / "disk").mkdir()
        (rl.project.parent / "work" / "server-2" / "checkpoints").symlink_to(tmp_path / "disk")
        rl("push-outputs", "server-1")
        assert (tmp_path / "disk" / "last.pt").read_text() == "epoch 5"
        assert (rl.project.parent / "work" / "server-2" / "checkpoints").is_symlink()

    def test_nothing_is_written_or_removed_where_a_job_runs(self, rl: Rl) -> None:
        write(rl, 1, "checkpoints/last.pt")
        kept = write(rl, 2, "checkpoints/kept.pt")
        rl("job-run", "--server", "server-2", "--", "sleep", "600")
        try:
            assert "a job runs there" in rl("push-outputs", "server-1", code=1).stderr
            with Fleet.load(str(rl.project)) as fleet:
                found = measure_outputs(fleet, fleet.select())
                assert list(found.errors) == ["server-2"]
                assert isinstance(remove_outputs(fleet, fleet.select()).errors["server-2"], WorkspaceError)
            assert kept.exists()
        finally:
            rl("job-kill", "--yes", "--grace", "1")


def test_a_launch_notices_and_cleans(tmp_path: Path, servers: list[SshdServer]) -> None:
    environment = tmp_path / "env"
    torch = environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").touch()
    (environment / "bin").mkdir()
    (environment / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    rl = make_project(tmp_path, servers, python=str(environment / "bin" / "python3"))
    rl("rsync")
    command = ("torch-launch", "--no-check", "--dry-run")
    assert "outputs differ" not in rl(*command, "train.py").stderr
    write(rl, 1, "checkpoints/last.pt")
    noticed = rl(*command, "train.py").stderr
    assert "checkpoints/last.pt is on server-1 alone" in noticed
    assert "rl push-outputs server-1" in noticed
    assert "per_node: true" in noticed
    cleaned = rl(*command, "--clean-outputs", "train.py").stderr
    assert "outputs differ" not in cleaned
    assert "would remove outputs (checkpoints/): 1 file (1 B) on server-1" in cleaned
    rl("push-outputs")
    assert "outputs differ" not in rl(*command, "train.py").stderr
    with Fleet.load(str(rl.project)) as fleet:
        removed = remove_outputs(fleet, fleet.select())
    assert [amount.files for amount in removed.values.values()] == [1, 1]
    assert not (tmp_path / "work/server-2/checkpoints").exists()
    assert (tmp_path / "work/server-2/train.py").exists()


def test_servers_with_one_folder_are_pulled_from_once(tmp_path: Path, servers: list[SshdServer]) -> None:
    rl = make_project(tmp_path, servers, workdir=str(tmp_path / "work" / "server-1"))
    rl("rsync")
    write(rl, 1, "checkpoints/last.pt")
    data = rl.json("pull")["data"]
    assert [(one["files"], one["same_as"]) for one in data] == [(1, None), (0, "server-1")]
    assert "the same folder as server-1's" in rl("pull").stdout
    assert not here(rl, 2).exists()


def test_no_outputs_anywhere_is_no_error(rl: Rl) -> None:
    shown = rl("pull").stdout
    assert shown.count("none there") == 2
    assert "up to date" not in shown
    assert "server-2 has all that server-1 has" in rl("push-outputs").stderr
