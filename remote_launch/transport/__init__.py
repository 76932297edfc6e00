"""Ways to reach a server. The only package that knows ssh and rsync. See ``base`` for the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remote_launch.transport.base import Target, Transport


def open_transport(target: Target) -> Transport:
    """Given a target, return its transport, not yet connected."""
    if target.transport == "local":
        from remote_launch.transport.local import LocalTransport

        return LocalTransport(target)
    if target.transport == "fabric":
        from remote_launch.transport.fabric import FabricTransport

        return FabricTransport(target)
    from remote_launch.transport.openssh import OpensshTransport

    return OpensshTransport(target)
