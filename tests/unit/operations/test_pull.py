"""What is pulled from where to where, before any server is asked, and what is done with what came."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING

import click
import pytest

from remote_launch.cli.pull import pull as pull_command
from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.project import Project
from remote_launch.errors import SyncError, UsageError
from remote_launch.operations import pull as module
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.pull import PullPlan, check_space, parse_place, plan_pull, remove_links_out

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    project = Project(root=tmp_path)
    servers = {name: Server(name=name, workdir="~/w") for name in ("gpu-a", "gpu-b")}
    return Fleet(
        project, Inventory(name="p", servers=servers, sync=Sync(), path=project.config, project=project)
    )


@pytest.mark.parametrize(("text", "expected"), [
    ("gpu-a:checkpoints/", ("gpu-a", "checkpoints/")),
    ("gpu-a:/scratch/a:b", ("gpu-a", "/scratch/a:b")),
    ("gpu-a:", ("gpu-a", "")),
    ("checkpoints", (None, "checkpoints")),
    ("./a:b", (None, "./a:b")),
    ("/scratch/a:b", (None, "/scratch/a:b")),
    ("~/a:b", (None, "~/a:b")),
])
def test_a_place_names_a_server_or_none(fleet: Fleet, text: str, expected: tuple[str | None, str]) -> None:
    assert parse_place(fleet, text) == expected


def test_a_server_that_there_is_not(fleet: Fleet) -> None:
    with pytest.raises(UsageError, match="did you mean 'gpu-a'"):
        parse_place(fleet, "gpuu-a:x")


def test_what_does_not_go_onto_the_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - shutil's own is one
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(10**12, 0, 5_000_000_000))

    def plan(server: str, size_bytes: int) -> PullPlan:
        return PullPlan(
            server=server, local=tmp_path / "new" / server, pieces=(), found=(), size_bytes=size_bytes
        )

    check_space([plan("a", 2_000_000_000), plan("b", 3_000_000_000)])
    with pytest.raises(SyncError, match=r"6.0 GB are to come, and .* has 5.0 GB free"):
        check_space([plan("a", 3_000_000_000), plan("b", 3_000_000_000)])


def test_a_file_is_no_folder_to_pull_into(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a folder"):
        plan_pull(fleet, fleet.select(), [], local=tmp_path / "file")


def test_links_that_came_and_lead_out_go_again(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    (folder / "file").touch()
    for name, target in (
        ("in", "file"), ("deep/in", "../file"), ("out", "/etc/hostname"), ("deep/out", "../../x"),
        ("users", "/etc"),
    ):
        (folder / name).symlink_to(target)
    came = ["in", "deep/in", "out", "deep/out", "file", "gone"]
    assert remove_links_out(folder, came) == ["out", "deep/out"]
    assert sorted(path.name for path in folder.rglob("*")) == ["deep", "file", "in", "in", "users"]


def test_the_shell_completes_servers(tmp_path: Path) -> None:
    (tmp_path / ".remote").mkdir()
    (tmp_path / ".remote/configs.yaml").write_text("servers: {gpu-a: h, gpu-b: i, other: j}\n")
    ctx = click.Context(pull_command, resilient_parsing=True, obj={"project": str(tmp_path)})
    words = [item.value for item in pull_command.params[0].shell_complete(ctx, "gpu")]
    assert words == ["gpu-a:", "gpu-b:"]
