"""What KILL was: the kernel short of memory, or a person. With the kernel's own kills where a memory cgroup
can be made here."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remote_launch.remote import machine, oom
from tests.support.served import PYTHON, Launch, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.served import Served

HOG = f"{sys.executable} -c 'held = [bytearray(8 << 20) for _ in range(64)]'"
LIMIT_BYTES = 96 << 20


class Kernel:
    """What the kernel counts and logs, in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cgroup: int | None = 0
        self.machine: int | None = 0
        self.limit: int | None = 2 << 30
        self.logged: set[int] = set()
        monkeypatch.setattr(oom, "cgroup_kills", lambda _: self.cgroup)
        monkeypatch.setattr(oom, "machine_kills", lambda: self.machine)
        monkeypatch.setattr(oom, "limit_bytes", lambda _: self.limit)
        monkeypatch.setattr(oom, "logged_kills", lambda _: self.logged)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def failed(**fields: object) -> dict[str, object]:
    failure = {"rank": 3, "exit_code": None, "signal": "KILL", "time": time.time(), "message": "as before"}
    return {**failure, **fields}


class TestExplain:
    def test_the_cgroups_count_is_certain_and_names_the_limit(self, kernel: Kernel) -> None:
        watch = oom.OomWatch()
        kernel.cgroup, kernel.machine = 1, 1
        told = oom.explain(failed(), watch)
        assert told["killed_by"] == "the kernel: out of memory (limit 2 GiB)"
        assert told["message"] == "rank 3 was killed by the kernel: out of memory (limit 2 GiB)"

    @pytest.mark.parametrize(
        ("after_s", "message"),
        [
            # It gives back very much memory, and the count is looked at meanwhile.
            pytest.param(6, "rank 3 was killed by the kernel: out of memory (limit 2 GiB)", id="slow-to-die"),
            pytest.param(60, "as before", id="another-job-s"),
        ],
    )
    def test_a_count_is_of_what_died_within_seconds(
        self, kernel: Kernel, after_s: float, message: str
    ) -> None:
        watch = oom.OomWatch()
        kernel.cgroup = kernel.machine = 1
        watch.tick(time.monotonic() + 10)
        assert oom.explain(failed(time=time.time() + after_s), watch)["message"] == message

    def test_the_machine_s_count_alone_is_probable(self, kernel: Kernel) -> None:
        watch = oom.OomWatch()
        kernel.machine = 1
        told = oom.explain(failed(rank=None), watch)
        assert told["message"].startswith("was killed by signal KILL, probably by the kernel")

    def test_the_kernel_s_log_names_the_pid(self, kernel: Kernel) -> None:
        kernel.limit = None
        watch = oom.OomWatch()
        kernel.logged = {77}
        assert oom.explain(failed(), watch, 77)["killed_by"] == "the kernel: out of memory"
        assert "killed_by" not in oom.explain(failed(), watch, 78)

    def test_where_nothing_is_counted_it_is_a_hint(self, kernel: Kernel) -> None:
        kernel.cgroup = kernel.machine = None
        watch = oom.OomWatch()
        assert oom.explain(failed(), watch)["killed_by"] == oom.UNKNOWN
        assert oom.explain(failed(signal=None, exit_code=137), watch)["message"] == "as before"

    @pytest.mark.parametrize("fields", [{"signal": "TERM"}, {"signal": None, "exit_code": 1}])
    def test_other_ends_are_no_matter_of_memory(self, kernel: Kernel, fields: dict[str, object]) -> None:
        watch = oom.OomWatch()
        kernel.cgroup = kernel.machine = 1
        assert oom.explain(failed(**fields), watch)["message"] == "as before"

    def test_a_shell_s_137_is_a_kill_too(self, kernel: Kernel) -> None:
        watch = oom.OomWatch()
        kernel.cgroup = kernel.machine = 1
        assert "out of memory" in oom.explain(failed(signal=None, exit_code=137), watch)["message"]


def test_counts_of_both_versions_of_cgroups(tmp_path: Path) -> None:
    for name, content in (
        ("memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content)
    assert oom.cgroup_kills([str(tmp_path / "none"), str(tmp_path / "memory.events")]) == 2
    assert oom.cgroup_kills([str(tmp_path / "memory.oom_control")]) == 5
    assert oom.cgroup_kills([str(tmp_path)]) is None


def test_limits_of_both_versions(tmp_path: Path) -> None:
    for name, file, content in (
        ("a", "memory.max", "max\n"), ("b", "memory.max", "1073741824\n"),
        ("c", "memory.limit_in_bytes", "9223372036854771712\n"), ("d", "memory.limit_in_bytes", "536870912"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(content)
    assert oom.limit_bytes([str(tmp_path / "a"), str(tmp_path / "c")]) is None
    assert oom.limit_bytes([str(tmp_path / name) for name in "abcd"]) == 512 << 20
    words = [oom.size_in_words(size) for size in (2 << 30, 3 << 29, 96 << 20)]
    assert words == ["2 GiB", "1.5 GiB", "96 MiB"]


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup with little memory. What the test leaves in it is ended."""
    own = [Path(folder) for folder in machine.cgroup_folders() if os.path.isdir(folder)]
    base = next((folder for folder in own if (folder / "memory.oom_control").exists()), None)
    if base is None or not os.access(base, os.W_OK):
        pytest.skip("no memory cgroup (version 1) can be made here")
    made = base / f"rl-test-{uuid.uuid4().hex[:8]}"
    # What the kernel ends for one test counts for the machine: one at a time, of all that run these tests.
    lock = os.open(base, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    made.mkdir()
    (made / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    with contextlib.suppress(OSError):
        (made / "memory.memsw.limit_in_bytes").write_text(str(LIMIT_BYTES))
    yield made
    for word in (made / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            os.kill(int(word), 9)
    until(lambda: not (made / "cgroup.procs").read_text().split(), "the cgroup is empty")
    made.rmdir()
    os.close(lock)


def start_in(cgroup: Path, served: Served, spec: dict[str, object]) -> None:
    script = 'echo $$ > "$1/cgroup.procs"; exec "$2" "$3" start'
    words = ["sh", "-c", script, "sh", str(cgroup), PYTHON, str(served.program)]
    request = json.dumps({"workdir": str(served.workdir), "spec": spec}).encode()
    done = subprocess.run(words, input=request, env=served.env, capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["state"] == "STARTED"


def test_the_kernel_s_kill_is_named_and_another_s_is_not(served: Served, small_cgroup: Path) -> None:
    hungry = served.spec(f"exec {HOG}")
    start_in(small_cgroup, served, hungry)
    end = served.wait(hungry["job_id"])
    assert (end["state"], end["signal"]) == ("FAILED", "KILL")
    assert end["reason"] == "was killed by the kernel: out of memory (limit 96 MiB)"
    assert end["cause"]["killed_by"] == "the kernel: out of memory (limit 96 MiB)"
    # The count stands at 1 now; a person's kill -9 is none of it.
    killed = served.spec("kill -9 $$")
    start_in(small_cgroup, served, killed)
    assert served.wait(killed["job_id"])["reason"] == "was killed by signal KILL"
    shell = served.spec(f"{HOG}; exit $?")
    start_in(small_cgroup, served, shell)
    assert "out of memory (limit 96 MiB)" in served.wait(shell["job_id"])["reason"]


def test_every_node_of_a_launch_is_told(nodes: list[Served], small_cgroup: Path) -> None:
    launch = Launch(nodes)
    answer = nodes[0].call("start", spec=launch.spec(0, "exec sleep 600"))
    assert answer["state"] == "STARTED"
    start_in(small_cgroup, nodes[1], launch.spec(1, f"exec {HOG}"))
    assert launch.wait(0)["reason"] == (
        "stopped: the command on s1 was killed by the kernel: out of memory (limit 96 MiB)"
    )
