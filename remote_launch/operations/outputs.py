"""The outputs that the inventory names: where the servers differ in them.

Ranks that each begin from a file on their own disk begin at different epochs when only one node has it, and
then wait for each other for ever."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any

from remote_launch.core.globs import parse_glob
from remote_launch.dataclass import dataclass
from remote_launch.errors import SyncError
from remote_launch.operations.told import epoch_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from remote_launch.core.globs import PathGlob
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.looking import File, Found

# Written by node 0 alone in many a project, and read by no script that goes on from somewhere.
_NO_STATE = re.compile(
    r"events\.out\.tfevents|\.(log|out|err|txt|csv|tsv|jsonl?|ya?ml|html|png|jpe?g|gif|svg|pdf|mp4|tmp|lock)\Z"
)
_SAME_TIME_S = 60.0  # each node writes the same snapshot, none at the very same moment
_SHOWN = 4


def output_globs(fleet: Fleet) -> list[PathGlob]:
    """Return what the inventory names as outputs."""
    return [parse_glob(text) for text in fleet.inventory.outputs]


def per_node_globs(fleet: Fleet) -> list[PathGlob]:
    """Return those of them that each node writes for itself."""
    return [parse_glob(text) for text in fleet.inventory.per_node_outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Files that ``servers`` have and ``others`` lack, or (``others`` empty) that are not the same on all.
    Where some lack them, those that have them need not have the same (``is_same``)."""

    paths: tuple[str, ...]
    servers: tuple[str, ...]
    others: tuple[str, ...] = ()
    newest: str = ""  # the server whose file is the newest
    is_same: bool = True  # on ``servers``

    def __str__(self) -> str:
        first = "".join(char if char.isprintable() else "?" for char in self.paths[0][:200])
        files = first + (f" (and {len(self.paths) - 1} more)" if len(self.paths) > 1 else "")
        are = "are" if len(self.paths) > 1 else "is"
        if not self.others:
            return f"{files} {are} not the same on {listed(self.servers)}: the newest is {self.newest}'s"
        alone = " alone" if len(self.servers) == 1 else f", not on {listed(self.others)}"
        unlike = "" if self.is_same else f", and not the same where it is: the newest is {self.newest}'s"
        return f"{files} {are} on {listed(self.servers)}{alone}{unlike}"


def differences(
    seen: Mapping[str, Sequence[Found]],
    clocks: Mapping[str, float | None] | None = None,
    per_node: Sequence[PathGlob] = (),
) -> list[Difference]:
    """Given what each server has (and its time of day, told at the same moment), return where they differ;
    ``per_node``, logs and the like don't count. Of lists that were cut off, only the part that all have is
    compared."""
    offsets = _offsets(clocks or {})
    groups: dict[tuple[tuple[str, ...], tuple[str, ...], bool], list[str]] = {}
    newest: dict[object, str] = {}
    for index in range(min(map(len, seen.values()), default=0)):
        for path, files in _by_path({name: found[index] for name, found in seen.items()}).items():
            if any(glob.covers(path) for glob in per_node):
                continue
            have = tuple(name for name in seen if name in files)
            lack = tuple(name for name in seen if name not in files)
            is_same = _same(files, offsets)
            if lack or not is_same:
                key = (have, lack, is_same)
                groups.setdefault(key, []).append(path)
                newest.setdefault(key, max(have, key=lambda name: files[name].mtime))
    return [
        Difference(paths=tuple(paths), servers=key[0], others=key[1], newest=newest[key], is_same=key[2])
        for key, paths in groups.items()
    ]


def notice(
    fleet: Fleet, servers: Sequence[Server], answers: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Given what the servers of a launch have answered, return a warning where their outputs differ."""
    globs = output_globs(fleet)
    if not globs:
        return []
    from remote_launch.operations.looking import checked

    seen, clocks = {}, {}
    for server in servers:
        answer = answers[server.name]
        try:
            seen[server.name] = checked(server, answer.get("outputs"), globs)
        except SyncError:
            continue  # it is no reason to start nothing
        clocks[server.name] = epoch_s(answer.get("time"))
    found = differences(seen, clocks, per_node_globs(fleet))
    if not found:
        return []
    newest = {difference.newest for difference in found}
    source = newest.pop() if len(newest) == 1 else "SERVER"
    text = (
        f"outputs differ between the nodes: {in_words(found)}. Ranks that each go on from a file of "
        "their own node begin at different epochs, and wait for each other for ever (not if rank 0 reads it "
        f"for all). rl push-outputs {source} copies them to the others; --clean-outputs removes them "
        "first; where each node writes its own: per_node: true in outputs: (docs/inventory.md)"
    )
    return [text]


def in_words(found: Sequence[Difference]) -> str:
    """Return the first of some differences, in a sentence."""
    lines = [str(difference) for difference in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"and {len(found) - _SHOWN} more")
    return "; ".join(lines)


def _by_path(found: Mapping[str, Found]) -> dict[str, dict[str, File]]:
    """Given what the servers have of one glob, return each file's servers."""
    cut = min(
        (tuple(one.files[-1].path.split("/")) for one in found.values() if not one.whole and one.files),
        default=None,
    )
    if cut is None and not all(one.whole for one in found.values()):
        return {}
    by_path: dict[str, dict[str, File]] = {}
    for name, one in found.items():
        for file in one.files:
            within = cut is None or tuple(file.path.split("/")) <= cut
            if within and not _NO_STATE.search(posixpath.basename(file.path)):
                by_path.setdefault(posixpath.join(one.folder, file.path), {})[name] = file
    return by_path


def _same(files: Mapping[str, File], offsets: Mapping[str, float]) -> bool:
    if len({file.size_bytes for file in files.values()}) > 1:
        return False
    times = [file.mtime for file in files.values()]  # a copy has the time of its original
    true_times = [file.mtime - offsets.get(name, 0.0) for name, file in files.items()]
    return any(max(some) - min(some) <= _SAME_TIME_S for some in (times, true_times))


def _offsets(clocks: Mapping[str, float | None]) -> dict[str, float]:
    known = {name: clock for name, clock in clocks.items() if clock is not None}
    first = next(iter(known.values()), 0.0)
    return {name: clock - first for name, clock in known.items()}


def listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
