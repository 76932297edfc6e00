"""Unequal numbers of cards on two hosts: one rank a card, with real torchrun and gloo. The cards are a
stand-in's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.training import make_project

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import GiveCards
    from tests.support.docker_hosts import DockerHost

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
dist.barrier()
os._exit(0)  # now and then gloo's threads abort a Python that shuts down
"""


def test_one_rank_and_three(tmp_path: Path, hosts: list[DockerHost], give_cards: GiveCards) -> None:
    """host-0 has one card; host-1 has four, on the first of which root runs something."""
    give_cards(hosts[0], 1)
    give_cards(hosts[1], 4, first_is_busy=True)
    rl = make_project(tmp_path / "project", hosts)
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
    assert "host-0: --gpus-per-node 2, but it has one card" in refused
