"""Cards of a server, shown and chosen, over ``connection: local`` with a stand-in for nvidia-smi."""

from __future__ import annotations

import json
import signal
import subprocess
import venv
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl, rl_path
from tests.support.stand_in_cards import card_row, process_row, stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Cards:
    """A project with the local servers ``a`` and ``b``, and a nvidia-smi of its own in front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin = folder / "project", folder / "bin"
        (folder / "home").mkdir()
        self.root.mkdir()
        self.rl = Rl(self.root, {"HOME": str(folder / "home"), "RL_PROJECT": ""})
        self.rl("init", "--local", "1", "--name", "proj", "--manager", "none")
        servers = "".join(
            f"  {name}: {{connection: local, workdir: {json.dumps(str(folder / name))}}}\n" for name in "ab"
        )
        text = f"name: proj\nservers:\n{servers}environment: {{manager: none}}\n"
        (self.root / ".remote/configs.yaml").write_text(text)
        (self.root / "train.py").write_text("print('hello')\n")

    def are(self, *rows: str, processes: tuple[str, ...] = (), **more: Any) -> None:
        stand_in(self.bin, rows, processes, **more)
        self.rl.env["PATH"] = f"{self.bin}:{self.rl.env['PATH']}"

    def use(self, python: str) -> None:
        """Let the servers have an environment, and the project."""
        config = self.root / ".remote/configs.yaml"
        config.write_text(config.read_text().replace("manager: none", f"manager: none, python: {python}"))
        self.rl("rsync")


@pytest.fixture
def environment(tmp_path: Path) -> str:
    """An interpreter with a torch that is no more than a folder: enough for a plan."""
    venv.create(tmp_path / "env", symlinks=True)
    site = next((tmp_path / "env").glob("lib/python3*/site-packages"))
    (site / "torch").mkdir()
    (site / "torch/__init__.py").touch()
    (site / "torch/version.py").write_text('__version__ = "2.13.0+cpu"\ncuda = None\nhip = None\n')
    return str(tmp_path / "env/bin/python")


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


@pytest.fixture
def mine() -> Iterator[int]:
    """The pid of a process of ours that lives as long as the test."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


def test_the_table_tells_whose_each_card_is(cards: Cards, mine: int) -> None:
    cards.are(
        card_row(0, used_mb=9000),
        card_row(1, used_mb=30000),
        card_row(2),
        processes=(process_row(0, mine, 8800),),
    )
    said = cards.rl("servers", "--gpus", "--server", "a").stdout
    lines = [line.split() for line in said.splitlines()]
    assert [line[0] for line in lines[1:4]] == ["a"] * 3
    assert [next(word for word in line if word in ("yours", "held", "free")) for line in lines[1:4]] == [
        "yours", "held", "free",
    ]  # fmt: skip
    assert f"sleep (pid {mine}, 8.6 GiB)" in said
    assert "3 cards on 1 server: 1 free, 1 yours, 1 held by others; 38.1 of 120.0 GiB in use" in said


def test_a_server_that_does_not_answer_hides_no_other(cards: Cards) -> None:
    cards.are(card_row(0))
    config = cards.root / ".remote/configs.yaml"
    far = "  far: {hostname: 127.0.0.1, port: 1}\n"
    config.write_text(config.read_text().replace("servers:\n", f"servers:\n{far}"))
    told = cards.rl.json("servers", "--gpus", code=3)
    assert [(one["name"], one["reachable"], len(one["cards"])) for one in told["data"]] == [
        ("far", False, 0), ("a", True, 1), ("b", True, 1),
    ]  # fmt: skip
    assert (told["status"], len(told["errors"])) == ("partial", 1)


def test_watching_without_a_terminal_prints_one_look_after_the_other(cards: Cards) -> None:
    cards.are(fails="Failed to initialize NVML: Driver/library version mismatch")
    words = [rl_path(), "servers", "--server", "a", "--watch", "0.5", "--json"]
    where = {"cwd": cards.root, "env": cards.rl.env}
    with subprocess.Popen(words, **where, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        try:
            looks = [json.loads(watch.stdout.readline()) for _ in range(2)]
            watch.send_signal(signal.SIGINT)
            assert watch.wait(60) == 0
        finally:
            watch.kill()
    assert looks[0]["data"] == looks[1]["data"]
    assert "the driver was updated" in looks[0]["warnings"][0]


def test_a_launch_over_unequal_cards(cards: Cards, environment: str) -> None:
    """Planned, not started: 1 rank on the first server, 3 on the second, none on the card that is held."""
    cards.are(*(card_row(index, used_mb=9000 * (index == 0)) for index in range(5)))
    cards.use(environment)
    words = ["torch-launch", "--dry-run", "--gpus"]
    plan = cards.rl(*words, "a:4", "--nproc-per-node", "gpu", "train.py").stdout
    assert "# a: card 4 (NVIDIA A100-SXM4-40GB), as you named them" in plan
    assert "# b: cards 1, 2, 3 of 5 (NVIDIA A100-SXM4-40GB); card 0 is held by a process" in plan
    assert "card 4 is held by another node of this launch" in plan
    shown = [line for line in plan.splitlines() if line.startswith(("export CUDA_V", "export WORLD"))]
    assert shown == [
        "export WORLD_SIZE=4",
        "export CUDA_VISIBLE_DEVICES=4",
        "export WORLD_SIZE=4",
        "export CUDA_VISIBLE_DEVICES=1,2,3",
    ]
    plan = cards.rl.json("torch-launch", "--gpus-per-node", "2", "--dry-run", "train.py")["data"]
    kept = [[card["index"] for card in node["choices"]["gpus"]["cards"]] for node in plan["nodes"]]
    assert kept == [[1, 2], [3, 4]]
    said = cards.rl("torch-launch", "--gpus-per-node", "3", "--dry-run", "train.py", code=None).stderr
    assert "b: --gpus-per-node 3, but 1 of its 5 cards is free" in said


def test_a_job_gets_the_card_that_is_free(cards: Cards) -> None:
    cards.are(card_row(0, used_mb=9000), card_row(1))
    job = cards.rl.json("job-run", "--server", "a", "--gpus-per-node", "1", "--", "env")["data"][0]
    cards.rl("job-wait", str(job["key"]))
    assert "CUDA_VISIBLE_DEVICES=1\n" in cards.rl("job-tail", "--no-follow", str(job["key"])).stdout
    named = cards.rl("job-run", "--server", "a", "--gpus", "0", "--dry-run", "--", "env")
    assert "CUDA_VISIBLE_DEVICES=0" in named.stdout
    assert "it was named, so it is used" in named.stderr
