"""What ``rl prepare`` shows before and after: its plan, the table of what was done, what differs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from remote_launch.cli import output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.core.environments.differences import Difference
    from remote_launch.core.environments.steps import Recipe, Step
    from remote_launch.operations.fanout import Outcome, Outcomes
    from remote_launch.operations.prepare import PreparePlan, PrepareResult

# Scripts that are no more than their arguments: what is run, in front of these.
_DIRECT = {'exec "$@"': "", 'exec "$UV" "$@"': "uv ", 'exec "$CONDA" "$@"': "conda "}


def show_results(plan: PreparePlan, outcomes: Outcomes[PrepareResult]) -> None:
    """Print the table: what each server has now, and what was done for it."""
    rows = output.Rows("server", "result", "python", "torch", "done", "time")
    for outcome in outcomes:
        took = output.duration_text(outcome.duration_s)
        if outcome.value is None:
            step = getattr(outcome.error, "step", "")
            failed = output.Cell("failed", "red")
            rows.add_row(outcome.server, failed, "–", "–", f"in: {step}" if step else "", took)
        else:
            versions = outcome.value.versions
            ready = output.Cell("ready", "green")
            python, torch = versions.get("python") or "–", torch_text(versions)
            rows.add_row(outcome.server, ready, python, torch, _done_text(plan, outcome), took)
    rows.show()
    output.show_failures(outcomes.errors.values())


def torch_text(versions: Mapping[str, str | None]) -> str:
    """Return "2.13.0+cu126": the build is part of it; "–" where there is none."""
    torch, cuda = versions.get("torch"), versions.get("cuda")
    if not torch:
        return "–"
    return torch if "+" in torch or not cuda else f"{torch} (CUDA {cuda})"


def _done_text(plan: PreparePlan, outcome: Outcome[PrepareResult]) -> str:
    result, recipe = outcome.value, plan.recipes[outcome.server]
    if result is None:
        return ""
    packages = {step.name for step in recipe.packages.steps} if recipe.packages else set()
    seconds: dict[str, float] = {}
    words: dict[str, str] = {}
    for step in result.steps:
        if step.same:
            continue
        name = "code" if step.name == "rsync" else "packages" if step.name in packages else "environment"
        seconds[name] = seconds.get(name, 0.0) + step.duration_s
        words[name] = f"{name} {output.duration_text(seconds[name])}"
        if name == "code" and step.line:
            words[name] += f" ({output.clean(step.line, colour=False).replace(' sent', '')})"
    done = ", ".join(words.values()) or "nothing to do"
    return done + (f"; shares its home with {result.shared_with}" if result.shared_with else "")


def show_differences(differences: Sequence[Difference]) -> None:
    """Warn of what is not alike, and say why it matters."""
    for difference in differences:
        output.warn(output.clean(difference.text, colour=False))
        output.say(f"  → {difference.why}")


def difference_texts(differences: Sequence[Difference]) -> list[str]:
    """Return the warnings for ``--json``."""
    return [f"{difference.text} ({difference.why})" for difference in differences]


def show_plan(plan: PreparePlan, workdirs: Mapping[str, str]) -> None:
    """Print what would be done: servers with the same plan together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, recipe in plan.recipes.items():
        groups.setdefault(tuple(_plan_lines(plan, recipe, workdirs[name])), []).append(name)
    for lines, names in groups.items():
        click.echo(f"{', '.join(names)}:")
        for line in lines:
            click.echo(f"  {output.clean(line, colour=False)}".rstrip())
    output.say("no server was asked: what is done there already is left as it is; --json has the scripts too")
    for warning in plan.sync.warnings:
        output.warn(warning)


def _plan_lines(plan: PreparePlan, recipe: Recipe, workdir: str) -> list[str]:
    lines: list[str] = []
    if "rsync" in plan.parts:
        size = output.size_text(plan.sync.size_bytes)
        lines.append(f"code         {output.plural(len(plan.sync.files), 'file')}, {size}, to {workdir}")
    if "setup" in plan.parts:
        if recipe.prefix:
            lines.append(f"environment  by {recipe.manager}, in {recipe.prefix}")
        else:
            lines.append(f"environment  none is made: {recipe.python} is used as it is")
        for step in recipe.environment.steps:
            lines += _step_lines(step)
    if "update-packages" in plan.parts:
        names = ", ".join(recipe.source_files)
        none = "none: no file names any" if recipe.packages is None else "as the inventory says"
        says = "say" if len(recipe.source_files) > 1 else "says"
        lines.append(f"packages     {f'as {names} {says}' if names else none}")
        for step in recipe.packages.steps if recipe.packages else ():
            lines += _step_lines(step)
    return lines


def _step_lines(step: Step) -> list[str]:
    told = step.to_dict()  # with its secrets masked
    lines = [f"  - {step.name}" + (f", where there is no {step.provides}" if step.provides else "")]
    if "download" in told:
        lines.append(f"      downloads {told['download']}")
    args = told["args"] if isinstance(told["args"], list) else []
    words = shlex.join(str(word) for word in args if word)
    script = step.script.strip()
    if script in _DIRECT:
        lines.append(f"      {_DIRECT[script]}{words}")
    elif script:
        size = output.plural(len(script.splitlines()), "line")
        lines.append(f"      a script of {size}" + (f" for {words}" if words else ""))
    env = told["env"]
    if isinstance(env, dict) and env:
        lines.append(f"      env  {' '.join(f'{name}={value}' for name, value in env.items())}")
    return lines
