"""What a script that uses the package sees of an error that it doesn't catch."""

from __future__ import annotations

import sys
import traceback

import pytest

from remote_launch.errors import RemoteLaunchError, ServersFailedError, TopologyError

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="no notes of exceptions before 3.11")


def shown(error: Exception) -> list[str]:
    return "".join(traceback.format_exception(error)).splitlines()


def test_a_traceback_ends_with_the_next_step() -> None:
    assert shown(RemoteLaunchError("no .remote folder", hint="rl init\nor --project"))[-3:] == [
        "remote_launch.errors.RemoteLaunchError: no .remote folder", "→ rl init", "→ or --project"]
    assert shown(RemoteLaunchError("it broke"))[-1].endswith("it broke")


def test_what_happened_on_each_server_is_in_it() -> None:
    failed = TopologyError("b: torch is not installed", hint="add torch")
    lines = shown(ServersFailedError({"a": None, "b": failed}, "nothing was started"))
    assert lines[-3:] == [
        "remote_launch.errors.ServersFailedError: nothing was started: 1 of 2 servers failed",
        "✗ b: torch is not installed",
        "  → add torch",
    ]


def test_the_message_is_as_it_was() -> None:
    assert str(RemoteLaunchError("it broke", hint="mend it")) == "it broke"
