"""What a server tells while it carries its recipe out: the frames of ``remote/prepare.py``, made into steps,
log files and errors. None of it is trusted to have a shape."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from remote_launch.core.environments.steps import Recipe, Step, hint_for
from remote_launch.errors import ConnectionLostError, PrepareError, last_lines
from remote_launch.operations.told import epoch_s, mapping, number, signal_name, text
from remote_launch.operations.verbs import refusal
from remote_launch.transport.command import mask_urls

if TYPE_CHECKING:
    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet
    from remote_launch.operations.progress import Tell
    from remote_launch.transport.base import Completed

_LINE_LIMIT_BYTES = 1 << 20
_KEPT_LINES = 200
_KEPT_CHARS = 10_000  # of a line
_FULL_BYTES = 20_000_000
_FULL_HINT = "free some space there (df -h; rl clean), or set another workdir: in the inventory"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A step on a server: ``line`` is its last line of output; ``same`` when there was nothing to do."""

    name: str
    duration_s: float
    line: str
    same: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "step": self.name,
            "duration_s": round(self.duration_s, 3),
            "last_line": self.line,
            "unchanged": self.same,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came of a recipe on one server."""

    steps: tuple[StepResult, ...]
    versions: dict[str, Any]


class FollowedRecipe:
    """Reads the frames of a recipe under way: the output to a file a step, its lines to the user."""

    def __init__(self, fleet: Fleet, server: Server, recipe: Recipe, tell: Tell) -> None:
        self._fleet, self._server, self._recipe, self._tell = fleet, server, recipe, tell
        self._names = {step.name for step in recipe.steps}
        self._buffer = b""
        self._step = "prepare"
        self._begun = time.monotonic()
        self._file: BinaryIO | None = None
        self._path = ""
        self._held = ""  # a line that the next output goes on with
        self._lines: list[str] = []
        self._steps: list[StepResult] = []
        self._last: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes of the stream."""
        *whole, self._buffer = (self._buffer + chunk).split(b"\n")
        if len(self._buffer) > _LINE_LIMIT_BYTES:
            self._buffer = b""
        for line in whole:
            try:
                frame = json.loads(line)
            except (ValueError, RecursionError):
                continue  # the login shell's own noise
            if isinstance(frame, dict):
                self._frame(frame)

    def _frame(self, frame: dict[str, Any]) -> None:
        if isinstance(frame.get("out"), str):
            self._output(frame["out"])
        elif isinstance(frame.get("step"), str) and "need" not in frame:
            if frame["step"] in self._names:
                self._begin(frame["step"])
        elif isinstance(frame.get("done"), str):
            self._end_step()
        elif isinstance(frame.get("same"), str):
            self._steps.append(StepResult(name=frame["same"], duration_s=0.0, line="", same=True))
        elif isinstance(frame.get("wait"), dict):
            self._tell.line("waiting", _holder(frame["wait"]))
        elif {"end", "failed", "need", "error"} & frame.keys():
            self._last = frame

    def _begin(self, step: str) -> None:
        self._close_file()
        self._step, self._begun, self._lines, self._path = step, time.monotonic(), [], ""
        with contextlib.suppress(OSError):  # what can't be logged is done all the same
            path = self._fleet.log_file(self._server.name, step)
            self._file, self._path = path.open("wb"), str(path)
        self._tell.begin(step)

    def _output(self, output: str) -> None:
        *whole, self._held = (self._held + output.replace("\r", "\n")).split("\n")
        if len(self._held) > _LINE_LIMIT_BYTES:
            self._held = self._held[:_KEPT_CHARS]
        for line in whole:
            self._line(mask_urls(line))

    def _line(self, line: str) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(line.encode("utf-8", "replace") + b"\n")
                self._file.flush()
        kept = line[:_KEPT_CHARS].strip()
        if kept:
            self._lines.append(kept)
            del self._lines[:-_KEPT_LINES]
            self._tell.line(self._step, kept)

    def _end_step(self) -> None:
        seconds = time.monotonic() - self._begun
        self._close_file()
        line = self._lines[-1] if self._lines else "done"
        self._log(seconds, 0)
        self._tell.end(self._step, line)
        self._steps.append(StepResult(name=self._step, duration_s=seconds, line=line))

    def _close_file(self) -> None:
        if self._held:
            held, self._held = self._held, ""
            self._line(mask_urls(held))
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _whole_output(self) -> str:
        """Say where all that the step printed is."""
        if not self._path:
            return ""
        root = self._fleet.project.root
        path = Path(self._path)
        return f"the whole output: {path.relative_to(root) if path.is_relative_to(root) else path}"

    def _log(self, seconds: float, code: int | None) -> None:
        self._fleet.log(
            self._server.name, self._step, exit_code=code, duration_s=round(seconds, 3), output=self._path
        )

    def close(self) -> None:
        self._close_file()

    @property
    def need(self) -> tuple[Step | None, dict[str, Any]]:
        """The step that stopped for a file that the server can't download, and the file; None otherwise."""
        last = self._last or {}
        step = next((step for step in self._recipe.steps if step.name == last.get("step")), None)
        return (step, mapping(last.get("need"))) if "need" in last else (None, {})

    def made(self, done: Completed) -> Made:
        """Given how the program ended, return what was done. Raises PrepareError for what was not."""
        last = self._last
        if last is None:
            done.check(f"{self._step}: rl's program broke off in the middle", hint="run it again")
            raise ConnectionLostError(
                self._server.name,
                f"{self._step}: the server broke off in the middle",
                hint="run it again: it goes on where it stopped",
            )
        if "error" in last:
            raise refusal(self._server.name, last["error"])
        if "end" in last:
            return Made(steps=tuple(self._steps), versions=mapping(mapping(last["end"]).get("versions")))
        raise self._error(last)

    def _error(self, last: dict[str, Any]) -> PrepareError:
        signal, code = signal_name(last.get("signal")), number(last.get("exit_code"))
        self._log(time.monotonic() - self._begun, code)
        output = "\n".join(self._lines)
        message = mask_urls(text(last.get("message")) or text(last.get("why")) or "")
        how = message or (f"signal {signal}" if signal else f"exit code {code}")
        step = next((step for step in self._recipe.steps if step.name == self._step), Step(name=self._step))
        left = number(last.get("left"))
        full = left is not None and left < _FULL_BYTES  # pip and venv may keep it to themselves
        if full:
            how = f"the disk is full ({how})"
        tail = last_lines(output, 12)
        known = _FULL_HINT if full else hint_for(step, f"{output}\n{message}")
        self._tell.end(self._step, self._lines[-1] if self._lines else "failed", error=True)
        return PrepareError(
            self._server.name,
            self._step,
            how + (f"\n{tail}" if tail and not message else ""),
            tail=last_lines(output),
            hint="\n".join(filter(None, (known, self._whole_output()))),
        )


def _holder(holder: dict[str, Any]) -> str:
    """Given who holds the lock, say for whom we wait."""
    who, host, since = text(holder.get("who")), text(holder.get("host")), epoch_s(holder.get("since"))
    clock = time.strftime("%H:%M", time.localtime(since)) if since else "?"
    return f"for {who or 'somebody'}, who is at it since {clock} (on {host or 'the server'})"
