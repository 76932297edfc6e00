"""Servers that failed alike share one block, so that sixteen of them don't fill three screens."""

from __future__ import annotations

import pytest

from remote_launch.cli import output
from remote_launch.cli.alike import fold
from remote_launch.errors import PrepareError, RemoteLaunchError, TopologyError

NO_TORCH = "torch is not installed in /home/me/p/.rl/env/bin/python"


def no_torch(server: str) -> RemoteLaunchError:
    return TopologyError(f"{server}: {NO_TORCH}", hint="add torch to requirements.txt")


def no_six(server: str, line: str = "ERROR: No matching distribution found for sixx") -> RemoteLaunchError:
    return PrepareError(
        server,
        "install packages (uv)",
        f"exit code 1\n{line}",
        hint=f"no such package\nthe whole output: .remote/logs/2026-{server}.log",
    )


def test_the_same_failure_of_several_servers_is_one_block_with_all_their_names() -> None:
    folded = fold([no_torch("a"), no_torch("b"), no_torch("c")])
    assert folded == [(f"a, b, c: {NO_TORCH}", "add torch to requirements.txt")]


def test_each_server_has_a_log_of_its_own_and_the_first_one_is_named() -> None:
    [(message, hint)] = fold([no_six("a"), no_six("b"), no_six("c")])
    assert message.startswith("a, b, c: install packages (uv): exit code 1\n")
    assert hint.splitlines() == [
        "no such package",
        "the whole output: .remote/logs/2026-a.log (the logs of the other 2 lie beside it)",
    ]


def test_a_single_failure_is_as_it_was() -> None:
    error = no_six("a")
    assert fold([error]) == [(error.message, error.hint)]


def test_what_differs_stays_apart_and_in_the_order_of_the_first_of_each_kind() -> None:
    folded = fold([no_torch("a"), no_six("b"), no_torch("c"), no_six("d", "ERROR: another")])
    assert [message.partition(":")[0] for message, _ in folded] == ["a, c", "b", "d"]


@pytest.mark.parametrize("message", ["it broke", "", "first line\nkey: value"])
def test_what_names_no_server_is_never_folded(message: str) -> None:
    errors = [RemoteLaunchError(message), RemoteLaunchError(message)]
    assert fold(errors) == [(message, ""), (message, "")]


def test_another_next_step_is_another_block() -> None:
    errors = [TopologyError(f"{name}: no way in", hint=f"ssh {name}") for name in ("a", "b")]
    assert len(fold(errors)) == 2


def test_it_is_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_failures([no_torch("a"), no_torch("b")])
    assert capsys.readouterr().err.splitlines() == [
        f"✗ a, b: {NO_TORCH}", "  → add torch to requirements.txt"]
