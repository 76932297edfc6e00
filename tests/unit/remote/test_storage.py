"""What rl removes on a server, and what it never does."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import deletion, removal, storage
from remote_launch.remote.jobdir import Refusal
from remote_launch.remote.lease import Lease
from tests.support.served import Served
from tests.unit.remote.test_removal import LateSupervisor, ended

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALL = ["environment", "code", "jobs", "cache"]
PROJECT = {"project_id": "p1", "project": "mine"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path / "work", {"HOME": str(tmp_path / "home")})
    (tmp_path / "home").mkdir()
    server.call("workspace", op="check", create=True, **PROJECT)
    yield server
    server.end_all()


def write(path: Path, content: str = "content\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def make_environment(prefix: Path, *, own: bool = True) -> Path:
    """Lay out what rl makes, by its names."""
    for name in (".rl-environment", ".rl-packages", *([".rl-env"] if own else [])):
        write(prefix / name, '{"fingerprint": "f"}')
    write(prefix / "lib" / "python3.11" / "site-packages" / "six-1.dist-info" / "METADATA")
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").symlink_to("/usr/bin/python3")
    return prefix


def ask(
    served: Served, op: str, *kinds: str, prefix: Path | None = None, **request: Any
) -> dict[str, Any]:
    folder = str(prefix or served.workdir / ".rl" / "env")
    return served.call(
        "storage",
        **{
            "op": op, "kinds": list(kinds), "prefix": folder, "python": f"{folder}/bin/python",
            "lock": f"{folder}.rl-lock", "marks": [f"{folder}/.rl-packages", f"{folder}/.rl-environment"],
            "archive": served.program.name, "who": "me@laptop", "server": "s0", **PROJECT, **request,
        },
    )


def kept(answer: dict[str, Any]) -> dict[str, str]:
    return {item["kind"]: item["why"] for item in answer["kept"]}


def sync(served: Served, *names: str) -> None:
    served.call("workspace", op="begin", files=list(names), digest="d", **PROJECT)
    for name in names:
        write(served.workdir / name)
    served.call("workspace", op="commit", digest="d", **PROJECT)


class TestEnvironment:
    def test_it_goes_with_all_that_is_in_it_but_nothing_that_it_leads_to(
        self, served: Served, tmp_path: Path
    ) -> None:
        prefix = make_environment(served.workdir / ".rl" / "env")
        data = write(tmp_path / "datasets" / "imagenet")
        (prefix / "data").symlink_to(data.parent)
        (prefix / "closed").mkdir(mode=0o500)
        answer = ask(served, "remove", "environment")
        assert not prefix.exists()
        assert data.exists()
        assert answer["amounts"]["environment"]["files"] == 4
        assert kept(answer) == {}
        assert not os.path.lexists(f"{prefix}.rl-lock")
        assert ask(served, "remove", "environment")["amounts"]["environment"]["files"] == 0  # said twice

    def test_one_that_the_inventory_no_longer_names_goes_too(self, served: Served, tmp_path: Path) -> None:
        former = make_environment(served.workdir / ".rl" / "env")
        link = served.workdir / ".rl" / "link"
        link.symlink_to(real := make_environment(tmp_path / "real"))
        prefix = served.workdir / ".rl" / "mine_env"
        looked = ask(served, "look", "environment", prefix=prefix)
        assert looked["environment"] == "there"
        assert looked["amounts"]["environment"]["files"] == 5
        ask(served, "remove", "environment", prefix=prefix)
        assert not former.exists()
        assert (real / "lib").exists()
        left = sorted(path.name for path in former.parent.iterdir())
        assert left == ["bin", "home.json", "link", "workspace.json"]

    def test_a_folder_of_the_users_stays(self, served: Served, tmp_path: Path) -> None:
        prefix = make_environment(tmp_path / "venvs" / "mine", own=False)
        answer = ask(served, "remove", "environment", prefix=prefix)
        assert "was not made by rl" in kept(answer)["environment"]
        assert (prefix / "lib").exists()
        assert ask(served, "look", "environment", prefix=prefix)["environment"] == "foreign"

    def test_one_of_rls_own_elsewhere_goes(self, served: Served, tmp_path: Path) -> None:
        prefix = make_environment(tmp_path / "venvs" / "mine")
        assert kept(ask(served, "remove", "environment", prefix=prefix)) == {}
        assert not prefix.exists()

    def test_a_link_in_its_place_stays_with_what_it_leads_to(self, served: Served, tmp_path: Path) -> None:
        real = make_environment(tmp_path / "real")
        link = served.workdir / ".rl" / "env"
        link.symlink_to(real)
        assert "symbolic link" in kept(ask(served, "remove", "environment"))["environment"]
        assert (real / "lib").exists()

    def test_a_link_on_the_way_to_it_is_not_followed(self, served: Served, tmp_path: Path) -> None:
        real = make_environment(tmp_path / "elsewhere" / "env")
        (served.workdir / ".rl" / "deep").symlink_to(real.parent)
        answer = ask(served, "remove", "environment", prefix=served.workdir / ".rl" / "deep" / "env")
        assert "behind a symbolic link" in kept(answer)["environment"]
        assert (real / "lib").exists()

    @pytest.mark.parametrize("place", ["home", ".", "work", "work/.rl", "/"])
    def test_a_folder_that_holds_more_stays_whatever_is_in_it(
        self, served: Served, tmp_path: Path, place: str
    ) -> None:
        prefix = tmp_path / place
        if place != "/":
            write(prefix / ".rl-env")
        answer = ask(served, "remove", "environment", prefix=prefix)
        assert "holds more" in kept(answer)["environment"]
        assert served.program.exists()

    def test_it_stays_while_a_job_runs(self, served: Served) -> None:
        prefix = make_environment(served.workdir / ".rl" / "env")
        sync(served, "train.py")
        write(old := served.workdir / ".rl" / "bin" / "rl-0123456789abcdef.pyz")
        job = served.start("exec sleep 600")
        answer = ask(served, "remove", *ALL)
        assert kept(answer) == dict.fromkeys(("environment", "code"), "1 job still runs")
        assert prefix.exists()
        assert old.exists()  # its supervisor may still need it
        assert (served.workdir / "train.py").exists()
        assert served.probe(job)["state"] == "RUNNING"

    def test_it_stays_while_somebody_prepares_it(self, served: Served) -> None:
        prefix = make_environment(served.workdir / ".rl" / "env")
        with Lease(f"{prefix}.rl-lock", "ann@lab"):
            answer = ask(served, "remove", "environment")
        assert "ann@lab is preparing it" in answer["error"]["message"]
        assert (prefix / ".rl-environment").exists()

    def test_what_says_that_it_is_done_goes_first_and_what_says_whose_it_is_last(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from remote_launch.remote import owned

        prefix = make_environment(tmp_path / "work" / ".rl" / "env")
        gone: list[str] = []
        unlink = os.unlink

        def note(path: str, **options: Any) -> None:
            gone.append(os.path.basename(path))
            unlink(path, **options)

        monkeypatch.setattr(os, "unlink", note)
        marks = [str(prefix / ".rl-packages"), str(prefix / ".rl-environment")]
        owned.Prefix(str(tmp_path / "work"), str(prefix), marks).remove(deletion.Amount())
        assert gone[:2] == [".rl-packages", ".rl-environment"]
        assert gone[-1] == ".rl-env"

    def test_of_an_interpreter_that_was_there_only_the_notes_go(self, served: Served, tmp_path: Path) -> None:
        python = write(tmp_path / "conda" / "bin" / "python")
        own = served.workdir / ".rl"
        write(own / ".rl-packages", "{}")
        marks = [str(own / ".rl-packages"), str(own / ".rl-environment"), str(python)]
        recipe = {"prefix": None, "python": str(python), "marks": marks}
        served.call("storage", op="remove", kinds=["environment"], **recipe, **PROJECT)
        assert python.exists()
        assert not (own / ".rl-packages").exists()

    def test_a_file_that_cannot_be_removed_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prefix = make_environment(tmp_path / "env")
        rmdir = os.rmdir

        def refuse(path: str, **options: Any) -> None:
            if path == "bin":
                raise PermissionError(13, "Permission denied", path)
            rmdir(path, **options)

        monkeypatch.setattr(os, "rmdir", refuse)
        folder = deletion.open_folder(str(tmp_path))
        assert folder is not None
        with pytest.raises(PermissionError) as caught:
            deletion.remove_folder(folder, "env", deletion.Amount(), (".rl-env",))
        os.close(folder)
        assert caught.value.filename == "env/bin"
        assert (prefix / ".rl-env").exists()


class TestCode:
    def test_what_was_sent_goes_and_nothing_else(self, served: Served, tmp_path: Path) -> None:
        outside = write(tmp_path / "outside" / "train.py")
        sync(served, "train.py", "src/model.py", "data/train.py")
        made = write(served.workdir / "src" / "checkpoint.pt")
        (served.workdir / "data" / "train.py").unlink()
        (served.workdir / "data").rmdir()
        (served.workdir / "data").symlink_to(outside.parent)
        answer = ask(served, "remove", "code")
        assert answer["amounts"]["code"]["files"] == 2
        assert sorted(path.name for path in served.workdir.iterdir()) == [".rl", "data", "src"]
        assert made.exists()
        assert outside.exists()
        assert not (served.workdir / ".rl" / "manifest.json").exists()

    def test_a_manifest_that_was_tampered_with_reaches_nothing_outside(
        self, served: Served, tmp_path: Path
    ) -> None:
        outside = write(tmp_path / "thesis.tex")
        files = ["../thesis.tex", str(outside), ".rl/workspace.json", ".jobs/x", "a/../../thesis.tex"]
        write(served.workdir / ".rl" / "manifest.json", json.dumps({"digest": "d", "files": files}))
        assert ask(served, "remove", "code")["amounts"]["code"]["files"] == 0
        assert outside.exists()
        assert (served.workdir / ".rl" / "workspace.json").exists()


class TestJobs:
    def test_ended_ones_go_and_running_ones_stay(self, served: Served) -> None:
        over, running = served.start("exit 3"), served.start("exec sleep 600")
        served.wait(over)
        looked = ask(served, "look", "jobs")
        assert (looked["ended_jobs"], len(looked["running"])) == (1, 1)
        assert looked["amounts"]["jobs"]["size_bytes"] > 0
        assert kept(ask(served, "remove", "jobs")) == {}
        assert not served.folder(over).exists()
        assert served.probe(running)["state"] == "RUNNING"

    def clean(self, served: Served, monkeypatch: pytest.MonkeyPatch, clock: LateSupervisor) -> Any:
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stays
        monkeypatch.setattr(removal, "time", clock)
        monkeypatch.setattr(storage, "time", clock)
        return storage.storage({"workdir": str(served.workdir), "op": "remove", "kinds": ["jobs"], **PROJECT})

    def test_a_supervisor_that_takes_seconds_to_go_is_waited_for(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = ended(served)
        answer = self.clean(served, monkeypatch, LateSupervisor(served, job, 8.0))
        assert kept(answer) == {}
        assert not served.folder(job).exists()

    def test_a_job_whose_supervisor_stays_is_said(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job, other = ended(served), ended(served)
        clock = LateSupervisor(served, job, 1e9)
        answer = self.clean(served, monkeypatch, clock)
        assert kept(answer) == {"jobs": "of 1 ended job the supervisor is still there"}
        assert served.folder(job).exists()
        assert not served.folder(other).exists()
        clock.sleep(1e9)

    def test_how_it_ended_is_known_until_the_last_file(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = ended(served, "exit 0")
        gone: list[str] = []
        unlink = os.unlink
        monkeypatch.setattr(
            os, "unlink", lambda path, **options: (gone.append(str(path)), unlink(path, **options))
        )
        from remote_launch.remote.storage import _JOB_LAST

        folder = deletion.open_folder(str(served.workdir), ".jobs")
        assert folder is not None
        deletion.remove_folder(folder, job, deletion.Amount(), _JOB_LAST)
        os.close(folder)
        assert gone.index("job.out") < gone.index("exit.json")

    def test_what_is_no_job_stays(self, served: Served) -> None:
        other = write(served.workdir / ".jobs" / "notes" / "thesis.tex")
        ask(served, "remove", "jobs")
        assert other.exists()


class TestCache:
    def test_caches_and_older_programs_go(self, served: Served, tmp_path: Path) -> None:
        own = served.workdir / ".rl"
        old = [
            write(own / "cache" / "uv" / "wheel"),
            write(own / "wheelhouse" / "x.whl"),
            write(own / "bin" / "rl-0123456789abcdef.pyz"),
            write(own / "bin" / "rl-0123456789abcdef" / "rl_remote" / "verbs.py"),
            write(own / "bin" / "uv"),
        ]
        fetched = write(tmp_path / "home" / ".rl" / "downloads" / "old.sh")
        at_it = write(tmp_path / "home" / ".rl" / "downloads" / "new.sh.part")
        os.utime(fetched, (time.time() - 86400,) * 2)
        conda = write(tmp_path / "home" / ".rl" / "miniforge3" / "bin" / "conda")
        ask(served, "remove", "cache")
        assert not [path for path in (*old, fetched) if path.exists()]
        assert [path for path in (served.program, at_it, conda) if not path.exists()] == []

    def test_a_cache_that_was_led_to_another_disk_stays(self, served: Served, tmp_path: Path) -> None:
        real = write(tmp_path / "scratch" / "uv" / "wheel")
        (served.workdir / ".rl" / "cache").symlink_to(tmp_path / "scratch")
        ask(served, "remove", "cache")
        assert real.exists()
        assert (served.workdir / ".rl" / "cache").is_symlink()

    def test_what_a_cache_links_is_counted_once_and_said(self, served: Served) -> None:
        own = served.workdir / ".rl"
        wheel = write(own / "cache" / "six.py", "x" * 8192)
        prefix = make_environment(own / "env")
        os.link(wheel, prefix / "lib" / "six.py")
        os.link(wheel, prefix / "lib" / "again.py")
        amounts = ask(served, "look", *ALL)["amounts"]
        assert amounts["environment"]["linked_bytes"] == os.stat(wheel).st_blocks * 512
        assert amounts["environment"]["size_bytes"] - amounts["environment"]["linked_bytes"] < 8192 * 4


class TestAFullDisk:
    """There is no room for the lock either until something goes."""

    def remove(self, served: Served, monkeypatch: pytest.MonkeyPatch, filling: Path, *kinds: str) -> Any:
        write_at = os.pwrite

        def pwrite(fd: int, content: bytes, offset: int) -> int:
            if filling.exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write_at(fd, content, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own stays
        monkeypatch.setenv("HOME", served.env["HOME"])
        folder = f"{served.workdir}/.rl/env"
        return storage.storage({
            "workdir": str(served.workdir), "jobs_folder": ".jobs", "op": "remove", "kinds": list(kinds),
            "prefix": folder, "lock": f"{folder}.rl-lock", "archive": served.program.name, "who": "me@laptop",
            "marks": [f"{folder}/.rl-packages", f"{folder}/.rl-environment"], **PROJECT,
        })

    @pytest.mark.parametrize("kinds", [ALL, ["environment"], ["cache"]])
    def test_what_fills_it_goes(
        self, served: Served, monkeypatch: pytest.MonkeyPatch, kinds: list[str]
    ) -> None:
        prefix = make_environment(served.workdir / ".rl" / "env")
        cached = write(served.workdir / ".rl" / "cache" / "pip" / "wheel")
        filling = cached if "cache" in kinds else prefix
        answer = self.remove(served, monkeypatch, filling, *kinds)
        assert kept(answer) == {}
        assert all(answer["amounts"][kind]["files"] for kind in kinds if kind in ("environment", "cache"))
        assert (prefix.exists(), cached.exists()) == ("environment" not in kinds, "cache" not in kinds)

    def test_one_that_stays_full_is_said(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        make_environment(served.workdir / ".rl" / "env")
        with pytest.raises(OSError, match="No space left"):
            self.remove(served, monkeypatch, served.workdir, "cache")

    def test_nothing_goes_while_somebody_prepares_it(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prefix = make_environment(served.workdir / ".rl" / "env")
        with Lease(f"{prefix}.rl-lock", "ann@laptop"), pytest.raises(Refusal, match="ann@laptop"):
            self.remove(served, monkeypatch, served.workdir, "environment")
        assert (prefix / ".rl-environment").exists()


class TestAll:
    def test_leaves_nothing_of_rls(self, served: Served) -> None:
        make_environment(served.workdir / ".rl" / "env")
        sync(served, "train.py")
        served.wait(served.start("exit 0"))
        assert kept(ask(served, "remove", *ALL)) == {}
        assert not served.workdir.exists()

    def test_leaves_what_jobs_have_written(self, served: Served) -> None:
        made = write(served.workdir / "checkpoint.pt")
        ask(served, "remove", *ALL)
        assert [path.name for path in served.workdir.iterdir()] == [made.name]

    def test_another_projects_folder_stays(self, served: Served) -> None:
        make_environment(served.workdir / ".rl" / "env")
        for op in ("look", "remove"):
            answer = ask(served, op, *ALL, project_id="p2", project="theirs")
            assert "belongs to project mine" in answer["error"]["message"]
        assert (served.workdir / ".rl" / "env").exists()

    def test_where_there_is_nothing_nothing_is_made(self, served: Served, tmp_path: Path) -> None:
        place = tmp_path / "new"
        answer = ask(served, "remove", *ALL, workdir=str(place), prefix=place / ".rl" / "env")
        assert answer["kept"] == []
        assert not place.exists()

    @pytest.mark.parametrize("kinds", ["all", ["home"], None, [["x"]]])
    def test_a_kind_that_there_is_not_is_refused(self, served: Served, kinds: Any) -> None:
        assert ask(served, "remove", kinds=kinds)["error"]["type"] == "RequestError"


class TestDescribe:
    def test_what_an_environment_is(self, served: Served) -> None:
        prefix = served.workdir / ".rl" / "env"
        parts = [
            {"mark": str(prefix / name), "fingerprint": "f"} for name in (".rl-environment", ".rl-packages")
        ]

        def describe(**request: Any) -> dict[str, Any]:
            python = str(prefix / "bin" / "python")
            asked = {"op": "describe", "prefix": str(prefix), "python": python, "parts": parts}
            return served.call("storage", **asked, **request)

        assert (describe()["state"], describe()["parts"]) == ("absent", ["absent", "absent"])
        make_environment(prefix)
        found = describe(sizes=True)
        assert (found["state"], found["parts"]) == ("there", ["platform", "platform"])
        assert found["packages"] == 1
        assert found["size"]["files"] == 5
        mark = {"fingerprint": "f", "platform": f"{os.uname().sysname} {os.uname().machine}", "made_at": 5.0}
        write(prefix / ".rl-environment", json.dumps(mark))
        write(prefix / ".rl-packages", json.dumps({**mark, "fingerprint": "older"}))
        assert describe()["parts"] == ["done", "changed"]
        assert describe()["made_at"] == 5.0
        write(prefix / ".rl-packages", "rubbish")
        assert describe()["parts"] == ["done", "absent"]


def test_all_of_it_is_no_other_prepares_lock(served: Served) -> None:
    """Another one may be at an environment of another name in this very folder."""
    make_environment(served.workdir / ".rl" / "env")
    other = served.workdir / ".rl" / "other_env.rl-lock"
    with Lease(str(other), "ann@laptop") as lease:
        answer = ask(served, "remove", *ALL)
        assert lease.held
        assert (served.workdir / ".rl" / "workspace.json").exists()
    assert kept(answer) == {}
    assert not (served.workdir / ".rl" / "env").exists()
    ask(served, "remove", *ALL)
    assert not served.workdir.exists()
