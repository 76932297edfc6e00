"""The docs name every command and option; no text of ours names a command that there isn't."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import click
import pytest

from remote_launch.cli.main import COMMANDS, rl

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
NAMES = [name for section in COMMANDS.values() for name in section]
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", REFERENCE, flags=re.MULTILINE | re.DOTALL))


def command(name: str) -> click.Command:
    found = rl.get_command(click.Context(rl), name)
    assert found is not None
    return found


def options_of(name: str) -> set[str]:
    options = [
        option for option in command(name).params if isinstance(option, click.Option) and not option.hidden
    ]
    return {word for option in options for word in (*option.opts, *option.secondary_opts)}


class TestReference:
    def test_has_every_command_in_the_order_of_help(self) -> None:
        assert list(SECTIONS) == NAMES

    @pytest.mark.parametrize("name", NAMES)
    def test_has_every_option_and_no_other(self, name: str) -> None:
        rows = re.findall(r"^\| (`.*?) \|", SECTIONS[name], flags=re.MULTILINE)
        documented = {word for row in rows for word in re.findall(r"`(-[-\w]+)", row)}
        assert documented == options_of(name), f"docs/commands.md, {name}"

    @pytest.mark.parametrize("name", NAMES)
    def test_has_an_example_that_parses(self, name: str) -> None:
        lines = re.findall(rf"^    rl {name}(?: (.*))?$", SECTIONS[name], flags=re.MULTILINE)
        assert lines, f"docs/commands.md: {name} has no example"
        for line in lines:
            words = list(itertools.takewhile(lambda word: word != "&&", shlex.split(line)))
            parser = command(name).make_parser(click.Context(command(name), **command(name).context_settings))
            parser.parse_args(words)  # raises for an option that isn't there


def texts() -> list[Path]:
    """What people read of ours: the docs, and the messages in the code."""
    docs = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / ".remote-template").iterdir(),
    ]
    return sorted([*docs, *(ROOT / "remote_launch").rglob("*.py"), *(ROOT / "sample").glob("*.py")])


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_text_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.=-])rl ([a-z][-a-z]+)(?=[\s`\"',;.)|:]|$)", text))
    words = {word for word in named if "-" in word or word in SUSPECTS or word in NAMES}
    unknown = words - set(NAMES)
    assert not unknown, (
        f"{path.relative_to(ROOT)} names commands that rl does not have: {', '.join(sorted(unknown))}"
    )


# Words that follow "rl" in prose are not all commands; these would be, if they were there.
SUSPECTS = {
    "sync",
    "doctor",
    "launch",
    "tail",
    "list",
    "kill",
    "wait",
    "show",
    "push",
    "pull",
    "check",
    "status",
    "logs",
    "install",
}


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), (
                f"{path.relative_to(ROOT)} links to {target}: no such file"
            )
