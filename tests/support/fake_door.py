"""A member's door at which nobody knocks, for tests of what is decided behind it."""

from __future__ import annotations


class FakeDoor:
    """Stands for ``remote.door.Door``."""

    port = 1

    def __init__(self, *_: object) -> None:
        pass

    def tick(self, now: float) -> None:
        """Nobody comes."""

    def close(self) -> None:
        """Nothing is open."""
