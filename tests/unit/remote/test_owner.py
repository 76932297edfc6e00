"""Jobs of other machines in a folder that servers share: told apart, never judged, never touched."""

from __future__ import annotations

import json
import os
import signal
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import owner, procs
from remote_launch.remote.jobdir import write_atomic
from tests.support.served import until

if TYPE_CHECKING:
    from tests.support.served import Served

THERE = {"hostname": "there", "boot_id": "another", "pid_namespace": "pid:[1]", "machine_id": "f" * 32}
HERE = {"hostname": "here", "boot_id": "b1", "pid_namespace": "n1", "machine_id": "m1"}
NEXT_DOOR = {"hostname": "there", "pid_namespace": "pid:[1]"}  # a container on this very kernel


def move(served: Served, job_id: str, **machine: Any) -> None:
    """Have a job look as if it had been started on another machine."""
    path = served.folder(job_id) / "started.json"
    write_atomic(str(path), {**served.read(job_id, "started.json"), **machine})


class TestWhichMachine:
    @pytest.fixture(autouse=True)
    def _here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(owner, "this_machine", lambda: HERE)

    @pytest.mark.parametrize(
        ("what", "changes"),
        [
            ("itself", {}),
            ("itself under another name of the inventory", {"server": "b"}),
            ("itself, renamed since", {"hostname": "old"}),
            ("itself, rebooted since", {"boot_id": "b0"}),
            ("itself, rebooted, for a user who calls it otherwise", {"boot_id": "b0", "server": "b"}),
            ("itself, installed anew", {"boot_id": "b0", "machine_id": "m0"}),
            ("a container that was started again", {"pid_namespace": "n0"}),
            ("an older rl's", {"machine_id": None, "pid_namespace": None, "server": None}),
            ("an older rl's, rebooted", {"boot_id": "b0", "machine_id": None, "server": None}),
        ],
    )  # fmt: skip
    def test_this_one(self, what: str, changes: dict[str, Any]) -> None:
        record = {**HERE, "server": "a", **changes}
        record = {name: value for name, value in record.items() if value is not None}
        assert owner.is_here(record, "a"), what

    @pytest.mark.parametrize(
        ("what", "changes"),
        [
            ("another", {"hostname": "there", "boot_id": "b2", "machine_id": "m2", "server": "b"}),
            ("another of the same image", {"hostname": "there", "boot_id": "b2", "server": "b"}),
            ("another behind the same name", {"hostname": "there", "boot_id": "b2"}),
            ("another of the same hostname", {"boot_id": "b2", "machine_id": "m2", "server": "b"}),
            ("a container beside this one", {"hostname": "there", "pid_namespace": "n2", "server": "b"}),
            ("a container of the same hostname", {"pid_namespace": "n2", "server": "b"}),
        ],
    )
    def test_another_one(self, what: str, changes: dict[str, Any]) -> None:
        assert not owner.is_here({**HERE, "server": "a", **changes}, "a"), what

    @pytest.mark.parametrize("rubbish", [None, 1, [], {}, "x" * 5000])
    def test_rubbish_is_no_crash(self, rubbish: Any) -> None:
        for name in (*HERE, "server"):
            owner.is_here({**HERE, name: rubbish}, "a")
            owner.is_here({name: rubbish}, "a")

    def test_pids_are_read_in_their_own_namespace_alone(self) -> None:
        assert owner.shares_processes({"boot_id": "b1", "pid_namespace": "n1"})
        assert owner.shares_processes({"boot_id": "b1"})
        assert not owner.shares_processes({"boot_id": "b1", "pid_namespace": "n2"})
        assert not owner.shares_processes({"boot_id": "b2", "pid_namespace": "n1"})


def test_a_start_writes_down_where_it_was(served: Served) -> None:
    job_id = served.start("true")
    started, spec = served.read(job_id, "started.json"), served.read(job_id, "spec.json")
    assert started["server"] == spec["server"] == "s0"
    assert spec["machine"] == {name: started[name] for name in THERE}
    assert started["boot_id"] == procs.boot_id()
    assert started["pid_namespace"].startswith("pid:[")


@pytest.mark.parametrize("machine", [THERE, NEXT_DOOR], ids=["machine", "container"])
def test_a_job_of_another_machine_is_not_judged(served: Served, machine: dict[str, str]) -> None:
    """Its pid is dead here, or somebody else's: that says nothing."""
    job_id = served.start("exec sleep 600")
    move(served, job_id, **machine, supervisor_pid=2**22 - 1)
    [job] = served.call("probe", job_ids=[job_id], server="s1")["jobs"]
    assert (job["state"], job["left_over"]) == ("RUNNING", 0)
    assert job["elsewhere"] == {"server": "s0", "hostname": "there"}
    assert "machine there (server s0)" in job["reason"]
    # Asked under its own name it is no other's: the name may stand for several login nodes.
    assert served.call("probe", job_ids=[job_id], server="s0")["jobs"][0]["state"] == "RUNNING"


def test_its_end_is_known_everywhere(served: Served) -> None:
    job_id = served.start("exit 3")
    served.wait(job_id)
    move(served, job_id, **THERE)
    [job] = served.call("probe", job_ids=[job_id], server="s1")["jobs"]
    assert (job["state"], job["exit_code"], job["elsewhere"]["server"]) == ("FAILED", 3, "s0")
    [killed] = served.call("kill", jobs=[{"job_id": job_id}], server="s1")["jobs"]
    assert (killed["outcome"], killed["state"]) == ("already_ended", "FAILED")


def test_a_job_of_this_machine_is_judged_under_any_name(served: Served) -> None:
    job_id = served.start("exec sleep 600")
    [job] = served.call("probe", job_ids=[job_id], server="s1")["jobs"]
    assert (job["state"], job["elsewhere"]) == ("RUNNING", None)
    assert served.call("kill", jobs=[{"job_id": job_id}], server="s1")["jobs"][0]["outcome"] == "killed"


def test_a_rebooted_machine_has_lost_its_own(served: Served) -> None:
    job_id = served.start("exec sleep 600")
    started = served.read(job_id, "started.json")
    move(served, job_id, boot_id="another")
    [job] = served.call("probe", job_ids=[job_id], server="s0")["jobs"]
    assert (job["state"], job["elsewhere"]) == ("LOST", None)
    assert job["reason"].startswith("the server was restarted at 2")
    move(served, job_id, **started)


@pytest.mark.parametrize("prevent", [False, True])
@pytest.mark.parametrize("machine", [THERE, NEXT_DOOR], ids=["machine", "container"])
def test_a_kill_signals_no_pid_of_another_machine(
    served: Served, machine: dict[str, str], prevent: bool
) -> None:
    """The recorded pids are those of an innocent process here."""
    job_id, bystander = served.start("exec sleep 600"), served.start("exec sleep 600")
    innocent = served.read(bystander, "started.json")
    pids = {name: innocent[name] for name in innocent if name.endswith(("_pid", "_ticks"))}
    move(served, job_id, **machine, **pids)
    item = {"job_id": job_id, "grace_s": 0.2, "signal": "KILL", "prevent": prevent}
    [answer] = served.call("kill", jobs=[item], server="s1")["jobs"]
    assert (answer["outcome"], answer["state"]) == ("failed", "RUNNING")
    assert "machine there (server s0)" in answer["message"]
    assert {"kill.json", "exit.json"}.isdisjoint(os.listdir(served.folder(job_id)))
    assert served.probe(bystander)["state"] == "RUNNING"
    assert procs.members(job_id), "its own processes live on"


def test_a_start_under_way_on_another_machine_is_left_to_it(served: Served) -> None:
    """A folder with a spec and no more; the other machine's flock may not be seen here."""
    spec = served.spec("true")
    folder = served.folder(spec["job_id"])
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "spec.json").write_text(json.dumps({**spec, "machine": THERE}))
    os.utime(folder, (1e9, 1e9))
    [job] = served.call("probe", job_ids=[spec["job_id"]], server="s1")["jobs"]
    assert (job["state"], job["elsewhere"]["hostname"]) == ("CREATED", "there")
    item = {"job_id": spec["job_id"], "prevent": True}
    [answer] = served.call("kill", jobs=[item], server="s1")["jobs"]
    assert answer["outcome"] == "failed"
    assert not (folder / "exit.json").exists()
    with served.popen("start") as process:
        process.stdin.write(json.dumps({"spec": spec}).encode())
        process.stdin.close()
        write_atomic(str(folder / "started.json"), {**THERE, "server": "s0", "supervisor_pid": 7})
        answer = json.loads(process.stdout.read())
    assert (answer["state"], answer["supervisor_pid"]) == ("ALREADY", 7)
    assert not (folder / "job.out").exists()


def test_its_log_can_be_followed_to_its_end(served: Served) -> None:
    job_id = served.start("echo hello; exec sleep 600")
    started = served.read(job_id, "started.json")
    move(served, job_id, **THERE)
    request = {
        "workdir": str(served.workdir), "jobs_folder": ".jobs", "server": "s1", "follow": True,
        "jobs": [{"job_id": job_id, "ranks": None, "launcher": True}],
    }  # fmt: skip
    with served.popen("follow") as process:
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
        until((served.folder(job_id) / "job.out").read_text, "it speaks")
        os.kill(started["supervisor_pid"], signal.SIGTERM)
        frames = process.stdout.read()
    end = json.loads(frames.splitlines()[-1])
    assert b"hello\n" in frames
    assert (end["end"], end["state"]) == (True, "FAILED")


def test_an_unknown_folder_is_nobody_elses(served: Served) -> None:
    folder = served.folder(uuid.uuid4().hex)
    folder.mkdir(parents=True)
    [job] = served.call("probe", job_ids=[folder.name], server="s1")["jobs"]
    assert (job["state"], job["elsewhere"]) == ("CREATED", None)
