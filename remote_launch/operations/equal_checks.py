"""What differs between servers that are to train together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.core.environments.differences import find_differences
from remote_launch.core.findings import Finding, Level
from remote_launch.operations.software_checks import versions_of
from remote_launch.operations.told import mapping, mappings, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from remote_launch.operations.checks import Examined

_LEVELS: Mapping[str, Level] = {"Python": "warning"}  # of what differs; else it won't work
_ONE_NCCL = "ranks of different NCCL versions hang in their first collective; the same torch brings the same"


def judge_equal(found: Sequence[Examined]) -> Iterator[Finding]:
    """Return what there is to say of all of them together; nothing of one alone."""
    if len(found) < 2:
        return
    names = tuple(one.server.name for one in found)
    said = [*_versions(found), *_nccl(found), *_machines(found), *_cards(found)]
    if not any(one.level in ("warning", "error") for one in said):
        known = [one for one in found if versions_of(one)["python"]]
        if len(known) > 1:
            has_torch = any(versions_of(one)["torch"] for one in known)
            what = "Python, torch and its CUDA are" if has_torch else "Python is"
            on = tuple(one.server.name for one in known)
            yield Finding(check="equal", servers=on, level="ok", message=f"{what} the same on all")
    yield from said
    yield from _homes(found, names)


def _versions(found: Sequence[Examined]) -> Iterator[Finding]:
    for difference in find_differences({one.server.name: versions_of(one) for one in found}):
        on = tuple(name for servers in difference.servers.values() for name in servers)
        data = {version: list(servers) for version, servers in difference.servers.items()}
        level = _LEVELS.get(difference.what, "error")
        yield Finding(
            check="equal", servers=on, level=level, message=difference.text, do=difference.why, data=data
        )


def _nccl(found: Sequence[Examined]) -> Iterator[Finding]:
    by_version = _by(found, lambda one: versions_of(one)["nccl"] if versions_of(one)["cuda"] else None)
    if len(by_version) > 1:
        yield _differs("error", "NCCL", by_version, _ONE_NCCL)


def _machines(found: Sequence[Examined]) -> Iterator[Finding]:
    by_arch = _by(found, lambda one: text(mapping(one.facts.get("system")).get("arch")))
    if len(by_arch) > 1:
        do = "environments can't be shared between them, and results may differ in the last digits"
        yield _differs("warning", "the processors' architecture", by_arch, do)


def _cards(found: Sequence[Examined]) -> Iterator[Finding]:
    def kinds(one: Examined) -> str:
        cards = mappings(mapping(one.facts.get("gpus")).get("cards"))
        names = [text(card.get("name")) or "?" for card in cards]
        return ", ".join(f"{names.count(name)}× {name}" for name in dict.fromkeys(names)) or "no cards"

    by_kind = _by(found, kinds)
    if len(by_kind) > 1:
        do = "--nproc-per-node gpu uses what each has; the slowest sets the pace"
        yield _differs("note", "what cards they have", by_kind, do)


def _homes(found: Sequence[Examined], names: Sequence[str]) -> Iterator[Finding]:
    by_home = _by(found, lambda one: text(mapping(one.facts.get("environment")).get("home")))
    for sharing in by_home.values():
        if len(sharing) > 1:
            order = tuple(name for name in names if name in sharing)
            message = "have one workdir: code and environment are there once, each job has its own folder"
            yield Finding(check="equal", servers=order, level="note", message=message)


def _by(found: Sequence[Examined], value: Callable[[Examined], str | None]) -> dict[str, list[str]]:
    """Return the servers' names by a value; without those that have none."""
    groups: dict[str, list[str]] = {}
    for one in found:
        has = value(one)
        if has is not None:
            groups.setdefault(has, []).append(one.server.name)
    return groups


def _differs(level: Level, what: str, groups: Mapping[str, Sequence[str]], do: str) -> Finding:
    by_count = sorted(groups.items(), key=lambda item: -len(item[1]))
    told = "; ".join(f"{value} on {', '.join(on)}" for value, on in by_count)
    on = tuple(name for names in groups.values() for name in names)
    return Finding(
        check="equal", servers=on, level=level, message=f"{what} differs: {told}", do=do,
        data={value: list(names) for value, names in groups.items()},
    )  # fmt: skip
