"""What differs between the environments of servers that are to train together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Versions = Mapping[str, str | None]

_NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that is not alike on all servers: which have what, and why it matters."""

    what: str
    servers: Mapping[str, tuple[str, ...]]  # by version
    why: str

    @property
    def text(self) -> str:
        """Return it in one sentence, what most servers have first."""
        by_count = sorted(self.servers.items(), key=lambda item: -len(item[1]))
        return f"{self.what} differs: " + "; ".join(f"{value} on {', '.join(on)}" for value, on in by_count)


def find_differences(versions: Mapping[str, Versions]) -> list[Difference]:
    """Given {"python", "torch", "cuda"} of each server (None: it hasn't), return what is not alike.

    Python's last number is let pass, and so is a server whose Python isn't known."""
    known = {name: found for name, found in versions.items() if found.get("python")}
    found = [_difference(known, what, value, why) for what, value, why in _QUESTIONS]
    return [difference for difference in found if difference is not None]


def _difference(
    versions: Mapping[str, Versions], what: str, value: Callable[[Versions], str | None], why: str
) -> Difference | None:
    servers: dict[str, tuple[str, ...]] = {}
    for name, found in versions.items():
        has = value(found)
        if has is not None:
            servers[has] = (*servers.get(has, ()), name)
    return Difference(what=what, servers=servers, why=why) if len(servers) > 1 else None


def _python(found: Versions) -> str:
    return ".".join((found.get("python") or "").split(".")[:2])


def _torch(found: Versions) -> str:
    """Its version without the build: "2.13.0" of "2.13.0+cpu"."""
    return (found.get("torch") or _NONE).partition("+")[0]


def _cuda(found: Versions) -> str | None:
    if not found.get("torch"):
        return None  # said already
    return found.get("cuda") or "a build without CUDA"


_QUESTIONS: tuple[tuple[str, Callable[[Versions], str | None], str], ...] = (
    (
        "Python",
        _python,
        "what one rank pickles another may not read; environment.python: names one for all",
    ),
    (
        "torch",
        _torch,
        "ranks of different versions hang or crash in their first collective; name one in the requirements",
    ),
    (
        "torch's CUDA",
        _cuda,
        "ranks of different builds hang or crash; torch_backend: or extra_index_url: names one for all",
    ),
)
