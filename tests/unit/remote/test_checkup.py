"""What a server tells rl doctor."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from remote_launch.remote import checkup, machine, torchfiles, userlimits
from tests.support.served import Served, until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def make_torch(prefix: Path, version: str, cuda: str | None, nccl: str | None = None) -> Path:
    """Make an environment whose torch is its version file; return its interpreter."""
    packages = prefix / "lib/python3.11/site-packages"
    (packages / "torch").mkdir(parents=True)
    lines = [f"__version__ = '{version}'", f"cuda: Optional[str] = {cuda!r}", "hip: Optional[str] = None", ""]
    (packages / "torch/version.py").write_text("\n".join(lines))
    if nccl:
        (packages / f"nvidia_nccl_cu12-{nccl}.dist-info").mkdir()
    (prefix / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.2\n")
    (prefix / "bin").mkdir()
    python = prefix / "bin/python"
    python.symlink_to(sys.executable)
    return python


def test_one_answer_has_it_all(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PATIENCE_S", 60.0)  # what is late on a busy machine is told as that
    python = make_torch(tmp_path / "env", "2.13.0+cu126", "12.6", "2.27.3")
    began = time.time()
    told = checkup.checkup({"workdir": str(served.workdir), "python": str(python), "parts": []})
    assert began - 1 < told["began"] <= told["time"] < time.time() + 1
    assert told["late"] == []
    assert None not in (told["disk"], told["memory"], told["limits"], told["gpus"], told["plane"])
    assert told["torch"] == {"torch": "2.13.0+cu126", "cuda": "12.6", "hip": None, "nccl": "2.27.3"}
    assert told["environment"]["versions"]["python"] == "3.11.2"
    assert told["workdir"]["writable"] is True
    assert told["disk"]["free_bytes"] > 0
    assert "import" not in told


def test_a_workdir_that_is_not_there_is_no_fault(served: Served, tmp_path: Path) -> None:
    told = served.call("checkup", workdir=str(tmp_path / "not" / "yet"))
    assert told["workdir"]["exists"] is False
    assert told["workdir"]["writable"] is True
    assert told["disk"]["free_bytes"] > 0


def test_a_proxy_is_named_without_its_password(tmp_path: Path) -> None:
    server = Served(tmp_path / "w", {"http_proxy": "http://me:sesame@proxy", "HTTPS_PROXY": ""})
    told = server.call("checkup")
    assert "http_proxy" in told["proxies"]
    assert "HTTPS_PROXY" not in told["proxies"]
    assert "sesame" not in str(told)


def test_what_hangs_is_late_and_hides_nothing() -> None:
    release = threading.Event()
    questions = {"hangs": release.wait, "well": lambda: 1, "fails": lambda: 1 // 0}
    try:
        answers = checkup.ask_all(questions, 0.2, {"well": 60.0, "fails": 60.0})
    finally:
        release.set()
    assert answers == {"well": 1, "fails": None}


def test_what_may_take_longer_is_waited_for() -> None:
    release, waited = threading.Event(), threading.Event()

    def slow() -> bool:
        waited.set()
        return release.wait(60)

    timer = threading.Timer(0.5, release.set)
    timer.start()
    questions = {"slow": slow, "well": waited.wait}
    assert checkup.ask_all(questions, 0.0, {"slow": 60.0})["slow"] is True


def test_processes_of_an_ended_job_are_counted(served: Served) -> None:
    job = served.start("trap '' TERM; touch deaf; sleep 600")
    until((served.workdir / "deaf").exists, "it takes no TERM")
    assert served.call("checkup")["jobs"] == {"running": 1, "left_over": []}
    served.kill_supervisor(job, guardian=True)
    left = until(lambda: served.call("checkup")["jobs"]["left_over"], "the job's end")
    assert [(one["job_id"], one["state"]) for one in left] == [(job, "LOST")]
    assert left[0]["processes"] >= 1


def test_the_narrowest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pids.max").write_text("100\n")
    (tmp_path / "pids.current").write_text("97\n")
    monkeypatch.setattr(machine, "cgroup_folders", lambda: [str(tmp_path), "/no/such"])
    told = userlimits.limits()
    assert (told["threads"], told["threads_limit"]) == (97, 100)
    assert told["nofile"] is None or told["nofile"] > 0


class TestImport:
    def test_a_torch_that_breaks_says_its_last_line(self, tmp_path: Path) -> None:
        (tmp_path / "torch.py").write_text("raise ImportError('libcudnn.so.9: cannot open')")
        request = {"python": sys.executable, "env": {"PYTHONPATH": str(tmp_path)}}
        told = torchfiles.imported(request, str(tmp_path), 120)
        assert told == {"error": "ImportError: libcudnn.so.9: cannot open"}

    def test_one_that_takes_too_long_is_ended(self, tmp_path: Path) -> None:
        (tmp_path / "torch.py").write_text("import time; time.sleep(600)")
        request = {"python": sys.executable, "env": {"PYTHONPATH": str(tmp_path)}}
        assert "longer than" in torchfiles.imported(request, str(tmp_path), 0.5)["error"]

    def test_what_it_says_of_itself(self, tmp_path: Path) -> None:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch/__init__.py").write_text(
            "from types import SimpleNamespace as N\n__version__ = '9.9'\nversion = N(cuda=None, hip=None)\n"
            "cuda = N(device_count=lambda: 0)\n"
        )
        (tmp_path / "torch/distributed.py").write_text(
            "def is_available(): return True\nis_gloo_available = is_available\n"
            "def is_nccl_available(): return False\n"
        )
        request = {"python": sys.executable, "env": {"PYTHONPATH": str(tmp_path)}}
        told = torchfiles.imported(request, os.fspath(tmp_path), 120)
        assert (told["torch"], told["gloo"], told["nccl"], told["cards"]) == ("9.9", True, None, 0)
