"""Jobs that wait for slots: in order, one a slot, whatever ends them."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import procs
from remote_launch.remote.slots import Slots, holder_of, machine_of, slots_folder
from remote_launch.remote.tickets import Ticket, line_folder, tickets
from tests.support.served import Launch, Served, until
from tests.support.stand_in_cards import card_row, process_row, stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = 'echo "$RL_SLOTS" > "$RL_JOB_ID.slots"; while [ ! -e "$RL_JOB_ID.go" ]; do sleep 0.02; done'


def queue(served: Served, need: int = 1, slots: int | None = 1, shell: str = HOLD, **fields: Any) -> str:
    """Start a job of the queue; return its id."""
    env = {"RL_SLOTS_DIR": str(served.workdir / "slots"), **fields.pop("env", {})}
    spec = served.spec(shell, env=env, **fields)
    spec["queue"] = {"need": need, "kind": None, "slots": slots}
    answer = served.call("start", spec=spec)
    assert answer.get("state") == "STARTED", answer
    return str(spec["job_id"])


def slots_of(served: Served, job_id: str) -> str:
    path = served.workdir / f"{job_id}.slots"
    return str(until(lambda: path.exists() and path.read_text().strip(), f"{job_id} runs"))


def let_go(served: Served, job_id: str) -> dict[str, Any]:
    (served.workdir / f"{job_id}.go").touch()
    return served.wait(job_id)


def state(served: Served, job_id: str) -> tuple[str, str | None]:
    told = served.probe(job_id)
    return told["state"], told["reason"]


def test_jobs_run_one_after_the_other_in_order(served: Served) -> None:
    first, second, third = (queue(served) for _ in range(3))
    assert slots_of(served, first) == "0"
    assert state(served, first) == ("RUNNING", None)
    until(lambda: state(served, second) == ("QUEUED", "next, waits for 1 of 1 slot"), "the second's place")
    assert state(served, third) == ("QUEUED", "1 job ahead")
    told = served.probe(third)
    assert (told["started_at"], told["queued"]["ahead"]) == (None, 1)
    assert let_go(served, first)["state"] == "SUCCEEDED"
    assert slots_of(served, second) == "0"
    assert not (served.workdir / f"{third}.slots").exists()
    until(lambda: state(served, third)[1] == "next, waits for 1 of 1 slot", "it moves up")
    let_go(served, second)
    slots_of(served, third)
    end = let_go(served, third)
    assert end["state"] == "SUCCEEDED"
    assert end["duration_s"] <= time.time() - end["started_at"] + 1
    assert served.probe(third)["state"] == "SUCCEEDED"
    assert tickets(line_folder(str(served.workdir / "slots"), "slot")) == []


def test_a_job_takes_the_slots_it_needs_and_the_next_waits_for_enough(served: Served) -> None:
    small = queue(served, 1, 4)
    wide = queue(served, 4, 4)
    late = queue(served, 1, 4)
    assert slots_of(served, small) == "0"
    until(lambda: state(served, late) == ("QUEUED", "1 job ahead"), "nobody overtakes")
    holders = [holder_of(str(served.workdir / "slots"), "slot", str(name)) or {} for name in range(4)]
    assert [holder.get("job_id") for holder in holders] == [small, wide, wide, wide]  # kept for it
    let_go(served, small)
    assert slots_of(served, wide) == "0,1,2,3"
    let_go(served, wide)
    assert slots_of(served, late) in ("0", "1", "2", "3")  # which, is up to where it looks as they come free


def test_more_than_there_are_is_refused_at_once(served: Served) -> None:
    spec = served.spec("true", env={"RL_SLOTS_DIR": str(served.workdir / "slots")})
    spec["queue"] = {"need": 5, "kind": "slot", "slots": 4}
    answer = served.call("start", spec=spec)
    assert answer["error"]["message"] == "the job needs 5 slots, and this server has 4"
    assert not served.folder(spec["job_id"]).exists()


def test_a_killed_queued_job_never_runs(served: Served) -> None:
    first, second, third = (queue(served) for _ in range(3))
    slots_of(served, first)
    assert served.kill(second)["outcome"] == "killed"
    end = served.read(second, "exit.json")
    assert (end["state"], end["started_at"]) == ("KILLED", None)
    assert end["reason"] == "killed by me@laptop; it was queued, and never ran"
    assert end["attempts"] == []
    let_go(served, first)
    slots_of(served, third)
    assert not (served.workdir / f"{second}.slots").exists()


def test_a_queued_job_whose_supervisor_dies_is_no_obstacle(served: Served) -> None:
    first, second, third = (queue(served) for _ in range(3))
    slots_of(served, first)
    served.kill_supervisor(second)
    assert served.wait(second)["reason"] == (
        "its supervisor was killed by signal KILL while it was queued: it never ran"
    )
    until(lambda: state(served, third)[1] == "next, waits for 1 of 1 slot", "it moves up")
    let_go(served, first)
    slots_of(served, third)


@pytest.mark.parametrize("guardian", [False, True])
def test_a_slot_is_taken_until_the_last_of_its_job_is_gone(served: Served, guardian: bool) -> None:
    """The supervisor dies, and what it ran goes on for a while: no other job may have the slot yet."""
    files = "exec 3>x 4>x 5>x 6>x 7>x 8>x 9>x"  # a script's own: they replace no file of ours
    stubborn = f"{files}; trap 'while [ ! -e end ]; do sleep 0.02; done; exit 0' TERM; {HOLD}"
    first = queue(served, shell=stubborn, grace_s=20)
    slots_of(served, first)
    second = queue(served)
    served.kill_supervisor(first, guardian=guardian)
    assert holder_of(str(served.workdir / "slots"), "slot", "0") is not None
    until(lambda: "next" in str(state(served, second)[1]), "the second is the first in the line")
    assert served.pids(first)
    assert not (served.workdir / f"{second}.slots").exists()
    (served.workdir / "end").touch()
    slots_of(served, second)
    assert not served.pids(first)


def test_a_restart_keeps_the_slot(served: Served) -> None:
    shell = f'[ "$RL_ATTEMPT" = 1 ] || exit 3; {HOLD}'
    first = queue(served, shell=shell, max_restarts=1)
    second = queue(served)
    assert slots_of(served, first) == "0"
    assert state(served, second)[0] == "QUEUED"
    assert let_go(served, first)["attempt"] == 1
    slots_of(served, second)


def test_a_queued_job_that_cannot_start_has_failed_and_the_next_goes_on(served: Served) -> None:
    first = queue(served)
    slots_of(served, first)
    spec = served.spec(None, argv=("no-such-program",), env={"RL_SLOTS_DIR": str(served.workdir / "slots")})
    spec["queue"] = {"need": 1, "kind": None, "slots": 1}
    served.call("start", spec=spec)
    third = queue(served)
    let_go(served, first)
    assert served.wait(spec["job_id"])["reason"] == "command not found: no-such-program"
    slots_of(served, third)


def test_the_next_does_not_wait_for_the_notification(served: Served) -> None:
    """It may take a minute, and the job is over."""
    first = queue(served, notify="while [ ! -e told ]; do sleep 0.02; done")
    slots_of(served, first)
    second, third = queue(served), queue(served, notify="while [ ! -e told ]; do sleep 0.02; done")
    served.kill(third)
    let_go(served, first)
    assert slots_of(served, second) == "0"
    log = served.folder(first) / "supervisor.log"
    until(lambda: "running the notification" in log.read_text(), "the notification")
    assert "the notification exited" not in log.read_text(), log.read_text()
    until(lambda: not tickets(line_folder(str(served.workdir / "slots"), "slot")), "the killed one is out")
    assert "the notification exited" not in (served.folder(third) / "supervisor.log").read_text()
    (served.workdir / "told").touch()
    until(lambda: "the notification exited with 0" in log.read_text(), "its end")
    let_go(served, second)


def test_the_log_of_a_queued_job_says_so(served: Served) -> None:
    first, second = queue(served), queue(served, shell="echo done")
    slots_of(served, first)
    asked = {"jobs": [{"job_id": second, "launcher": True}], "follow": False, "workdir": str(served.workdir)}
    with served.popen("follow") as process:
        out, _ = process.communicate(json.dumps(asked).encode(), timeout=60)
    frames = [json.loads(line) for line in out.splitlines()]
    assert frames[0] == {"job": second, "note": "queued: next, waits for 1 of 1 slot"}
    assert frames[-1]["state"] == "QUEUED"


class TestLaunch:
    def start(self, launch: Launch, need: int = 1, slots: int = 1, **fields: Any) -> None:
        for rank, served in enumerate(launch.servers):
            folder = str(launch.servers[0 if fields.get("shared") else rank].workdir / "slots")
            shell = fields.get("shells", [HOLD] * 9)[rank]
            spec = launch.spec(
                rank, shell, env={"RL_SLOTS_DIR": folder, **fields.get("env", {})},
                max_restarts=fields.get("max_restarts", 0),
            )
            spec["queue"] = {"need": need, "kind": None, "slots": slots}
            answer = served.call("start", spec=spec)
            assert answer.get("state") == "STARTED", answer
            assert answer["queued"], answer

    def finish(self, launch: Launch) -> None:
        for served, job_id in zip(launch.servers, launch.ids, strict=True):
            (served.workdir / f"{job_id}.go").touch()
        assert [launch.wait(rank)["state"] for rank in range(len(launch.ids))] == ["SUCCEEDED"] * len(
            launch.ids
        )

    def test_no_node_begins_before_all_have_their_slots(self, nodes: list[Served]) -> None:
        blocker = queue(nodes[1])
        slots_of(nodes[1], blocker)
        launch = Launch(nodes)
        self.start(launch)
        until(
            lambda: any("next" in str(state(node, launch.ids[rank])[1]) for rank, node in enumerate(nodes)),
            "it waits",
        )
        assert not list(nodes[0].workdir.glob(f"{launch.ids[0]}.slots"))
        let_go(nodes[1], blocker)
        assert [slots_of(node, launch.ids[rank]) for rank, node in enumerate(nodes)] == ["0", "0"]
        assert [state(node, launch.ids[rank])[0] for rank, node in enumerate(nodes)] == ["RUNNING"] * 2
        self.finish(launch)

    def that_run(self, launches: list[Launch]) -> list[Launch]:
        """Wait until some of these launches run, and return them."""
        found: list[Launch] = until(
            lambda: [
                one for one in launches
                if all((node.workdir / f"{job_id}.slots").exists()
                       for node, job_id in zip(one.servers, one.ids, strict=True))
            ],
            "one of them runs",
        )
        return found

    def test_launches_that_want_all_of_both_machines_take_turns(self, nodes: list[Served]) -> None:
        """Node 0 of one is node 1 of the other."""
        launches = [Launch(nodes), Launch(nodes[::-1]), Launch(nodes)]
        for launch in launches:
            self.start(launch, 2, 2)
        pending = list(launches)
        while pending:
            (ready,) = self.that_run(pending)
            self.finish(ready)
            pending.remove(ready)

    def test_nodes_on_one_machine_take_their_slots_together(self, nodes: list[Served]) -> None:
        """Two launches, each of two nodes with half of the machine's slots: neither may take a half."""
        pending = [Launch(nodes), Launch(nodes)]
        for launch in pending:
            self.start(launch, 2, 4, shared=True)
        while pending:  # whose nodes have met first comes first
            (ready,) = self.that_run(pending)
            found = [slots_of(node, ready.ids[rank]) for rank, node in enumerate(nodes)]
            assert sorted(",".join(found).split(",")) == ["0", "1", "2", "3"]
            self.finish(ready)
            pending.remove(ready)

    def test_nodes_on_one_machine_that_need_more_than_it_has_are_refused(self, nodes: list[Served]) -> None:
        launch = Launch(nodes)
        self.start(launch, 2, 3, shared=True)
        end = launch.wait(0)
        assert end["state"] == "FAILED"
        assert "its 2 nodes on one machine need 4 slots there, and it has 3" in end["reason"]
        assert launch.wait(1)["state"] == "FAILED"

    def test_a_kill_of_one_node_kills_the_queued_launch(self, nodes: list[Served]) -> None:
        blocker = queue(nodes[1])
        launch = Launch(nodes)
        self.start(launch)
        launch.joined()
        assert nodes[1].kill(launch.ids[1])["outcome"] == "killed"
        ends = [launch.wait(rank) for rank in range(2)]
        assert [end["state"] for end in ends] == ["KILLED"] * 2
        let_go(nodes[1], blocker)

    def test_a_restart_of_a_launch_keeps_its_slots(self, nodes: list[Served]) -> None:
        launch = Launch(nodes)
        shells = [HOLD, f'[ "$RL_ATTEMPT" = 1 ] || exit 3; {HOLD}']
        self.start(launch, shells=shells, max_restarts=1)
        slots_of(nodes[1], launch.ids[1])
        after = queue(nodes[0])
        assert state(nodes[0], after)[0] == "QUEUED"
        self.finish(launch)
        assert [nodes[rank].read(launch.ids[rank], "exit.json")["attempt"] for rank in range(2)] == [1, 1]
        slots_of(nodes[0], after)
        let_go(nodes[0], after)

    def test_a_spare_has_its_slots_when_it_is_to_take_a_place(
        self, nodes: list[Served], tmp_path: Path
    ) -> None:
        nodes = [*nodes, Served(tmp_path / "s2")]
        launch = Launch(nodes, spares=1)
        try:
            self.start(launch, max_restarts=1)
            slots_of(nodes[1], launch.ids[1])
            told = until(
                lambda: state(nodes[2], launch.ids[2])[0] == "RUNNING" and state(nodes[2], launch.ids[2]),
                "the spare stands by",
            )
            assert told[1] == "stands by as a spare"
            nodes[1].kill_supervisor(launch.ids[1])
            assert slots_of(nodes[2], launch.ids[2]) == "0"
            for rank in (0, 2):
                (nodes[rank].workdir / f"{launch.ids[rank]}.go").touch()
            assert [launch.wait(rank)["state"] for rank in (0, 2)] == ["SUCCEEDED", "SUCCEEDED"]
        finally:
            nodes[2].end_all()

    def test_a_lost_node_ends_the_queued_launch_and_frees_its_slots(self, nodes: list[Served]) -> None:
        blocker = queue(nodes[1])
        launch = Launch(nodes)
        self.start(launch)
        launch.joined()
        nodes[1].kill_supervisor(launch.ids[1])
        assert launch.wait(0)["cause"]["lost"]
        after = queue(nodes[0])
        slots_of(nodes[0], after)
        let_go(nodes[0], after)
        let_go(nodes[1], blocker)


class TestCards:
    """Cards are slots where the server has no ``slots``. nvidia-smi is a stand-in."""

    @pytest.fixture
    def carded(self, tmp_path: Path) -> Iterator[Served]:
        server = Served(tmp_path / "work")
        self.programs = tmp_path / "programs"
        server.env["PATH"] = f"{self.programs}:{server.env['PATH']}"
        server.env.pop("CUDA_VISIBLE_DEVICES", None)
        self.cards(3)
        yield server
        server.end_all()

    def cards(self, count: int, processes: list[str] | None = None) -> None:
        stand_in(self.programs, [card_row(index) for index in range(count)], processes or [])

    def queue(self, served: Served, need: int = 1, **env: str) -> str:
        shell = 'echo "$RL_SLOTS $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER" > "$RL_JOB_ID.slots"; sleep 60'
        return queue(served, need, slots=None, shell=shell, env=env)

    def test_each_job_sees_its_cards(self, carded: Served) -> None:
        first, second = self.queue(carded, 2), self.queue(carded)
        assert slots_of(carded, first) == "0,1 0,1 PCI_BUS_ID"
        assert slots_of(carded, second) == "2 2 PCI_BUS_ID"

    def test_a_card_that_another_user_holds_is_no_free_slot(self, carded: Served) -> None:
        self.cards(3, [process_row(0, 1, 30_000)])  # pid 1 is root's, or (as root) ours without a mark
        wants_all = self.queue(carded, 3)
        if os.getuid() != 0:
            until(lambda: "card 0 is used by root" in str(state(carded, wants_all)[1]), "it says who")
            self.cards(3)
        assert slots_of(carded, wants_all).startswith("0,1,2")

    def test_a_card_with_a_job_of_ours_that_did_not_queue_is_none_either(self, carded: Served) -> None:
        loose = carded.start("exec sleep 60")
        pid = until(lambda: carded.pids(loose), "it runs")[0]
        self.cards(2, [process_row(0, pid, 30_000)])
        wide = self.queue(carded, 2)
        until(lambda: "a job of yours that did not queue" in str(state(carded, wide)[1]), "it says so")
        carded.kill(wide)
        assert slots_of(carded, self.queue(carded)).startswith("1 1 ")

    def test_the_cards_that_the_environment_names_are_those_it_may_have(self, carded: Served) -> None:
        assert slots_of(carded, self.queue(carded, CUDA_VISIBLE_DEVICES="1,2")).startswith("1 1 ")
        waiting = self.queue(carded, 2, CUDA_VISIBLE_DEVICES="1,2")
        until(lambda: state(carded, waiting) == ("QUEUED", "next, waits for cards 1, 2"), "it names them")
        told = carded.call("queue", slots=None, slots_dir=str(carded.workdir / "slots"))
        assert [note["may_have"] for note in told["lines"][0]["waiting"]] == [["1", "2"]]
        carded.kill(waiting)
        spec = carded.spec("true", env={"CUDA_VISIBLE_DEVICES": "1"})
        spec["queue"] = {"need": 2, "kind": None, "slots": None}
        error = carded.call("start", spec=spec)["error"]
        assert error["message"] == "the job needs 2 cards, and this server may use 1 of 3"

    def test_a_server_with_neither_cards_nor_slots_says_what_to_do(self, carded: Served) -> None:
        self.cards(0)
        spec = carded.spec("true")
        spec["queue"] = {"need": 1, "kind": None, "slots": None}
        error = carded.call("start", spec=spec)["error"]
        assert error["message"].startswith("the job needs 1 card, and this server has 0")
        assert "give the server slots: N" in error["hint"]

    def test_a_driver_that_fails_is_why_there_are_none(self, carded: Served) -> None:
        stand_in(self.programs, fails="Failed to initialize NVML: Driver/library version mismatch")
        spec = carded.spec("true")
        spec["queue"] = {"need": 1, "kind": None, "slots": None}
        message = carded.call("start", spec=spec)["error"]["message"]
        assert message.startswith("the job needs 1 card, and this server has 0; the driver was updated")
        told = carded.call("queue", slots=None, slots_dir=str(carded.workdir / "slots"))
        assert (told["lines"], len(told["problems"])) == ([], 1)
        facts = carded.call("probe", job_ids=[], facts=True)["facts"]
        assert (facts["gpus"], facts["gpu_problems"]) == ([], told["problems"])

    def test_rl_queue_tells_of_them(self, carded: Served) -> None:
        job = self.queue(carded)
        slots_of(carded, job)
        told = carded.call("queue", slots=None, slots_dir=str(carded.workdir / "slots"))
        (line,) = told["lines"]
        assert line["kind"] == "gpu"
        assert [(slot["name"], (slot["holder"] or {}).get("job_id")) for slot in line["slots"]] == [
            ("0", job), ("1", None), ("2", None),
        ]


class TestFiles:
    def test_tickets_are_numbered_and_dead_ones_removed(self, tmp_path: Path) -> None:
        folder = str(tmp_path)
        one, two, three = (Ticket(folder, "slot", {}) for _ in range(3))
        assert [ticket.ahead() for ticket in (one, two, three)] == [0, 1, 2]
        os.close(two._fd)  # as its owner's death does
        assert three.ahead() == 1
        assert tickets(line_folder(folder, "slot")) == [1, 3]
        one.drop()
        assert three.ahead() == 0
        three.drop()
        assert Ticket(folder, "slot", {}).number == 4

    def test_a_line_that_was_tidied_away_is_made_anew(self, tmp_path: Path) -> None:
        ticket = Ticket(str(tmp_path), "slot", {})
        line = tmp_path / "line-slot"
        for path in line.iterdir():
            path.unlink()
        line.rmdir()
        assert ticket.ahead() == 0
        assert (line / f"{ticket.number:012d}").exists()

    def test_a_slot_belongs_to_one(self, tmp_path: Path) -> None:
        mine, other = (Slots(str(tmp_path), "slot", ["0", "1"]) for _ in range(2))
        assert mine.take("0")
        assert not other.take("0")
        assert other.take("1")
        mine.note({"job_id": "x"})
        assert holder_of(str(tmp_path), "slot", "0") == {"job_id": "x"}
        mine.give_back("0")
        assert holder_of(str(tmp_path), "slot", "0") is None
        assert other.take("0")

    def test_what_is_in_use_does_not_grow_old(self, tmp_path: Path) -> None:
        slots, ticket = Slots(str(tmp_path), "slot", ["0"]), Ticket(str(tmp_path), "slot", {})
        slots.take("0")
        for path in (slots.path("0"), *ticket.paths):
            os.utime(path, (1.0, 1.0))
        slots.tick(time.monotonic(), *ticket.paths)
        assert os.stat(slots.path("0")).st_mtime == 1.0
        slots.tick(time.monotonic() + 4000, *ticket.paths)
        assert all(os.stat(path).st_mtime > 1e9 for path in (slots.path("0"), *ticket.paths))

    def test_one_machine_has_one_name(self, tmp_path: Path) -> None:
        assert len(machine_of(str(tmp_path))) == 32
        assert machine_of(str(tmp_path)) == machine_of(str(tmp_path))

    def test_a_folder_that_others_can_write_is_refused(self, tmp_path: Path) -> None:
        from remote_launch.remote.jobdir import Refusal

        tmp_path.chmod(0o777)
        with pytest.raises(Refusal, match="not a folder that you alone can write"):
            slots_folder({"RL_SLOTS_DIR": str(tmp_path)})
        link = tmp_path / "link"
        link.symlink_to(tmp_path)
        with pytest.raises(Refusal, match="not a folder"):
            slots_folder({"RL_SLOTS_DIR": str(link)})

    def test_the_usual_folder_is_this_boots(self) -> None:
        folder = slots_folder({})
        assert folder.startswith(f"/tmp/rl-slots-{os.getuid()}/{procs.boot_id()[:8]}")
        assert os.stat(folder).st_mode & 0o077 == 0
