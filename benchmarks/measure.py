"""Run a command and say what it cost; take turns between tools."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

LIMIT_S = 180


class BenchmarkError(Exception):
    """A tool did not do what is measured; the message holds what it said."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a command took: seconds on the clock, and of CPU with its children that it waited for."""

    wall_s: float
    cpu_s: float
    stdout: str


def run(
    argv: Sequence[str],
    *,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> Cost:
    """Run a command to its end, return its cost. Raises BenchmarkError when it fails."""
    # Files, not pipes: what a command leaves in the background must not hold us.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.perf_counter() - started > limit_s:
                process.kill()
                process.wait()
                raise BenchmarkError(f"{' '.join(argv[:4])} …: not done after {limit_s:.0f} s")
            time.sleep(0.002)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if process.returncode != 0:
        raise BenchmarkError(
            f"{' '.join(argv[:6])} …: exit code {process.returncode}\n{texts[1][-2000:]}{texts[0][-1000:]}"
        )
    return Cost(wall_s=wall_s, cpu_s=usage.ru_utime + usage.ru_stime, stdout=texts[0])


def take_turns(
    tools: Mapping[str, Callable[[], Mapping[str, float]]], runs: int
) -> dict[str, dict[str, list[float]]]:
    """Run every tool ``runs`` times, in turns, each round beginning with another one.

    Returns {tool: {what was measured: [values]}}. A noisy machine's bad moments are spread over all of them.
    """
    names = list(tools)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for number in range(runs):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            for what, value in tools[name]().items():
                found[name].setdefault(what, []).append(value)
                print(f"    {number + 1}/{runs}  {name}: {what} {value:.3f}", flush=True)
    return found


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
