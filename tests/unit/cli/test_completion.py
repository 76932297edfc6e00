"""What the shell is offered where a command of the user's, or its script, stands."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from remote_launch.cli.main import rl


def offered(*words: str) -> list[tuple[str, str]]:
    *before, incomplete = words
    found = ShellComplete(rl, {}, "rl", "_RL_COMPLETE").get_completions(list(before), incomplete)
    return [(item.type, str(item.value)) for item in found]


@pytest.mark.parametrize(
    "words",
    [
        ("torch-launch", "--nproc-per-node", "2", "tr"),
        ("torch-launch", "train.py", "--data", "da"),
        ("helper-torch-launch", "tr"),
        ("run", "--server", "gpu-a", "--", "py"),
        ("job-run", "--server", "gpu-a", "--", "python", "pr"),
    ],
)
def test_files_where_a_script_or_a_command_stands(words: tuple[str, ...]) -> None:
    assert offered(*words) == [("file", words[-1])]


def test_what_the_number_of_ranks_may_be() -> None:
    assert offered("torch-launch", "--nproc-per-node", "") == [
        ("plain", "gpu"), ("plain", "cpu"), ("plain", "auto")]
    assert offered("torch-launch", "--nproc-per-node", "a") == [("plain", "auto")]
