"""Who holds a lease, when it passes to another, and what is left alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote.lease import STALE_AFTER_S, Lease
from remote_launch.remote.lockfile import look, remove
from remote_launch.remote.owner import this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HERE = this_machine()
ELSEWHERE = {"hostname": "elsewhere", "boot_id": "b", "machine_id": "m", "pid_namespace": "pid:[1]"}
DEADLINE_S = 120
NEVER_S = 3600.0

# Takes the lease some times; inside, it must be alone, and counts.
CONTENDER = """
import os, sys
from remote_launch.remote.lease import Lease
folder, times = sys.argv[1], int(sys.argv[2])
for _ in range(times):
    lease = Lease(folder + "/lock", "me", stale_after_s=0.3)
    lease.acquire(lambda holder: None, poll_s=0.002)
    with lease:
        os.close(os.open(folder + "/inside", os.O_CREAT | os.O_EXCL))
        with open(folder + "/count") as file:
            count = int(file.read())
        with open(folder + "/count", "w") as file:
            file.write(str(count + 1))
        os.unlink(folder + "/inside")
        assert lease.held
"""
# Holds the lease, and answers each line with whether it still does; releases it at the end.
OWNER = """
import json, sys
from remote_launch.remote.lease import Lease
with Lease(sys.argv[1], "owner", renew_every_s=0.02, machine=json.loads(sys.argv[2])) as lease:
    print("held", flush=True)
    for line in sys.stdin:
        print(lease.held, flush=True)
"""


class Ticking:
    """A clock that goes on by 10 s with every look at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def stopped_clock() -> float:
    return 0.0


def silent(holder: dict[str, Any]) -> None:
    pass


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def begin(program: str, *arguments: str) -> subprocess.Popen[str]:
        running.append(subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        ))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "lock"


def owner_on(start: Callable[..., Any], lock: Path, machine: dict[str, str]) -> subprocess.Popen[str]:
    process: subprocess.Popen[str] = start(OWNER, str(lock), json.dumps(machine))
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def frozen(lock: Path, machine: dict[str, str] = ELSEWHERE, pid: int = 1, ticks: int = -1) -> None:
    """A lock whose owner is no more."""
    lock.parent.mkdir(exist_ok=True)
    claims = {"who": "gone", "pid": pid, "ticks": ticks, "since": 5, "token": "t", **machine}
    lock.write_text(json.dumps(claims))


@pytest.mark.parametrize("state", ["free", "of a dead process", "of another machine"])
def test_contenders_never_overlap(tmp_path: Path, start: Callable[..., Any], state: str) -> None:
    (tmp_path / "count").write_text("0")
    if state != "free":
        frozen(tmp_path / "lock", HERE if state == "of a dead process" else ELSEWHERE)
    count, times = (2, 20) if state == "free" else (8, 3)
    contenders = [start(CONTENDER, str(tmp_path), str(times)) for _ in range(count)]
    assert [process.wait(DEADLINE_S) for process in contenders] == [0] * count
    assert (tmp_path / "count").read_text() == str(count * times)
    assert left_in(tmp_path) == ["count"]


def test_a_killed_owner_frees_the_lease_at_once(lock: Path, start: Callable[..., Any]) -> None:
    owner = owner_on(start, lock, HERE)
    owner.kill()  # not reaped yet: a zombie is no owner
    lease = Lease(str(lock), "me", clock=stopped_clock)
    lease.acquire(silent, poll_s=0.01)
    assert lease.held
    lease.release()
    assert left_in(lock.parent) == []


def test_a_stopped_owner_of_this_machine_keeps_it(lock: Path, start: Callable[..., Any]) -> None:
    owner = owner_on(start, lock, HERE)
    owner.send_signal(signal.SIGSTOP)
    told: list[dict[str, Any]] = []

    def tell(holder: dict[str, Any]) -> None:
        told.append(holder)
        if len(told) == 20:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        Lease(str(lock), "me", clock=Ticking()).acquire(tell, poll_s=0.0)
    assert told[0]["pid"] == owner.pid
    owner.send_signal(signal.SIGCONT)
    assert owner.communicate("?\n", DEADLINE_S)[0] == "True\n"
    assert not lock.exists()


def test_another_machines_lease_is_broken_when_nothing_changes_for_long(lock: Path) -> None:
    former = Lease(str(lock), "one\x1b[31m", machine=ELSEWHERE, renew_every_s=NEVER_S)
    former.acquire(silent)
    clock, told = Ticking(), []
    lease = Lease(str(lock), "two", clock=clock)
    lease.acquire(told.append, poll_s=0.0)
    assert STALE_AFTER_S <= clock.now <= STALE_AFTER_S + 30
    assert told[0] == {
        "who": "one?[31m", "host": "elsewhere", "pid": os.getpid(),
        "since": pytest.approx(time.time(), abs=60),
    }
    assert len(told) == 6
    assert lease.held
    assert not former.held
    former.release()
    assert lease.held
    lease.release()
    assert left_in(lock.parent) == []


def test_an_owner_that_renews_is_never_broken(lock: Path) -> None:
    owner = Lease(str(lock), "one", machine=ELSEWHERE, renew_every_s=NEVER_S)
    owner.acquire(silent)
    clock = Ticking()

    def renew(holder: dict[str, Any]) -> None:
        assert owner.renew()
        if clock.now > 20 * STALE_AFTER_S:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        Lease(str(lock), "two", clock=clock).acquire(renew, poll_s=0.0)
    assert owner.held
    owner.release()


def test_a_thread_renews(lock: Path) -> None:
    with Lease(str(lock), "one", renew_every_s=0.01):
        first, deadline = lock.read_text(), time.monotonic() + DEADLINE_S
        while lock.read_text() == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(lock.read_text()) == len(first)


def test_an_owner_that_was_stopped_for_long_notices_its_loss(lock: Path, start: Callable[..., Any]) -> None:
    owner = owner_on(start, lock, ELSEWHERE)
    owner.send_signal(signal.SIGSTOP)
    lease = Lease(str(lock), "me", stale_after_s=0.2)
    lease.acquire(silent, poll_s=0.02)
    owner.send_signal(signal.SIGCONT)
    assert owner.communicate("?\n", DEADLINE_S)[0] == "False\n"
    assert owner.returncode == 0
    assert lease.held
    lease.release()


def test_a_reboot_frees_the_lease_at_once(lock: Path) -> None:
    here = {**HERE, "machine_id": "m1"}
    frozen(lock, {**here, "boot_id": "earlier"})
    Lease(str(lock), "me", machine=here, clock=stopped_clock).acquire(silent)
    assert json.loads(lock.read_text())["who"] == "me"


@pytest.mark.parametrize("other", [
    {"boot_id": "earlier", "machine_id": "m2"}, {"pid_namespace": "pid:[2]"},
    {"hostname": "elsewhere"}, {"boot_id": ""},
])
def test_what_may_be_another_machine_is_given_its_time(lock: Path, other: dict[str, str]) -> None:
    here = {**HERE, "machine_id": "m1"}
    frozen(lock, {**here, **other})
    clock = Ticking()
    Lease(str(lock), "me", machine=here, clock=clock).acquire(silent, poll_s=0.0)
    assert clock.now >= STALE_AFTER_S


@pytest.mark.parametrize("kind", ["empty", "binary", "large", "list", "deep", "odd", "link", "pipe"])
def test_rubbish_is_broken_when_nothing_changes_for_long(tmp_path: Path, kind: str) -> None:
    lock, target = tmp_path / "lock", tmp_path / "target"
    target.write_text("precious")
    odd = {"who": 5, "hostname": [], "since": "x", "pid": -4, "ticks": None, "boot_id": {}, "token": None}
    contents = {
        "empty": b"", "binary": os.urandom(100), "large": b"[" * (1 << 20), "list": b"[1]",
        "deep": b"[" * 4000, "odd": json.dumps(odd).encode(),
    }
    if kind == "link":
        lock.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.write_bytes(contents[kind])
    clock, told = Ticking(), []
    lease = Lease(str(lock), "me", clock=clock)
    lease.acquire(told.append, poll_s=0.0)
    assert clock.now >= STALE_AFTER_S
    assert told[0] == {"who": None, "host": None, "since": None, "pid": None}
    lease.release()
    assert left_in(tmp_path) == ["target"]
    assert target.read_text() == "precious"


def test_a_folder_in_its_place_is_an_error(lock: Path) -> None:
    lock.mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught:
        Lease(str(lock), "me").acquire(silent)
    assert caught.value.filename == str(lock)


def test_a_place_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(OSError) as caught:  # not even by root
        Lease("/sys/kernel/lock", "me").acquire(silent)
    assert caught.value.filename == "/sys/kernel/lock"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_is_an_error_and_leaves_nothing(
    lock: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError) as caught:
        Lease(str(lock), "me").acquire(silent)
    assert (caught.value.errno, caught.value.filename) == (number, str(lock))
    assert left_in(lock.parent) == []


def test_a_full_disk_does_not_end_a_lease(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(str(lock), "me", renew_every_s=NEVER_S)
    lease.acquire(silent)
    os.utime(lock, (1, 1))
    before = look(str(lock))

    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space")

    monkeypatch.setattr(os, "pwrite", fail)
    assert lease.renew()
    after = look(str(lock))
    assert before is not None
    assert after is not None
    assert after.state != before.state
    lease.release()
    assert not lock.exists()


def test_an_interrupted_wait_leaves_nothing(lock: Path) -> None:
    def interrupt(holder: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with Lease(str(lock), "one") as owner:
        with pytest.raises(KeyboardInterrupt):
            Lease(str(lock), "two").acquire(interrupt)
        assert left_in(lock.parent) == ["lock"]
        assert owner.held
    assert left_in(lock.parent) == []


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_take_leaves_nothing(
    lock: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    link = os.link

    def interrupted(*names: Any, **options: Any) -> None:
        if after:
            link(*names, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Lease(str(lock), "two").acquire(silent)
    assert left_in(lock.parent) == []


def test_a_lost_answer_of_the_file_server_is_seen_through(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def answer_lost(*names: Any, **options: Any) -> None:
        link(*names, **options)
        raise FileExistsError(errno.EEXIST, "asked again")

    monkeypatch.setattr(os, "link", answer_lost)
    with Lease(str(lock), "me", clock=stopped_clock) as lease:
        assert lease.held


def test_a_filesystem_without_links(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    frozen(lock)
    owner, follower = Lease(str(lock), "one", clock=Ticking()), Lease(str(lock), "two")
    owner.acquire(silent, poll_s=0.0)
    assert owner.renew()
    told: list[dict[str, Any]] = []

    def tell(holder: dict[str, Any]) -> None:
        told.append(holder)
        owner.release()

    follower.acquire(tell, poll_s=0.0)
    assert told[0]["who"] == "one"
    stale = look(str(lock))
    assert follower.renew()
    assert stale is not None
    remove(str(lock), stale)
    assert follower.held
    follower.release()
    assert left_in(lock.parent) == []


def test_a_lock_that_changed_meanwhile_is_put_back(lock: Path) -> None:
    with Lease(str(lock), "one") as lease:
        stale, inode = look(str(lock)), lock.stat().st_ino
        assert stale is not None
        assert lease.renew()
        remove(str(lock), stale)
        assert lock.stat().st_ino == inode
        assert lease.held
        assert left_in(lock.parent) == ["lock"]


def test_a_lease_is_acquired_once(lock: Path) -> None:
    with Lease(str(lock), "one") as lease, pytest.raises(RuntimeError):
        lease.acquire(silent)
    assert not lease.held
    assert not lease.renew()
    lease.release()
