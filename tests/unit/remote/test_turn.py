"""What a job of the queue may have and what it holds, where the machine makes it hard."""

from __future__ import annotations

import os
import shutil
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from remote_launch.remote import gpus, tickets, turn
from remote_launch.remote.gangturn import GangTurn
from remote_launch.remote.jobdir import Refusal
from remote_launch.remote.slots import Slots
from remote_launch.remote.tickets import Ticket

if TYPE_CHECKING:
    from pathlib import Path

SPEC = {"queue": {"need": 2}}


def card(index: int, vendor: str = "nvidia", **more: Any) -> dict[str, Any]:
    uuid = f"GPU-000{index}" if vendor == "nvidia" else f"0x{index}0f4"
    return {"vendor": vendor, "index": index, "uuid": uuid, "mig": False, "processes": [], **more}


def usable(monkeypatch: pytest.MonkeyPatch, cards: list[dict[str, Any]], **env: str) -> list[str]:
    monkeypatch.setattr(gpus, "survey", lambda: {"cards": cards, "problems": []})
    return turn._cards(env)[1]


class TestWhichCards:
    def test_a_number_is_no_beginning_of_a_uuid(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """AMD's begin with 0x."""
        cards = [card(0, "amd"), card(1, "amd")]
        assert usable(monkeypatch, cards, HIP_VISIBLE_DEVICES="0") == ["0"]
        assert usable(monkeypatch, cards, HIP_VISIBLE_DEVICES="0x10f4") == ["1"]

    def test_as_cuda_does_it_reads_to_the_first_word_that_names_none(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cards = [card(index) for index in range(3)]
        assert usable(monkeypatch, cards, CUDA_VISIBLE_DEVICES="2,0,-1,1") == ["0", "2"]
        assert usable(monkeypatch, cards, CUDA_VISIBLE_DEVICES="GPU-0001,1") == ["1"]
        assert usable(monkeypatch, cards, CUDA_VISIBLE_DEVICES="") == []

    def test_a_card_that_is_split_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert usable(monkeypatch, [card(0, mig=True), card(1)]) == ["1"]

    def test_hips_numbers_count_what_rocr_leaves(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        cards = [card(index, "amd") for index in range(4)]
        assert usable(monkeypatch, cards, ROCR_VISIBLE_DEVICES="2,3") == ["2", "3"]
        env = {"ROCR_VISIBLE_DEVICES": "3,1", "HIP_VISIBLE_DEVICES": "0"}
        names, found, variable, _ = turn._cards(env)
        assert found == ["3"]
        slots = Slots(str(tmp_path), "gpu", names, found, variable)
        slots.take("3")
        assert turn.Turn(slots, SPEC, print).variables() == {
            "RL_SLOTS": "3", "ROCR_VISIBLE_DEVICES": "3", "HIP_VISIBLE_DEVICES": "0",
        }

    def test_a_card_that_the_driver_lost_is_not_begun_on(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(gpus, "cards", lambda: [card(1)])
        mine = turn.Turn(Slots(str(tmp_path), "gpu", ["0", "1"]), SPEC, print)
        mine.line_up()
        mine.tick(time.monotonic() + 100)
        assert (mine.has_slots, mine.slots.held) == (False, ["1"])
        assert mine.words().endswith("card 0 is used by nobody: the driver tells nothing of it")
        monkeypatch.setattr(gpus, "cards", lambda: [card(0), card(1)])
        mine.tick(time.monotonic() + 200)
        assert mine.has_slots


def test_who_is_not_the_first_holds_nothing(tmp_path: Path) -> None:
    """What it held could be what the first waits for: both would wait for ever."""
    others, own = (Slots(str(tmp_path), "slot", ["0", "1"]) for _ in range(2))
    others.take("0")
    mine = turn.Turn(own, SPEC, print)
    mine.go_along()
    mine.tick(time.monotonic() + 10)
    assert own.held == ["1"]
    first = Ticket(str(tmp_path), "slot", {})
    mine.line_up()
    mine.tick(time.monotonic() + 20)
    assert (mine.ahead, own.held) == (1, [])
    first.drop()
    others.give_back("0")
    mine.tick(time.monotonic() + 30)
    assert mine.has_slots


def test_of_nodes_on_one_machine_who_has_the_least_choice_comes_first() -> None:
    """Else the other one may take the only card that it could have."""

    class Nodes(list[Any]):
        asked: ClassVar[list[tuple[int, str]]] = []

        def send(self, node: Any, _: str, message: dict[str, Any]) -> None:
            self.asked.append((node.member, message["do"]))

    nodes = Nodes(SimpleNamespace(member=one, place={}, lost=False, left=False) for one in range(3))
    stand = {"machine": "a/gpu", "need": 1, "has": False}
    own = SimpleNamespace(state=lambda: {**stand, "machine": "b/gpu", "usable": ["0"]}, do=lambda _: None)
    gang = GangTurn(nodes, own)  # type: ignore[arg-type]
    gang.heard(nodes[1], {**stand, "usable": ["0", "1"]})
    gang.heard(nodes[2], {**stand, "usable": ["0"]})
    gang.tick()
    assert nodes.asked == [(2, "line up")]
    gang.heard(nodes[2], {**stand, "usable": ["0"], "has": True})
    gang.tick()
    assert nodes.asked == [(2, "line up"), (1, "go along")]


class TestTidiedAway:
    def test_a_place_that_cannot_be_taken_anew_is_tried_for_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticket = Ticket(str(tmp_path), "slot", {})
        shutil.rmtree(tmp_path / "line-slot")
        with monkeypatch.context() as context:
            context.setattr(tickets, "PATIENCE_S", -1.0)
            context.setattr(tickets.fcntl, "flock", _held)
            with pytest.raises(Refusal, match="counter"):
                ticket.ahead()
            other = os.open(os.devnull, os.O_RDONLY)  # gets the number of the file that was closed
            with pytest.raises(Refusal, match="counter"):
                ticket.ahead()
        os.close(other)  # still ours to close
        next_one = Ticket(str(tmp_path), "slot", {})
        assert (next_one.number, ticket.ahead(), ticket.number) == (1, 1, 2)

    def test_a_folder_that_another_put_in_its_place_is_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "slots"
        folder.mkdir(0o700)
        ticket, slots = Ticket(str(folder), "slot", {}), Slots(str(folder), "slot", ["0"])
        shutil.rmtree(folder)
        folder.mkdir()
        folder.chmod(0o777)
        for _ in range(2):
            with pytest.raises(Refusal, match="not a folder that you alone can write"):
                ticket.ahead()
            with pytest.raises(Refusal, match="not a folder that you alone can write"):
                slots.take("0")
        folder.chmod(0o700)
        assert ticket.ahead() == 0
        assert slots.take("0")

    def test_why_nothing_can_be_taken_is_shown_and_logged_once(self, tmp_path: Path) -> None:
        folder, said = tmp_path / "slots", []
        folder.mkdir(0o700)
        mine = turn.Turn(Slots(str(folder), "slot", ["0"]), {"queue": {"need": 1}}, said.append)
        record: dict[str, Any] = {"reason": None}
        now = mine._since + mine.start(record, alone=False)
        mine.line_up()
        shutil.rmtree(folder)
        folder.mkdir()
        folder.chmod(0o777)
        for step in range(50):
            mine.wait(now + step / 2, record, str(tmp_path / "started.json"))
            assert record["reason"].startswith(f"the queue: {folder} is not a folder that you alone")
        assert len(said) == 1
        folder.chmod(0o700)
        mine.wait(now + 100, record, str(tmp_path / "started.json"))
        assert mine.has_slots

    def test_no_link_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "line-slot").mkdir()
        (tmp_path / "number").write_text("7")
        (tmp_path / "line-slot" / "next").symlink_to(tmp_path / "number")
        with pytest.raises(OSError, match="symbolic links"):
            Ticket(str(tmp_path), "slot", {})
        assert (tmp_path / "number").read_text() == "7"


def _held(*_: object) -> None:
    raise BlockingIOError
