"""What a server's facts mean for training on it: its logins, clock, system, name, old jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_launch.operations.servers import logout_warning
from remote_launch.operations.told import epoch_s, mapping, mappings, number, text, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remote_launch.core.findings import Finding, Level
    from remote_launch.operations.checks import Examined

SLOW_LOGIN_S = 5.0
SLOW_TRIP_S = 0.5
CLOCK_OFF_S = 2.0  # beyond what the round trip leaves open
CLOCK_BROKEN_S = 86_400.0  # certificates are judged by the day
SLOW_NAME_S = 1.0
OLD_KERNEL = (5, 5)
_NAMED = "nothing: rl names the network interface to gloo and NCCL (plain torchrun would hang)"


def judge_machine(found: Examined) -> Iterator[Finding]:
    """Return what there is to say of the machine itself."""
    for judge in _JUDGES:
        yield from judge(found)


def ssh(found: Examined) -> Iterator[Finding]:
    transport = found.server.target.transport
    by = {"local": "this machine", "fabric": "connected (fabric)"}.get(transport, "connected")
    data = {"connect_s": round(found.connect_s, 3), "trip_s": round(found.trip_s, 3)}
    if transport == "local":
        yield found.finding("ssh", "ok", by, data=data)
    elif found.connect_s > SLOW_LOGIN_S:
        yield found.finding(
            "ssh", "note", "logging in is slow", detail=f"{found.connect_s:.0f} s", data=data,
            do="UseDNS no in its sshd_config helps where it looks up names; rl keeps the connection open",
        )  # fmt: skip
    elif found.trip_s > SLOW_TRIP_S:
        detail = f"{found.trip_s:.1f} s there and back"
        yield found.finding("ssh", "note", "commands take long", detail=detail, data=data)
    else:
        yield found.finding("ssh", "ok", by, data=data)


def login_shell(found: Examined) -> Iterator[Finding]:
    if not found.noise.strip():
        yield found.finding("login-shell", "ok", "prints nothing")
        return
    first = found.noise.strip().splitlines()[0][:60]
    yield found.finding(
        "login-shell", "error", "its start-up files print on stdout, which breaks rsync",
        detail=f'"{first}"', data={"stdout": found.noise[:2000]},
        do="let them print for people only: [ -t 1 ] && echo …, in ~/.bashrc (~/.zshenv, …) there",
    )  # fmt: skip


def clock(found: Examined) -> Iterator[Finding]:
    began, ended = epoch_s(found.facts.get("began")), epoch_s(found.facts.get("time"))
    if began is None or ended is None:
        return
    # It is ahead by something between these two; nothing more is known.
    low, high = ended - found.answered_at, began - found.asked_at
    off_s = low if low > 0 else min(high, 0.0)
    if abs(off_s) <= CLOCK_OFF_S:
        yield found.finding("clock", "ok", "right, to the second or two", data={"off_s": round(off_s, 1)})
        return
    level: Level = "error" if abs(off_s) > CLOCK_BROKEN_S else "warning"
    yield found.finding(
        "clock", level, "its clock is wrong",
        detail=f"{_duration(off_s)} {'ahead of' if off_s > 0 else 'behind'} this computer's",
        data={"off_s": round(off_s, 1)}, do="as root there: timedatectl set-ntp true (or chrony, ntpd)",
    )  # fmt: skip


def system(found: Examined) -> Iterator[Finding]:
    facts = mapping(found.facts.get("system"))
    kernel = text(facts.get("kernel")) or ""
    name, arch = text(facts.get("os")) or "an unknown system", text(facts.get("arch")) or ""
    detail = f"{name}, Linux {kernel}, {arch}, {number(facts.get('cpus')) or '?'} cores"
    words = kernel.split(".")[:2]
    version = tuple(int(word) for word in words if word.isdigit())
    if len(version) == 2 and version < OLD_KERNEL:
        yield found.finding(
            "system", "note", "its kernel is older than 5.5, on which training was seen to hang",
            detail=detail, do="a newer kernel, if training stops there for no reason",
        )  # fmt: skip
        return
    yield found.finding("system", "ok", detail, data=facts)


def logout(found: Examined) -> Iterator[Finding]:
    warning = logout_warning(found.server.name, found.facts)
    if warning is None:
        yield found.finding("logout", "ok", "jobs live on after it")
        return
    told, _, do = warning.removeprefix(f"{found.server.name}: ").partition("; ")
    linger = f"rl run --server {found.server.name} -- loginctl enable-linger"
    yield found.finding("logout", "error", told, do=linger if do else None)


def own_name(found: Examined) -> Iterator[Finding]:
    facts = mapping(found.facts.get("name"))
    took = facts.get("took_s")
    name, addresses = text(facts.get("hostname")) or "?", texts(facts.get("addresses"))
    if "name" in texts(found.facts.get("late")) or (isinstance(took, float) and took > SLOW_NAME_S):
        yield found.finding(
            "hostname", "warning", "looking up its own name takes long: torch does so at each start",
            do="a line for it in /etc/hosts there: 127.0.1.1 NAME",
        )  # fmt: skip
    elif facts and not addresses:
        yield found.finding(
            "hostname", "note", "its own name has no address", detail=name, data=facts, do=_NAMED
        )
    elif facts and all(one.startswith("127.") or one == "::1" for one in addresses):
        message = "its own name leads to itself alone"
        detail = f"{name} is {', '.join(addresses)}"
        yield found.finding("hostname", "note", message, detail=detail, data=facts, do=_NAMED)
    elif facts:
        yield found.finding("hostname", "ok", "leads to a real address", data=facts)


def proxy(found: Examined) -> Iterator[Finding]:
    names = sorted({name for name in texts(found.facts.get("proxies")) if name.isidentifier()})
    if names:
        yield found.finding(
            "proxy", "note", "logins there have a proxy set: downloads and trackers go through it",
            detail=", ".join(names), data={"names": names},
        )  # fmt: skip


def left_over(found: Examined) -> Iterator[Finding]:
    facts = mapping(found.facts.get("jobs"))
    old = mappings(facts.get("left_over"))
    if old:
        ids = [text(one.get("job_id")) or "?" for one in old]
        count = sum(number(one.get("processes")) or 0 for one in old)
        yield found.finding(
            "leftovers", "warning", "processes of jobs that have ended still run: they hold memory and cards",
            detail=f"{count} of {', '.join(one[:8] for one in ids[:3])}", data={"jobs": ids},
            do=f"rl job-kill {' '.join(one[:8] for one in ids[:3])}",
        )  # fmt: skip
    elif facts:
        running = number(facts.get("running")) or 0
        detail = f"{running} running" if running else ""
        yield found.finding("leftovers", "ok", "none of ended jobs", detail=detail)


def late(found: Examined) -> Iterator[Finding]:
    names = texts(found.facts.get("late"))
    if names:
        yield found.finding(
            "system", "warning", "questions were not answered in time: is a disk or driver hanging?",
            detail=", ".join(names),
        )  # fmt: skip


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if abs(seconds) >= 2 * length:
            return f"{abs(seconds) / length:.0f} {unit}"
    return f"{abs(seconds):.0f} s"


_JUDGES: tuple[Callable[[Examined], Iterator[Finding]], ...] = (
    ssh, login_shell, clock, system, late, logout, own_name, proxy, left_over,
)  # fmt: skip
