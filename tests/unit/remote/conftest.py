from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.served import Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path / "work")
    yield server
    server.end_all()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Served]]:
    """Two servers for one launch."""
    servers = [Served(tmp_path / f"s{rank}") for rank in range(2)]
    yield servers
    for server in servers:
        server.end_all()
