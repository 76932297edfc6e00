"""The faults: how each is made, and undone. ``make`` returns when it happened (epoch seconds, this machine's
clock, which is the hosts' too)."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING

from benchmarks.fault_lab import CLOCK
from tests.support import faults
from tests.support.docker_hosts import USER
from tests.support.docker_image import docker
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.fault_lab import Lab
    from tests.support.faults import Launch

OOM_LIMIT = "1300m"
LOSS = "-m statistic --mode random --probability 0.3 -j DROP"

STOP, RESTART, TORCHRUN, SURVIVE = "stop", "restart", "torchrun", "survive"
STOPPED = -1.0  # heal once nothing trains any more


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """``heal`` is done ``heal_after_s`` after the fault, or when all has STOPPED. A ``spare`` stands by when
    the launch is to be restarted."""

    title: str
    make: Callable[[Lab, Launch], float]
    modes: tuple[str, ...] = (STOP, RESTART)
    heal: Callable[[Lab], None] | None = None
    heal_after_s: float = STOPPED
    before: Callable[[Lab], None] | None = None
    spare: bool = False
    project: str = "faults"
    steps: int = 25
    is_silent: bool = False  # nobody tells: it shows by silence
    dead: int | None = None  # the host that stays down


def _from_within(kind: str) -> Callable[[Lab, Launch], float]:
    return lambda _, launch: launch.ask_for_fault(kind, rank=3)


def _kill(find: Callable[[], faults.Process]) -> float:
    victim = find()
    at = time.time()
    victim.kill()
    return at


def _timed(action: Callable[[], object]) -> float:
    at = time.time()
    action()
    return at


def _limit_memory(lab: Lab) -> None:
    docker("update", "--memory", OOM_LIMIT, "--memory-swap", OOM_LIMIT, lab.hosts[1].container)


def _unlimit_memory(lab: Lab) -> None:
    docker("update", "--memory", "32g", "--memory-swap", "32g", lab.hosts[1].container)


def _lose_packets(lab: Lab) -> None:
    for host in lab.hosts[:2]:
        host.exec(f"iptables -w -A INPUT -p tcp ! --dport 22 {LOSS}")


def _unlose_packets(lab: Lab) -> None:
    for host in lab.hosts[:2]:
        print(host.exec("iptables -w -nvxL INPUT"), flush=True)  # how many were lost
        host.unblock()


def _fill_disk(lab: Lab) -> None:
    lab.hosts[1].exec("head -c 40m /dev/zero > /small/fill || true", user=USER)


def _open_disk(lab: Lab) -> None:
    """Docker forgets the mode of /small when a container starts again."""
    lab.hosts[1].exec("chmod 1777 /small")


def _free_disk(lab: Lab) -> None:
    lab.hosts[1].exec("rm -f /small/fill")


def _restart_sshd(lab: Lab) -> None:
    for host in lab.hosts[:2]:
        faults.restart_sshd(host)


def _interrupt(lab: Lab, launch: Launch) -> float:
    """Ctrl-C, twice, where a person follows the launch on a terminal."""
    rl = lab.rls["faults"]
    argv = [str(rl.program), "job-tail", str(launch.jobs[0]["key"])]
    with Terminal(argv, cwd=rl.project, env={**os.environ, **rl.env}) as terminal:
        terminal.expect("step")
        at = time.time()
        terminal.press("\x03")
        time.sleep(0.3)
        terminal.press("\x03")
        terminal.end(20)
    return at


def _set_clock(lab: Lab) -> None:
    lab.hosts[1].write(CLOCK, "3600")


def _reset_clock(lab: Lab) -> None:
    lab.hosts[1].write(CLOCK, "0")


def _h(number: int, action: str) -> Callable[[Lab], None]:
    return lambda lab: getattr(lab.hosts[number], action)()


ALL = (STOP, RESTART, TORCHRUN)
FAULTS = {
    "worker": Fault(
        title="`kill -9` of a worker (rank 3)", modes=ALL,
        make=lambda _, launch: _kill(lambda: faults.worker(launch.hosts[1], 3)),
    ),
    "exception": Fault(title="exception on one rank (3)", modes=ALL, make=_from_within("exception")),
    "exit": Fault(title="exit code 37 of one rank (3)", make=_from_within("exit")),
    "clock-exit": Fault(
        title="the same, node 1's clock an hour ahead since the launch began", make=_from_within("exit"),
        before=_set_clock, heal=_reset_clock, project="faults_clock",
    ),
    "segv": Fault(title="SIGSEGV of one rank (3)", make=_from_within("segv")),
    "oom": Fault(
        title="out of memory on node 1 (container limit), kernel kills rank 3", make=_from_within("oom"),
        before=_limit_memory, heal=_unlimit_memory,
    ),
    "torchrun": Fault(
        title="`kill -9` of torchrun on node 1",
        make=lambda _, launch: _kill(lambda: faults.torchrun(launch.hosts[1])),
    ),
    "supervisor-0": Fault(
        title="`kill -9` of the supervisor on node 0 (rank 0's)", spare=True,
        make=lambda _, launch: _kill(lambda: faults.supervisor(launch.hosts[0])),
    ),
    "supervisor-1": Fault(
        title="`kill -9` of the supervisor on node 1", spare=True,
        make=lambda _, launch: _kill(lambda: faults.supervisor(launch.hosts[1])),
    ),
    "kill-1": Fault(
        title="`docker kill` of node 1 (power off)", modes=ALL, spare=True, dead=1, is_silent=True,
        make=lambda lab, _: _timed(lab.hosts[1].kill),
    ),
    "kill-0": Fault(
        title="`docker kill` of node 0", spare=True, dead=0, is_silent=True,
        make=lambda lab, _: _timed(lab.hosts[0].kill),
    ),
    "reboot-1": Fault(
        title="`docker restart` of node 1 (reboot)", spare=True,
        is_silent=True,
        make=lambda lab, _: _timed(lambda: docker("restart", "-t", "0", lab.hosts[1].container)),
    ),
    "cable-1": Fault(
        title="network of node 1 cut", modes=ALL, is_silent=True,
        make=lambda lab, _: _timed(lab.hosts[1].disconnect), heal=_h(1, "connect"),
    ),
    "cable-0": Fault(
        title="network of node 0 cut", is_silent=True,
        make=lambda lab, _: _timed(lab.hosts[0].disconnect), heal=_h(0, "connect"),
    ),
    "pause-60": Fault(
        title="node 1 frozen (`docker pause`) for 60 s", is_silent=True, heal_after_s=60,
        make=lambda lab, _: _timed(lab.hosts[1].pause), heal=_h(1, "unpause"),
    ),
    "disk": Fault(
        title="disk of node 1's workdir full", project="faults_small", before=_open_disk, heal=_free_disk,
        make=lambda lab, _: _timed(lambda: _fill_disk(lab)),
    ),
    "pause-5": Fault(
        title="node 1 frozen for 5 s", modes=(SURVIVE,), steps=45, heal_after_s=5,
        make=lambda lab, _: _timed(lab.hosts[1].pause), heal=_h(1, "unpause"),
    ),
    "loss": Fault(
        title="30 % of packets lost on both nodes, for 30 s", modes=(SURVIVE,), steps=100, heal_after_s=30,
        make=lambda lab, _: _timed(lambda: _lose_packets(lab)), heal=_unlose_packets,
    ),
    "sshd": Fault(
        title="sshd restarted on both nodes, connections ended", modes=(SURVIVE,), steps=45,
        make=lambda lab, _: _timed(lambda: _restart_sshd(lab)),
    ),
    "clock": Fault(
        title="clock of rl's programs on node 1 set an hour ahead", modes=(SURVIVE,), steps=45,
        project="faults_clock", make=lambda lab, _: _timed(lambda: _set_clock(lab)), heal=_reset_clock,
    ),
    "ctrl-c": Fault(
        title="Ctrl-C twice in `rl job-tail`", modes=(SURVIVE,), steps=45, make=_interrupt,
    ),
}
