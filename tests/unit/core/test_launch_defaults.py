"""What the inventory says of every launch, and what the command line says of one."""

from __future__ import annotations

import pytest

from remote_launch.core.launch_defaults import LaunchDefaults
from remote_launch.errors import UsageError

DEFAULTS = LaunchDefaults(max_restarts=3, restart_window=3600, stall_timeout=600)


def settled(
    defaults: LaunchDefaults, restarts: int | None, window_s: float | None, stall_s: float | None
) -> tuple[object, ...]:
    found = defaults.settle(max_restarts=restarts, restart_window_s=window_s, stall_timeout_s=stall_s)
    return tuple(found.values())


def test_the_inventory_counts_where_nothing_else_is_said() -> None:
    assert settled(DEFAULTS, None, None, None) == (3, 3600, 600)
    assert settled(LaunchDefaults(), None, None, None) == (0, None, None)


def test_options_win() -> None:
    assert settled(DEFAULTS, 1, 60.0, 2.5) == (1, 60, 2.5)
    assert settled(DEFAULTS, None, 60.0, None) == (3, 60, 600)


def test_a_0_turns_off_what_the_inventory_says() -> None:
    assert settled(DEFAULTS, 0, None, 0) == (0, None, None)
    assert settled(DEFAULTS, None, 0, None) == (3, None, 600)


@pytest.mark.parametrize("defaults", [LaunchDefaults(), LaunchDefaults(restart_window=60)])
def test_a_window_alone_is_refused_where_it_was_asked_for(defaults: LaunchDefaults) -> None:
    with pytest.raises(UsageError):
        settled(defaults, None, 60.0, None)
    with pytest.raises(UsageError):
        settled(DEFAULTS, 0, 60.0, None)
    assert settled(defaults, None, None, None) == (0, None, None)
