"""The tables of docs/reliability.md, from the trials."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from benchmarks.fault_kinds import FAULTS, RESTART, STOP, SURVIVE, TORCHRUN
from benchmarks.measure import median

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.fault_kinds import Fault
    from benchmarks.fault_trial import Trial

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
LOCAL_S, SILENT_S = 5.0, 17.0  # promised, see the text around the tables
NODES = ("host-0", "host-1")
COLUMNS = (
    "fault", "trials", "node 0 stopped, s", "node 1 stopped, s", "cause shown", "states", "left over",
    "trains again, s", "torchrun alone",
)


def markdown(told: Mapping[str, Any], trials: Sequence[Trial]) -> str:
    """Return the tables as markdown: what stops a launch, and what must not."""
    loads = [trial["load"] for trial in trials if "load" in trial]
    spread = f"load {min(loads):.0f} to {max(loads):.0f} meanwhile" if loads else "no trials"
    failed = sum("error" in trial for trial in trials)
    by_key: dict[str, list[Trial]] = collections.defaultdict(list)
    for trial in trials:
        if "error" not in trial:
            by_key[trial["fault"]].append(trial)
    number = f"{len(trials) - failed} trials" + (f", and {failed} that could not be made" if failed else "")
    known = {key: fault for key, fault in FAULTS.items() if by_key[key]}
    stops = [trial for made in by_key.values() for trial in made if trial["mode"] in (STOP, RESTART)]
    kept = [_keeps_promise(trial) for trial in stops]
    setting = f"{told['date']}: {told['rl']}, {told['cores']} cores for all hosts, {spread}; {number}."
    lines = [
        f"{setting} Stopped everywhere within the promised time: {sum(kept)} of {len(kept)}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|--:|--:|--:|---|---|--:|--:|--:|",
        *(_row(fault, by_key[key]) for key, fault in known.items() if SURVIVE not in fault.modes),
        "",
        "| must survive | trials | survived | slowest step, s | states |",
        "|---|--:|--:|--:|---|",
        *(_survivor(fault, by_key[key]) for key, fault in known.items() if SURVIVE in fault.modes),
    ]
    missing = [fault.title for key, fault in FAULTS.items() if key not in known]
    if missing:
        lines += ["", f"Not run: {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _row(fault: Fault, trials: Sequence[Trial]) -> str:
    own = [trial for trial in trials if trial["mode"] != TORCHRUN]
    stops = [trial for trial in trials if trial["mode"] == STOP]
    cells = [fault.title, f"{len(stops)} + {len(own) - len(stops)}"]
    cells += [_times(_stopped(fault, trial, node) for trial in own) for node in NODES]
    cells += [
        _distinct(trial["cause"] for trial in stops),
        _distinct(", ".join(trial["states"].values()) for trial in stops),
        str(max((trial["left_over"] for trial in own), default=0)),
        _again(fault, [trial for trial in trials if trial["mode"] == RESTART]),
        _again(fault, [trial for trial in trials if trial["mode"] == TORCHRUN]),
    ]
    return "| " + " | ".join(cells) + " |"


def _stopped(fault: Fault, trial: Trial, node: str) -> float | None:
    """Return after how many seconds nothing trained on a node any more: since it could run again, where the
    fault was that it couldn't."""
    seconds: float | None = trial["stopped_s"].get(node)
    if seconds is not None and fault.heal_after_s > 0 and node == NODES[1]:
        return seconds - float(trial["healed_s"] or 0.0)
    return seconds


def _keeps_promise(trial: Trial) -> bool:
    fault = FAULTS[trial["fault"]]
    limit_s = SILENT_S if fault.is_silent else LOCAL_S
    times = [_stopped(fault, trial, node) for node in NODES]
    return all(seconds is not None and seconds <= limit_s for seconds in times)


def _again(fault: Fault, trials: Sequence[Trial]) -> str:
    if not trials:
        return "-"
    times = [trial["trains_s"] for trial in trials if trial["trains_s"] is not None]
    waited = [trial["slowest_step_s"] for trial in trials if _just_waited(fault, trial)]
    if waited:
        return f"no restart: went on after {_times(waited)} ({len(trials)}x)"
    text = _times(times) if times else "never"
    if 0 < len(times) < len(trials):
        text += f" in {len(times)} of {len(trials)}"
    elif not times:
        text += f" ({len(trials)}x)"
    waits = fault.is_silent or fault.project == "faults_small"  # training can't go on before it is healed
    if times and waits and any(trial["healed_s"] for trial in trials):
        healed = [
            trial["trains_s"] - trial["healed_s"] for trial in trials
            if trial["trains_s"] is not None and trial["healed_s"]
        ]
        text += f"; {_times(healed)} after it was healed"
    return text


def _just_waited(fault: Fault, trial: Trial) -> bool:
    """True where the first attempt came to its end all the same."""
    return trial["attempts"] == 1 and trial["last_step"] == fault.steps - 1


def _survivor(fault: Fault, trials: Sequence[Trial]) -> str:
    survived = [trial for trial in trials if set(trial["states"].values()) == {"SUCCEEDED"}]
    cells = [
        fault.title, str(len(trials)), f"{len(survived)} of {len(trials)}",
        _times(trial.get("slowest_step_s") for trial in trials),
        _distinct(", ".join(trial["states"].values()) for trial in trials),
    ]
    return "| " + " | ".join(cells) + " |"


def _times(values: Iterable[float | None]) -> str:
    """Return "median (fastest to slowest)"."""
    found = sorted(max(0.0, value) for value in values if value is not None)
    if not found:
        return "-"
    middle = f"{median(found):.1f}"
    return middle if len(found) == 1 else f"{middle} ({found[0]:.1f} to {found[-1]:.1f})"


def _distinct(texts: Iterable[str]) -> str:
    counts = collections.Counter(text.replace("|", "/") for text in texts)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{text} ({count}x)" for text, count in counts.most_common())


def write(path: Path, text: str) -> None:
    """Put the tables between the markers of a file; what stands around them is kept."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
