"""Turn what was measured into tables, and the tables into benchmarks/README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.measure import median

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RL = "rl"
RL_COLD = "rl, no ssh masters yet"
LABML = "labml_remote 0.1.1"
HAND = "typed by hand, plain ssh"
HAND_MASTERS = "typed by hand, ssh masters up"
TORCHRUN = "torchrun"
RL_UV = "rl, manager uv"
ONE_BY_ONE = "ssh and pip, one server after the other"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"

# name of the part: (title, what was measured)
TABLES: Mapping[str, tuple[str, str]] = {
    "launch-2x2": ("Launch of a trivial script on 2 servers x 2 ranks, until every rank runs", "ranks_s"),
    "launch-4x2": ("The same on 4 servers x 2 ranks", "ranks_s"),
    "allreduce-2x2": ("2 servers x 2 ranks, until the first all-reduce is done", "ranks_s"),
    "prepare-1": ("`prepare` of 1 server that has nothing: venv, numpy, requests", "cold_s"),
    "prepare-4": ("The same for 4 servers", "cold_s"),
    "prepare-8": ("The same for 8 servers", "cold_s"),
    "list-2": ("`job-list --rsync`, 2 servers with 50 jobs each, nothing new", "wall_s"),
    "list-16": ("`job-list --rsync`, 16 servers with 50 jobs each, nothing new", "wall_s"),
    "run": ("`run --server X` of `true`", "wall_s"),
    "help": ("`--help`, seconds of CPU", "cpu_s"),
}
# A second thing that was measured, and the title of its column.
SECOND: Mapping[str, str] = {"prompt_s": "back at the prompt, s", "again_s": "again, nothing changed, s"}


def markdown(results: Mapping[str, Any]) -> str:
    """Return the results as markdown: a table a part, with medians and what they are in terms of rl's."""
    told = results["conditions"]
    versions = f"{told['date']}: {told['rl']}, torch {told['torch']}, Python {told['python']}"
    cores = f"{told['cores']} cores for {told['hosts']} hosts and the tools"
    machine = f"{cores}, load {told['load_before']} before"
    lines = [f"{versions}; {machine}; {told['runs']} runs each."]
    for part, (title, what) in TABLES.items():
        if part in results:
            lines += ["", f"### {title}", "", *_table(results[part], what)]
    return "\n".join(lines) + "\n"


def _table(values: Mapping[str, Mapping[str, list[float]]], what: str) -> list[str]:
    own = median(values[RL][what])
    second = next((name for name in SECOND for measured in values.values() if name in measured), None)
    lines = [
        "| | median, s | fastest to slowest | times rl |" + (f" {SECOND[second]} |" if second else ""),
        "|---|--:|--:|--:|" + ("--:|" if second else ""),
    ]
    for tool, measured in sorted(values.items(), key=lambda item: median(item[1][what])):
        found = measured[what]
        middle, spread = median(found), f"{_s(min(found))} to {_s(max(found))}"
        row = f"| {tool} | {_s(middle)} | {spread} | {middle / own:.2f} |"
        if second:
            row += f" {_s(median(measured[second]))} |" if second in measured else " - |"
        lines.append(row)
    return lines


def _s(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}" if seconds >= 0.2 else f"{seconds:.3f}"


def write(path: Path, text: str, *, keep: bool = False) -> None:
    """Put the results between the markers of a file; what stands around them is kept. ``keep``: the tables
    that the results lack are kept, too; each of the new ones says itself when and how it was measured."""
    before, _, rest = path.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    if keep:
        conditions, *new = text.rstrip("\n").split("\n\n### ")
        kept, *sections = old.strip("\n").split("\n\n### ")
        tables = dict(section.split("\n\n", 1) for section in sections)
        for section in new:
            title, table = section.split("\n\n", 1)
            tables[title] = f"{conditions}\n\n{table}"
        text = "\n\n### ".join([kept, *(f"{title}\n\n{table}" for title, table in tables.items())]) + "\n"
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
