"""Unequal numbers of cards on two hosts: one rank a card, with real torchrun and gloo. The cards are a
stand-in's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster.test_main_path import ENVIRONMENTS, make_project
from tests.support.stand_in_cards import card_row, process_row, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.docker_hosts import DockerHost

PLACE = "/usr/local/bin/nvidia-smi"
# Every rank tells the others who it is, and rank 0 what all have told.
WHO = """
import json, os
import torch.distributed as dist
dist.init_process_group("gloo")
me = [os.environ[name] for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "CUDA_VISIBLE_DEVICES")]
told = [None] * dist.get_world_size()
dist.all_gather_object(told, me)
if dist.get_rank() == 0:
    print("told", json.dumps(told), flush=True)
dist.destroy_process_group()
"""


@pytest.fixture
def cards(hosts: list[DockerHost]) -> Iterator[list[DockerHost]]:
    """host-0 has one card; host-1 has four, on the first of which root runs something."""
    pid = hosts[1].exec("sleep 600 >/dev/null 2>&1 & echo $!").strip()
    try:
        hosts[0].write(PLACE, program([card_row(0)]), user="root")
        rows = [card_row(index, used_mb=9000 if index == 0 else 4) for index in range(4)]
        hosts[1].write(PLACE, program(rows, [process_row(0, int(pid), 8800)]), user="root")
        for host in hosts:
            host.exec(f"chmod 755 {PLACE}")
        yield hosts
    finally:
        for host in hosts:
            host.exec(f"rm -f {PLACE}")
        hosts[1].exec(f"kill {pid}")


def test_one_rank_and_three(tmp_path: Path, cards: list[DockerHost], inventory: WriteInventory) -> None:
    rl = make_project(tmp_path / "project", cards, inventory, "train-uv", ENVIRONMENTS["uv"])
    (rl.project / "who.py").write_text(WHO)
    shown = rl.json("servers", "--gpus")["data"][1]["cards"]
    assert "root (sleep, pid" in shown[0]["busy"]
    assert [card["busy"] for card in shown[1:]] == [None] * 3
    launched = rl("torch-launch", "--rsync", "--nproc-per-node", "gpu", "--follow", "who.py").stdout
    told = json.loads(launched.partition("told ")[2].splitlines()[0])
    assert told == [
        ["0", "0", "0", "0"], ["1", "0", "1", "1,2,3"], ["2", "1", "1", "1,2,3"], ["3", "2", "1", "1,2,3"],
    ]  # fmt: skip
    refused = rl("torch-launch", "--gpus-per-node", "2", "who.py", code=1).stderr
    assert "host-0: --gpus-per-node 2, but 1 of its 1 cards is free" in refused
