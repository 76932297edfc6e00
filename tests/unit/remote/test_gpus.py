"""The cards of a server, as its drivers' programs tell of them. See recorded/README.md for where the answers
come from."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import gpus, nvidia, rocm, tools
from tests.support.stand_in_cards import card_row, process_row, stand_in

if TYPE_CHECKING:
    from tests.support.served import Served

RECORDED = Path(__file__).parent / "recorded"
NOBODY = 2**22 + 7  # more than the kernel gives out: nobody's pid


def recorded(name: str) -> str:
    path = RECORDED / name
    return path.read_text() if path.is_file() else ""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with no driver's program on it but what a test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for module in (nvidia, rocm):
        monkeypatch.setattr(module, "_PLACES", ())
    for name in gpus.VISIBLE:
        monkeypatch.delenv(name, raising=False)
    return folder


def seen(name: str, folder: Path) -> dict[str, Any]:
    """Return what is told of a server that has the recorded card."""
    stand_in(
        folder,
        recorded(f"{name}.csv"),
        recorded(f"{name}.processes.csv"),
        listed=recorded(f"{name}.list.txt"),
    )
    return gpus.survey()


class TestNvidia:
    @pytest.mark.parametrize(
        ("name", "model", "total", "used", "percent"),
        [
            ("h100", "NVIDIA H100 80GB HBM3", 81559, 19818, 100),
            ("h100-mig", "NVIDIA H100 80GB HBM3", 81559, 11125, None),
            ("h200", "NVIDIA H200", 143771, 0, 0),
            ("l40s", "NVIDIA L40S", 46068, 1235, 9),
            ("rtx-4080-super", "NVIDIA GeForce RTX 4080 SUPER", 16376, 596, 0),
            ("rtx-2080-super", "NVIDIA GeForce RTX 2080 SUPER", 8192, 815, 8),
        ],
    )
    def test_a_card(self, name: str, model: str, total: int, used: int, percent: int, bare: Path) -> None:
        told = seen(name, bare)
        (card,) = told["cards"]
        assert (card["name"], card["memory_total_mb"], card["memory_used_mb"]) == (model, total, used)
        assert (card["utilization_percent"], card["index"], card["vendor"]) == (percent, 0, "nvidia")
        assert told["problems"] == []

    def test_processes_come_with_memory_and_command(self) -> None:
        cards = nvidia.parse_cards(recorded("h100.csv"))
        nvidia.parse_processes(recorded("h100.processes.csv"), cards)
        assert [(one["pid"], one["memory_mb"], one["command"]) for one in cards[0]["processes"]] == [
            (11327, 2566, "memhog"),
            (11328, 1542, "memhog"),
            (11345, 15690, "gpu_burn"),
        ]

    def test_the_devices_of_a_split_card(self, bare: Path) -> None:
        (card,) = seen("h100-mig", bare)["cards"]
        assert card["mig"] is True
        assert [device["name"] for device in card["mig_devices"]] == [
            "3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb",
        ]  # fmt: skip
        assert card["mig_devices"][1]["uuid"] == "MIG-4c0f2a11-0000-5000-8000-000000000001"

    def test_a_broken_card_is_named_and_the_others_stay(self, bare: Path) -> None:
        cards = seen("a100-x4", bare)["cards"]
        assert [card["trouble"] is not None for card in cards] == [False, False, False, True]
        assert "reset" in cards[3]["trouble"]
        assert cards[3]["memory_used_mb"] is None

    def test_a_card_that_fell_off_the_bus(self, bare: Path) -> None:
        lost = "Unable to determine the device handle for GPU1: 0000:44:00.0: Unknown Error"
        stand_in(bare, [lost, card_row(0)])
        told = gpus.survey()
        assert [card["index"] for card in told["cards"]] == [0]
        assert "does not answer" in told["problems"][0]

    def test_a_driver_that_knows_fewer_fields(self, bare: Path) -> None:
        program = bare / "nvidia-smi"
        program.write_text(
            '#!/bin/sh\ncase "$*" in *mig.mode*)\n'
            "echo 'Field \"mig.mode.current\" is not a valid field to query.'; exit 2;;\n"
            f"*query-gpu*) cat {RECORDED}/old-driver.csv;; esac\n"
        )
        program.chmod(0o755)
        told = gpus.survey()
        (card,) = told["cards"]
        assert (card["name"], card["utilization_percent"]) == ("Tesla K80", None)
        assert told["problems"] == []

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (
                "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.124",
                "the driver was updated",
            ),
            (
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure",
                "not loaded",
            ),
            ("Failed to initialize NVML: Insufficient Permissions", "may not ask"),
            ("Failed to initialize NVML: Unknown Error", "in a container"),
            ("No devices were found", "finds no card"),
            ("something new", "exit code 9): something new"),
        ],
    )
    def test_why_there_is_no_answer(self, text: str, words: str, bare: Path) -> None:
        stand_in(bare, fails=text)
        told = gpus.survey()
        assert told["cards"] == []
        assert words in told["problems"][0]

    def test_a_hung_driver_costs_its_time_once(self, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tools, "TIMEOUT_S", 0.3)
        stand_in(bare, hangs=True)
        start = time.monotonic()
        told = gpus.survey()
        assert time.monotonic() - start < 30  # the driver hangs for 60 s
        assert "does not come back" in told["problems"][0]

    def test_no_driver_is_no_problem(self, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nvidia, "FOLDER", str(bare / "none"))
        assert gpus.survey() == {"cards": [], "problems": [], "visible": {}}

    def test_cards_without_nvidia_smi(self, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (bare / "0000:01:00.0").mkdir()
        monkeypatch.setattr(nvidia, "FOLDER", str(bare))
        assert "no nvidia-smi" in gpus.survey()["problems"][0]


class TestAmd:
    @pytest.mark.parametrize(
        ("name", "models", "totals", "used"),
        [
            ("mi100", ["Arcturus GL-XL [Instinct MI100]"] * 2, [32752] * 2, [6, 6]),
            ("mi250", ["AMD INSTINCT MI250 (MCM) OAM AC MBA"] * 2, [65520] * 2, [49140, 11]),
            ("mi300x", ["AMD Instinct MI300X"], [196592], [283]),
            ("rx6700xt", ["AMD GPU"], [12272], [1547]),
            ("rx6800xt-raphael", ["Navi 21 [Radeon RX 6800/6800 XT / 6900 XT]"], [16368], [660]),
        ],
    )
    def test_cards(self, name: str, models: list[str], totals: list[int], used: list[int]) -> None:
        cards = rocm.parse_cards(recorded(f"{name}.json"))
        assert [card["name"] for card in cards] == models
        assert [card["memory_total_mb"] for card in cards] == totals
        assert [card["memory_used_mb"] for card in cards] == used

    def test_a_sensor_that_is_not_there(self) -> None:
        (card,) = rocm.parse_cards(recorded("mi300x.json"))
        assert (card["temperature_c"], card["bus_id"]) == (43, "0000:0C:00.0")

    @pytest.mark.parametrize("text", ["", "No JSON data to report", "{", '{"card0": 3}', "[1]", "{{" * 5000])
    def test_what_is_no_answer(self, text: str) -> None:
        assert rocm.parse_cards(text) == []

    def test_processes_come_from_the_kernel(self, tmp_path: Path) -> None:
        cards = rocm.parse_cards(recorded("mi100.json"))
        nodes = tmp_path / "topology" / "nodes"
        for number, (gpu_id, bus) in enumerate([("0", 0), ("1111", 0x8300), ("2222", 0xA300)]):
            (nodes / str(number)).mkdir(parents=True)
            (nodes / str(number) / "gpu_id").write_text(f"{gpu_id}\n")
            (nodes / str(number) / "properties").write_text(f"simd_count 480\nlocation_id {bus}\ndomain 0\n")
        for pid, name, size in ((77, "vram_2222", 3 << 30), (77, "vram_1111", 0), (78, "sdma_1111", 5)):
            (tmp_path / "proc" / str(pid)).mkdir(parents=True, exist_ok=True)
            (tmp_path / "proc" / str(pid) / name).write_text(f"{size}\n")
        rocm.add_processes(cards, str(tmp_path))
        assert [card["processes"] for card in cards] == [[], [{"pid": 77, "memory_mb": 3072, "command": ""}]]


def card(**values: Any) -> dict[str, Any]:
    return {"memory_used_mb": 4, "mig": False, "processes": [], **values}


def process(
    user: str = "alice", memory_mb: int | None = 3000, *, is_own: bool | None = False
) -> dict[str, Any]:
    return {"pid": 9, "user": user, "memory_mb": memory_mb, "is_own": is_own, "command": "python train.py"}


class TestBusy:
    def test_an_idle_card(self) -> None:
        assert gpus.busy(card()) is None
        assert gpus.busy(card(memory_used_mb=None)) is None

    def test_another_users_process(self) -> None:
        held = gpus.busy(card(memory_used_mb=3100, processes=[process()]))
        assert held == "alice (python train.py, pid 9, 3000 MiB)"

    def test_a_process_that_is_not_seen_from_here(self) -> None:
        assert gpus.busy(card(processes=[process("unknown", None, is_own=None)])) is not None

    def test_our_own_process_and_a_services_small_one_hold_nothing(self) -> None:
        own, service = process("me", 30000, is_own=True), process("root", 30)
        assert gpus.busy(card(memory_used_mb=30400, processes=[own, service])) is None

    def test_memory_that_nobody_in_the_list_holds(self) -> None:
        assert "9004 MiB" in str(gpus.busy(card(memory_used_mb=9004)))
        assert gpus.busy(card(memory_used_mb=1500)) is None  # a desktop
        assert gpus.busy(card(memory_used_mb=9004, processes=[process(memory_mb=None, is_own=True)])) is None

    def test_the_owner_and_the_script_come_from_proc(
        self, bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in(
            bare,
            [card_row(0, used_mb=4000), card_row(1)],
            [process_row(0, os.getpid(), 3000), process_row(1, NOBODY, 500, "[Not Found]")],
        )
        monkeypatch.setattr(gpus, "sees_all", lambda: False)
        mine, hidden = (one["processes"][0] for one in gpus.cards())
        assert (mine["is_own"], mine["user"]) == (True, gpus.owner(os.getpid())["user"])
        assert mine["command"].startswith("py")
        assert (hidden["is_own"], hidden["user"], hidden["command"]) == (None, "unknown", "")

    @pytest.mark.parametrize("row", [(), (process_row(0, NOBODY, 8800, "[Not Found]"),)])
    def test_in_a_container_what_holds_the_device_here_is_ours(
        self, row: tuple[str, ...], bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in(bare, [card_row(0, used_mb=9000), card_row(1, used_mb=9000)], row)
        monkeypatch.setattr(gpus, "sees_all", lambda: False)
        monkeypatch.setattr(nvidia, "opened_by_us", lambda card: [os.getpid()][card["index"]:])
        mine, hidden = gpus.cards()
        assert mine["busy"] is None
        assert [(one["pid"], one["is_own"]) for one in mine["processes"]] == [(os.getpid(), True)]
        assert hidden["busy"] is not None

    def test_the_device_of_a_card_by_its_minor_number(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cards = nvidia.parse_cards(recorded("a100-x4.csv"))
        monkeypatch.setattr(nvidia, "FOLDER", str(tmp_path))
        (tmp_path / "0000:0b:00.0").mkdir()
        (tmp_path / "0000:0b:00.0/information").write_text("Model: A100\nDevice Minor: \t 5\n")
        assert [nvidia._minor(card) for card in cards] == [0, 5, 2, 3]
        monkeypatch.setattr(nvidia, "_DEVICE", str(tmp_path / "nvidia"))
        assert nvidia.opened_by_us(cards[1]) == []
        with (tmp_path / "nvidia5").open("w"):
            assert nvidia.opened_by_us(cards[1]) == [os.getpid()]

    def test_a_process_that_has_just_ended_holds_nothing(
        self, bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in(bare, [card_row(0)], [process_row(0, NOBODY, 500)])
        monkeypatch.setattr(gpus, "sees_all", lambda: True)
        assert [(one["processes"], one["busy"]) for one in gpus.cards()] == [([], None)]


def test_the_verb_and_the_facts_tell_of_the_cards(served: Served, tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "bin", recorded("a100-x4.csv"))
    served.env.update(PATH=f"{folder}:{served.env['PATH']}", CUDA_VISIBLE_DEVICES="3,1,0")
    told = served.call("gpus")
    assert [card["index"] for card in told["cards"]] == [0, 1, 2, 3]
    assert told["visible"] == {"CUDA_VISIBLE_DEVICES": "3,1,0"}
    assert served.call("preflight")["gpus"]["visible"] == told["visible"]
    facts = served.call("probe", job_ids=[], facts=True)["facts"]
    assert facts["gpus"][1]["name"] == "NVIDIA A100-SXM4-40GB"
