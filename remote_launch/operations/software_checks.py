"""What a server's facts mean for training on it: workdir, rsync, environment, torch, driver, cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.operations.told import mapping, mappings, number, text, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from remote_launch.core.findings import Finding, Level
    from remote_launch.operations.checks import Examined

HOT_C = 90  # where cards begin to slow down
_OLD_RSYNC = 3
# By the state of an environment (EnvironmentReport): what is said of it, and how bad it is.
_STATES: Mapping[str, tuple[Level, str]] = {
    "up_to_date": ("ok", "as the project asks for"),
    "changed": ("warning", "the project asks for another one by now"),
    "packages_changed": ("warning", "the project asks for other packages by now"),
    "packages_missing": ("error", "its packages are not installed"),
    "unfinished": ("error", "half made: a prepare was broken off"),
    "broken": ("error", "its python is gone"),
    "other_platform": ("error", "made for another kind of machine"),
    "foreign": ("error", "its folder was not made by rl"),
    "absent": ("warning", "not prepared yet"),
}


def judge_software(found: Examined) -> Iterator[Finding]:
    """Return what there is to say of what is installed."""
    for judge in _JUDGES:
        yield from judge(found)


def versions_of(found: Examined) -> dict[str, str | None]:
    """Return {"python", "torch", "cuda", "nccl"} of a server's environment; what torch said of itself, where
    it was imported, wins over its files."""
    environment, built = mapping(found.facts.get("environment")), mapping(found.facts.get("torch"))
    told = mapping(found.facts.get("import"))
    versions = mapping(environment.get("versions"))
    return {
        "python": text(versions.get("python")),
        "torch": text(told.get("torch")) or text(built.get("torch")) or text(versions.get("torch")),
        "cuda": text(built.get("cuda")) or text(versions.get("cuda")),
        "nccl": text(told.get("nccl")) or text(built.get("nccl")),
    }


def workdir(found: Examined) -> Iterator[Finding]:
    facts = mapping(found.facts.get("workdir"))
    path = text(facts.get("path")) or found.server.workdir
    if facts.get("readonly") is True or facts.get("writable") is False:
        why = "is on a read-only disk" if facts.get("readonly") is True else "can't be written"
        yield found.finding(
            "workdir", "error", f"{path} {why}", data=facts,
            do="make it, owned by the user who logs in; or set workdir: to a folder that can be written",
        )  # fmt: skip
    elif facts:
        there = "" if facts.get("exists") is True else ", not there yet"
        yield found.finding("workdir", "ok", "can be written", detail=f"{path}{there}", data=facts)


def rsync(found: Examined) -> Iterator[Finding]:
    version = text(found.facts.get("rsync"))
    major = (version or "").partition(".")[0]
    if version is None:
        if "rsync" not in texts(found.facts.get("late")):
            yield found.finding(
                "rsync", "error", "there is no rsync: the project can't be sent",
                do="install it there: apt-get install rsync (dnf, conda install -c conda-forge rsync)",
            )  # fmt: skip
    elif major.isdigit() and int(major) < _OLD_RSYNC:
        yield found.finding("rsync", "warning", "rsync is very old", detail=version, do="install rsync 3")
    else:
        yield found.finding("rsync", "ok", "there", detail=version)


def environment(found: Examined) -> Iterator[Finding]:
    state = found.environment
    if state is None:
        return
    level, message = _STATES.get(state, ("warning", f"in an unknown state: {state}"))
    why = text(mapping(found.facts.get("environment")).get("why")) or ""
    do = {"ok": None}.get(level, "rl prepare")
    if state == "foreign":
        do = "another environment.prefix: (name:, with conda), or manager: none to use it as it is"
    yield found.finding("environment", level, message, detail=why, do=do, data={"state": state})


def python(found: Examined) -> Iterator[Finding]:
    facts = mapping(found.facts.get("environment"))
    version, path = versions_of(found)["python"], text(facts.get("interpreter"))
    if path is None:
        message = "there is no interpreter for jobs yet"
        yield found.finding("python", "warning", message, do="rl prepare; or python: in the inventory")
        return
    if version is None:
        message = "its interpreter does not answer"
        yield found.finding("python", "error", message, detail=path, do="rl prepare")
        return
    yield found.finding("python", "ok", version, data={"interpreter": path, "version": version})


def torch(found: Examined) -> Iterator[Finding]:
    built = mapping(found.facts.get("torch"))
    versions, cards = versions_of(found), mappings(mapping(found.facts.get("gpus")).get("cards"))
    cuda, hip = versions["cuda"], text(built.get("hip"))
    if text(mapping(found.facts.get("environment")).get("interpreter")) is None:
        return  # said already
    if versions["torch"] is None:
        yield found.finding(
            "torch", "warning", "not installed in the environment", data=versions,
            do="add torch to requirements.txt, then rl prepare",
        )  # fmt: skip
        return
    build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "for the CPU"
    nccl = f", NCCL {versions['nccl']}" if versions["nccl"] else ""
    told = f"{versions['torch']} ({build}{nccl})"
    vendors = {text(card.get("vendor")) for card in cards}
    if cards and not (cuda or hip):
        yield found.finding(
            "torch", "warning", "is built for the CPU: it will not use the cards", detail=told, data=versions,
            do="torch_backend: auto (uv), or the right extra_index_url: under environment:, then rl prepare",
        )  # fmt: skip
    elif (hip and vendors == {"nvidia"}) or (cuda and vendors == {"amd"}):
        yield found.finding(
            "torch", "error", "is built for another maker's cards", detail=told, data=versions,
            do="torch_backend: or extra_index_url: under environment:, then rl prepare",
        )  # fmt: skip
    else:
        yield found.finding("torch", "ok", told, data=versions)


def imported(found: Examined) -> Iterator[Finding]:
    """Judge what torch says of itself (``--deep``)."""
    if "import" not in found.facts:
        return
    told = mapping(found.facts.get("import"))
    error, why, cards = text(told.get("error")), text(told.get("why")), number(told.get("cards")) or 0
    if not told or error is not None:
        if versions_of(found)["torch"] is not None:
            yield found.finding(
                "import", "error", "torch can't be imported", detail=error or "no answer in time",
                do=f"see all of it: rl run --server {found.server.name} -- python -c 'import torch'",
            )  # fmt: skip
        return
    data = {key: told.get(key) for key in ("torch", "cuda", "nccl", "gloo", "cards", "seconds")}
    has_cards = bool(mappings(mapping(found.facts.get("gpus")).get("cards")))
    if told.get("gloo") is False:
        message = "torch has no gloo: ranks without GPUs can't talk"
        yield found.finding("import", "error", message, do="install an official build of torch", data=data)
    elif why and has_cards:
        yield found.finding(
            "import", "error", "torch can't use the cards", detail=why, data=data,
            do="the driver and torch's CUDA must fit; CUDA_VISIBLE_DEVICES may hide the cards",
        )  # fmt: skip
    else:
        detail = f"it sees {cards} card{'' if cards == 1 else 's'}"
        yield found.finding("import", "ok", "torch can be imported", detail=detail, data=data)


def driver(found: Examined) -> Iterator[Finding]:
    facts = mapping(found.facts.get("driver"))
    version, newest = text(facts.get("version")), text(facts.get("cuda"))
    if version is None and newest is None:
        return
    built = versions_of(found)["cuda"]
    have, needs = _numbers(newest), _numbers(built)
    detail = f"driver {version or '?'} runs CUDA {newest or '?'}, torch is built for {built or 'none'}"
    newer = "a newer driver there, or torch for an older CUDA: torch_backend: cu126 (uv), extra_index_url:"
    if have and needs and needs[0] > have[0]:
        message = "the NVIDIA driver is too old for torch's CUDA"
        yield found.finding("driver", "error", message, detail=detail, do=newer, data=facts)
    elif have and needs and needs > have:
        message = "the NVIDIA driver is older than torch's CUDA: most works, compiled kernels may not"
        yield found.finding("driver", "note", message, detail=detail, do=newer, data=facts)
    else:
        words = [f"NVIDIA {version}" if version else "", f"for CUDA {newest}" if newest else ""]
        yield found.finding("driver", "ok", " ".join(word for word in words if word), data=facts)


def cards(found: Examined) -> Iterator[Finding]:
    facts = mapping(found.facts.get("gpus"))
    there = mappings(facts.get("cards"))
    for problem in texts(facts.get("problems")):
        what, _, do = problem.partition(": ")
        yield found.finding("gpus", "error", what, do=do or None)
    if not there:
        if facts and not texts(facts.get("problems")):
            yield found.finding("gpus", "ok", "no cards")
        return
    names = [text(card.get("name")) or "a card" for card in there]
    kinds = ", ".join(f"{names.count(name)}× {name}" for name in dict.fromkeys(names))
    yield found.finding("gpus", "ok", kinds, data={"cards": len(there)})
    for card in there:
        yield from _card(found, card)
    nproc = found.server.nproc_per_node
    if isinstance(nproc, int) and nproc > len(there):
        message = "nproc_per_node: in the inventory is more than it has cards"
        detail = f"{nproc} for {len(there)}"
        yield found.finding("gpus", "warning", message, detail=detail, do="nproc_per_node: gpu")
    visible = {name: value for name, value in mapping(facts.get("visible")).items() if isinstance(value, str)}
    if visible:
        detail = ", ".join(f"{name}={value}" for name, value in visible.items())
        message = "logins there see some of the cards only"
        yield found.finding("gpus", "note", message, detail=detail, data=visible)


def _card(found: Examined, card: dict[str, object]) -> Iterator[Finding]:
    which = f"card {number(card.get('index'))}"
    trouble, busy = text(card.get("trouble")), text(card.get("busy"))
    errors, heat = number(card.get("ecc_errors")), number(card.get("temperature_c"))
    if trouble:
        what, _, do = trouble.partition(" (")
        yield found.finding("gpus", "error", f"{which} {what}", do=do.removesuffix(")") or None)
    if errors:
        yield found.finding(
            "gpus", "warning", f"{which} had memory errors that can't be corrected",
            detail=f"{errors} since it started",
            do="reset it (nvidia-smi --gpu-reset as root) or reboot; if they come back, it is broken",
        )  # fmt: skip
    if heat is not None and heat >= HOT_C:
        message = f"{which} is hot, and slows down"
        yield found.finding("gpus", "warning", message, detail=f"{heat} °C", do="look at its cooling")
    if busy:
        yield found.finding(
            "gpus", "warning", f"{which} is used by somebody else", detail=busy,
            do="--gpus chooses others, --queue waits for free ones",
        )  # fmt: skip


def _numbers(version: str | None) -> tuple[int, ...]:
    words = (version or "").split(".")[:2]
    return tuple(int(word) for word in words if word.isdecimal()) if len(words) == 2 else ()


_JUDGES: tuple[Callable[[Examined], Iterator[Finding]], ...] = (
    workdir, rsync, environment, python, torch, imported, driver, cards,
)  # fmt: skip
