"""What the shell offers where nothing needs to be known of the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


def complete_ranks(_ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the words that --nproc-per-node may be; a number is typed."""
    return [word for word in ("gpu", "cpu", "auto") if word.startswith(incomplete)]


def complete_files(_ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For a script, or a command and its arguments: the shell's own completion of files."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]
