"""A launch waits on two hosts for a card that another user's process holds. The cards are a stand-in's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.served import until
from tests.support.training import make_project

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import GiveCards
    from tests.support.docker_hosts import DockerHost

WHO = 'import os; print("rank", os.environ["RANK"], "card", os.environ["CUDA_VISIBLE_DEVICES"])'


def test_a_launch_waits_until_the_card_is_free(
    tmp_path: Path, hosts: list[DockerHost], give_cards: GiveCards
) -> None:
    """Each host has one card; root runs something on that of host-1."""
    give_cards(hosts[0], 1)
    give_cards(hosts[1], 1, first_is_busy=True)
    rl = make_project(tmp_path / "project", hosts)
    (rl.project / "who.py").write_text(WHO)
    rl("torch-launch", "--no-check", "--rsync", "--queue", "--nproc-per-node", "1", "who.py")
    until(lambda: "card 0 is used by root (sleep" in rl("job-list", "--rsync").stdout, "it waits", 240)
    assert {job["state"] for job in rl.json("job-list")["data"]} == {"QUEUED"}
    give_cards(hosts[1], 1)
    rl("job-wait")
    assert rl("job-tail", "1").stdout == "rank 0 card 0\n"
    assert all(host.exec("ls -d /tmp/rl-slots-*/*").startswith("/tmp/rl-slots-") for host in hosts)
