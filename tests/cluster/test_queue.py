"""A launch waits on two hosts for a card that another user's process holds. The cards are a stand-in's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.test_main_path import ENVIRONMENTS, make_project
from tests.support.served import until
from tests.support.stand_in_cards import card_row, process_row, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.docker_hosts import DockerHost

PLACE = "/usr/local/bin/nvidia-smi"
WHO = 'import os; print("rank", os.environ["RANK"], "card", os.environ["CUDA_VISIBLE_DEVICES"])'


@pytest.fixture
def cards(hosts: list[DockerHost]) -> Iterator[list[DockerHost]]:
    """Each host has one card; root runs something on that of host-1."""
    pid = hosts[1].exec("sleep 600 >/dev/null 2>&1 & echo $!").strip()
    try:
        hosts[0].write(PLACE, program([card_row(0)]), user="root")
        hosts[1].write(PLACE, program([card_row(0)], [process_row(0, int(pid), 8800)]), user="root")
        for host in hosts:
            host.exec(f"chmod 755 {PLACE}")
        yield hosts
    finally:
        for host in hosts:
            host.exec(f"rm -f {PLACE}")
        hosts[1].exec(f"kill {pid}")


def test_a_launch_waits_until_the_card_is_free(
    tmp_path: Path, cards: list[DockerHost], inventory: WriteInventory
) -> None:
    rl = make_project(tmp_path / "project", cards, inventory, "train-uv", ENVIRONMENTS["uv"])
    (rl.project / "who.py").write_text(WHO)
    rl("torch-launch", "--no-check", "--rsync", "--queue", "--nproc-per-node", "1", "who.py")
    until(lambda: "card 0 is used by root (sleep" in rl("job-list", "--rsync").stdout, "it waits", 40)
    assert {job["state"] for job in rl.json("job-list")["data"]} == {"QUEUED"}
    cards[1].write(PLACE, program([card_row(0)]), user="root")
    cards[1].exec(f"chmod 755 {PLACE}")
    rl("job-wait")
    assert rl("job-tail", "1").stdout == "rank 0 card 0\n"
    assert all(host.exec("ls -d /tmp/rl-slots-*/*").startswith("/tmp/rl-slots-") for host in cards)
