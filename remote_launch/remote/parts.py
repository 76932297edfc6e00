"""A job's part in its launch: node 0 coordinates at first, the others are members, a job alone has none."""

from __future__ import annotations

from .gang import GangSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .coordinator import Coordinator
    from .gang import Host
    from .member import Member


def has_gang(spec: dict[str, Any]) -> bool:
    """True for a job that has other nodes."""
    gang = spec.get("gang")
    return isinstance(gang, dict) and gang.get("nnodes") != 1


def is_spare(spec: dict[str, Any]) -> bool:
    """True for a job that is to stand by. Raises Refusal."""
    gang = spec.get("gang")
    return isinstance(gang, dict) and bool(gang.get("spares")) and GangSettings(spec).is_spare


def join(spec: dict[str, Any], host: Host) -> Coordinator | Member | None:
    """Return the part, listening already when it is node 0's; None for a job alone. Raises Refusal."""
    if not has_gang(spec):
        return None
    from .coordinator import Coordinator
    from .member import Member

    settings = GangSettings(spec)
    return Coordinator(settings, host) if settings.node == 0 else Member(settings, host)
