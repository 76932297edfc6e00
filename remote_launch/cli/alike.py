"""One block for servers that failed in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from remote_launch.errors import RemoteLaunchError

_LOG = "the whole output: "  # a line of the hint that is each server's own


def fold(errors: Iterable[RemoteLaunchError]) -> list[tuple[str, str]]:
    """Given errors, return (message, hint) of each block to show: those that say "<server>: the same", with
    the same next step, are one with all their names, at the place of the first."""
    kinds: dict[object, list[tuple[str, RemoteLaunchError]]] = {}
    for error in errors:
        name, colon, rest = error.message.partition(": ")
        if colon and "\n" not in name:
            kinds.setdefault((rest, _without_log(error)), []).append((name, error))
        else:
            kinds[id(error)] = [("", error)]
    return [_block(kind) for kind in kinds.values()]


def _block(kind: list[tuple[str, RemoteLaunchError]]) -> tuple[str, str]:
    first = kind[0][1]
    hint = first.hint or ""
    if len(kind) == 1:
        return first.message, hint
    rest = first.message.partition(": ")[2]
    others = len(kind) - 1
    beside = "the other's log lies" if others == 1 else f"the logs of the other {others} lie"
    lines = [
        f"{line} ({beside} beside it)" if line.startswith(_LOG) else line for line in hint.splitlines()
    ]
    return f"{', '.join(name for name, _ in kind)}: {rest}", "\n".join(lines)


def _without_log(error: RemoteLaunchError) -> tuple[str, ...]:
    return tuple(line for line in (error.hint or "").splitlines() if not line.startswith(_LOG))
