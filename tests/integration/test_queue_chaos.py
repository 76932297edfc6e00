"""Jobs queue on three servers while kill -9 strikes: no slot is shared, no job lost, the order kept.

benchmarks/queue_chaos.py does it with hundreds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.queue_chaos import Chaos

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Chaos]:
    made = Chaos(tmp_path, servers=3, slots=2)
    yield made
    made.close()


def test_jobs_and_launches_queue_through_chaos(chaos: Chaos) -> None:
    for number in range(7):
        chaos.submit((0.1, 0.6))
        if number in (2, 4):
            chaos.submit((0.1, 0.6), gang=True)
        chaos.strike()
    strikes = 0
    for _ in range(20):
        strikes += chaos.strike() is not None
        time.sleep(0.05)
        if strikes >= 8:
            break
    chaos.wait(240)
    assert chaos.check()["jobs"] == 25
