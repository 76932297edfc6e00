"""One trial: launch, make a fault, watch until nothing runs any more, ask rl what it was."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from typing import TYPE_CHECKING, Any

from benchmarks.fault_kinds import FAULTS, RESTART, STOP, TORCHRUN
from benchmarks.fault_lab import start_torchrun
from tests.support import faults

if TYPE_CHECKING:
    from benchmarks.fault_kinds import Fault
    from benchmarks.fault_lab import Lab
    from tests.support.faults import Launch

LIMIT_S = 150.0
TORCHRUN_LIMIT_S = 45.0
TORCHRUN_HEALS_S = 20.0
FOREVER = 100_000

Trial = dict[str, Any]


def make_trial(lab: Lab, key: str, mode: str) -> Trial:
    """Return what was seen: {"fault", "mode", "stopped_s": {host: seconds after the fault}, "healed_s",
    "trains_s" (first step of another attempt, after the fault), "left_over", "cause", "states", …}."""
    fault = FAULTS[key]
    rl = lab.rls[fault.project]
    count = 3 if fault.spare and mode == RESTART else 2
    hosts = lab.hosts[:count]
    seen: Trial = {"fault": key, "mode": mode, "load": round(os.getloadavg()[0], 1), "at": time.time()}
    try:
        if fault.before:
            fault.before(lab)
        if fault.project != "faults":
            rl("prepare")  # a small disk is memory: a host that was restarted has lost it
        steps = FOREVER if mode == STOP else fault.steps
        if mode == TORCHRUN:
            launch = start_torchrun(hosts, steps)
        else:
            options = {RESTART: ["--max-restarts", "2"]}.get(mode, [])
            options += ["--spare", "1"] if count == 3 else []
            launch = faults.start(rl, hosts, *options, steps=steps)
        seen["began_s"] = round(time.time() - seen["at"], 1)
        failed_at = fault.make(lab, launch)
        seen |= _watch(lab, fault, mode, launch, failed_at)
        seen |= _training(launch, failed_at)
        if mode != TORCHRUN:
            seen |= _told(lab, fault, launch, rl)
        else:
            log = "grep -aE 'Error|rror:|Restart' /tmp/torchrun.log | tail -n 6 | cut -c1-300"
            seen["said"] = [host.exec(log, check=False) for host in hosts]
    finally:
        if fault.heal:
            with contextlib.suppress(Exception):
                fault.heal(lab)
        lab.cluster.heal()
    return seen


def _watch(lab: Lab, fault: Fault, mode: str, launch: Launch, failed_at: float) -> Trial:
    """Poll until nothing of the launch runs on any host, healing when it is time."""
    stopped: dict[str, float] = {}
    healed_at: float | None = None
    limit_s = TORCHRUN_LIMIT_S if mode == TORCHRUN else LIMIT_S
    heal_after_s = TORCHRUN_HEALS_S if mode == TORCHRUN else fault.heal_after_s
    running: list[faults.Process] = []
    while time.time() < failed_at + limit_s:
        running = []
        for host in launch.hosts:
            own = faults.own_processes(host)
            running += own
            trains = any(faults.SCRIPT in process.command for process in own)
            is_spare = host not in lab.hosts[: faults.NNODES]  # it has nothing to stop
            if not trains and host.name not in stopped and not is_spare:
                stopped[host.name] = round(time.time() - failed_at, 2)
        all_stopped = len(stopped) >= 2
        if fault.heal and healed_at is None:
            is_due = time.time() >= failed_at + heal_after_s if heal_after_s >= 0 else all_stopped
            if is_due:
                fault.heal(lab)
                healed_at = time.time()
        if not running and (fault.heal is None or healed_at is not None):
            break
        time.sleep(faults.POLL_S)
    return {
        "stopped_s": stopped, "ended_s": round(time.time() - failed_at, 1), "left_over": len(running),
        "left": [process.command[:120] for process in running[:6]],
        "healed_s": None if healed_at is None else round(healed_at - failed_at, 1),
    }


def _training(launch: Launch, failed_at: float) -> Trial:
    """Return when training went on, and what the last step was."""
    steps = launch.progress()
    again = [step for step in steps if step.attempt > 0]
    return {
        "steps": len({step.number for step in steps}),
        "before": max((step.number for step in steps if step.attempt == 0), default=None),
        "attempts": max((step.attempt for step in steps), default=0) + 1,
        "trains_s": round(again[0].at - failed_at, 1) if again else None,
        "resumed_at": again[0].number if again else None,
        "last_step": steps[-1].number if steps else None,
        "slowest_step_s": max(
            (round(two.at - one.at, 1) for one, two in itertools.pairwise(steps)), default=None
        ),
    }


def _told(lab: Lab, fault: Fault, launch: Launch, rl: Any) -> Trial:
    """Return what rl says of the launch: with a dead host as it is, and when that is back."""
    seen: Trial = {}
    if fault.dead is not None:
        seen["states_while_down"] = _states(launch, rl)
        seen["cause_while_down"] = _headline(launch, rl)
        lab.hosts[fault.dead].start()
    seen["states"] = _states(launch, rl)
    seen["cause"] = _headline(launch, rl)
    workdirs = lab.workdirs(fault.project)[: len(launch.hosts)]
    seen["exits"] = [
        end and {name: end.get(name) for name in ("state", "reason", "exit_code", "signal", "left_over")}
        for end in launch.exits(workdirs)
    ]
    return seen


def _states(launch: Launch, rl: Any) -> dict[str, str]:
    jobs = rl.json("job-list", "--all", "--rsync", code=None)["data"]
    own = [job for job in jobs if job["launch_id"] == launch.launch_id]
    return {
        job["server"]: job["state"] + (" unreachable" if job.get("unreachable_since") else "")
        for job in sorted(own, key=lambda job: job["server"])
    }


def _headline(launch: Launch, rl: Any) -> str:
    said = rl("job-show", str(launch.jobs[0]["key"]), code=None)
    return (said.stdout or said.stderr).partition("\n")[0]
