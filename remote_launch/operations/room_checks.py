"""What a server has room for: disks, memory, /dev/shm, and the limits of its users' processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remote_launch.operations.told import mapping, number, text, texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remote_launch.core.findings import Finding, Level
    from remote_launch.operations.checks import Examined

MB, GB = 1_000_000, 1_000_000_000
DISK_FULL, DISK_LOW = 100 * MB, 5 * GB  # torch with CUDA takes 5 to 8 GB
TEMPORARY_LOW = 1 * GB
INODES_NONE, INODES_LOW = 1_000, 50_000  # an environment with torch has 30,000 files
MEMORY_LOW = 1 << 30
SHM_DOCKER = 64 << 20  # what docker gives when not told otherwise
SHM_FULL = 8 << 20
FILES_FEW, FILES_LOW = 256, 1_024
THREADS_FULL, THREADS_LOW = 64, 512


def judge_room(found: Examined) -> Iterator[Finding]:
    """Return what there is to say of memory, disks and limits."""
    for judge in (memory, shared_memory, disk, limits):
        yield from judge(found)


def disk(found: Examined) -> Iterator[Finding]:
    places = (("disk", "workdir", DISK_LOW), ("temporary", "temporary folder", TEMPORARY_LOW))
    for key, what, low in places:
        facts = mapping(found.facts.get(key))
        free, inodes, inodes_free = (
            number(facts.get(name)) for name in ("free_bytes", "inodes", "inodes_free")
        )
        if free is None or (key != "disk" and _is_same_disk(facts, mapping(found.facts.get("disk")))):
            continue
        detail, data = f"{_size(free)} free", {"what": what, **facts}
        where = f"in {text(facts.get('path')) or what}"
        do = f"free some there: du -xsh {text(facts.get('path')) or what}; rl clean shows what is rl's"
        if free < DISK_FULL:
            yield found.finding("disk", "error", f"no space {where}", detail=detail, do=do, data=data)
        elif inodes and inodes_free is not None and inodes_free < INODES_NONE:
            message = f"no more files can be made {where}: its inodes are used up"
            yield found.finding("disk", "error", message, detail=f"{inodes_free} left", do=do, data=data)
        elif free < low:
            yield found.finding("disk", "warning", f"little space {where}", detail=detail, do=do, data=data)
        elif inodes and inodes_free is not None and inodes_free < INODES_LOW:
            message = f"few inodes {where}: torch alone is 30,000 files"
            yield found.finding("disk", "warning", message, detail=f"{inodes_free} left", do=do, data=data)
        elif key == "disk":
            yield found.finding("disk", "ok", "enough space in the workdir", detail=detail, data=data)


def _is_same_disk(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ("total_bytes", "inodes"))


def memory(found: Examined) -> Iterator[Finding]:
    facts = mapping(found.facts.get("memory"))
    total, free = number(facts.get("total_bytes")), number(facts.get("available_bytes"))
    if total is None or free is None:
        return
    limit = number(facts.get("limit_bytes"))
    detail = f"{_binary(free)} of {_binary(total)}" + (" (its cgroup's limit)" if limit == total else "")
    if free < MEMORY_LOW:
        yield found.finding(
            "memory", "warning", "little memory is free", detail=detail, data=facts,
            do="see who has it: rl run --server NAME -- ps aux --sort=-rss",
        )  # fmt: skip
    else:
        yield found.finding("memory", "ok", "enough free", detail=detail, data=facts)


def shared_memory(found: Examined) -> Iterator[Finding]:
    facts = found.facts.get("shm")
    if "shm" in texts(found.facts.get("late")):
        return
    total, free = (number(mapping(facts).get(name)) for name in ("total_bytes", "free_bytes"))
    data = {"total_bytes": total, "free_bytes": free}
    larger = "in docker: --shm-size=8g (or --ipc=host); else, as root: mount -o remount,size=50% /dev/shm"
    if total is None or free is None:
        yield found.finding(
            "shm", "error", "there is no /dev/shm: DataLoader workers and NCCL need it", do=larger
        )
    elif free < SHM_FULL:
        yield found.finding(
            "shm", "error", "no room in /dev/shm: DataLoader workers and NCCL end with a Bus error",
            detail=f"{_binary(free)} of {_binary(total)} free", data=data,
            do=f"remove what lies there (ls -l /dev/shm), or make it larger: {larger}",
        )  # fmt: skip
    elif free <= SHM_DOCKER:
        yield found.finding(
            "shm", "warning", "little room in /dev/shm: once full, DataLoader workers end with a Bus error",
            detail=f"{_binary(free)} of {_binary(total)} free", data=data,
            do=f"make it larger, or num_workers=0; {larger}",
        )  # fmt: skip
    else:
        detail = f"{_binary(free)} free"
        yield found.finding("shm", "ok", "enough room in /dev/shm", detail=detail, data=data)


def limits(found: Examined) -> Iterator[Finding]:
    facts = mapping(found.facts.get("limits"))
    if not facts:
        return
    said = [*_files(found, facts), *_threads(found, facts), *_locked(found, facts), *_cores(found, facts)]
    yield from said or [found.finding("limits", "ok", "files, processes, locked memory: enough", data=facts)]


def _files(found: Examined, facts: dict[str, Any]) -> Iterator[Finding]:
    soft, hard = number(facts.get("nofile")), number(facts.get("nofile_hard"))
    if soft is None or soft >= FILES_LOW:
        return
    level: Level = "error" if soft < FILES_FEW else "warning"
    raised = "" if hard is not None and hard <= soft else " ulimit -n in ~/.bashrc there raises it; else"
    yield found.finding(
        "limits", level, "few files may be open: DataLoader workers and sockets fail with EMFILE",
        detail=f"ulimit -n is {soft}", data=facts,
        do=f"{raised} nofile in /etc/security/limits.conf (LimitNOFILE= of its ssh service)".strip(),
    )  # fmt: skip


def _threads(found: Examined, facts: dict[str, Any]) -> Iterator[Finding]:
    now, most = number(facts.get("threads")), number(facts.get("threads_limit"))
    if now is None or most is None or most - now >= THREADS_LOW:
        return
    level: Level = "error" if most - now < THREADS_FULL else "warning"
    yield found.finding(
        "limits", level, "few more processes and threads may be started: torch starts dozens a rank",
        detail=f"{now} of {most} run", data=facts,
        do="end what isn't needed, or raise nproc in /etc/security/limits.conf (docker: --pids-limit)",
    )  # fmt: skip


def _locked(found: Examined, facts: dict[str, Any]) -> Iterator[Finding]:
    locked = number(facts.get("memlock"))
    if locked is not None and texts(mapping(found.facts.get("system")).get("infiniband")):
        yield found.finding(
            "limits", "warning", "memory that may be locked is limited: NCCL over InfiniBand fails",
            detail=f"ulimit -l is {locked // 1024} kB", data=facts,
            do="memlock unlimited in /etc/security/limits.conf (docker: --ulimit memlock=-1)",
        )  # fmt: skip


def _cores(found: Examined, facts: dict[str, Any]) -> Iterator[Finding]:
    core = number(facts.get("core")) if facts.get("core") is not None else None
    if core != 0 and facts.get("cores_are_piped") is False and "core" in facts:
        yield found.finding(
            "limits", "note", "a rank that crashes writes its whole memory into the workdir (core file)",
            data=facts, do="ulimit -c 0 in ~/.bashrc there",
        )  # fmt: skip


def _size(size_bytes: int) -> str:
    """Return "1.2 GB", as disks are sold."""
    if size_bytes < GB:
        return f"{size_bytes / MB:.0f} MB"
    return f"{size_bytes / GB:.{0 if size_bytes >= 10 * GB else 1}f} GB"


def _binary(size_bytes: int) -> str:
    """Return "64 MiB", as memory is given."""
    if size_bytes < 1 << 30:
        return f"{size_bytes >> 20} MiB"
    return f"{size_bytes / (1 << 30):.{0 if size_bytes >= 10 << 30 else 1}f} GiB"
