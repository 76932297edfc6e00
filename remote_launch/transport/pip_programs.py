"""pip and uv of this machine as local processes."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from remote_launch.errors import CommandError
from remote_launch.transport.command import mask_urls
from remote_launch.transport.pip_settings import pip_environment, uv_environment
from remote_launch.transport.process import Cancel, Ended, ProcessTimeout, run_process
from remote_launch.transport.programs_here import uv_here

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

LOOK_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Pip:
    """A pip that answers."""

    argv: list[str]
    python: str  # "3.11": of the interpreter that runs it


class Programs:
    """Runs pip and uv here: in the project's folder, with the index settings, their lines told as they
    come."""

    def __init__(
        self,
        env: Mapping[str, str],
        cwd: Path,
        on_line: Callable[[str], None],
        cancel: Cancel | None,
    ) -> None:
        self.env = dict(env)
        self._cwd = cwd
        self._on_line = on_line
        self._cancel = cancel

    def run(
        self, argv: Sequence[str], env: Mapping[str, str], *, tell: str = "", timeout_s: float | None = None
    ) -> Ended:
        """Run a program; ``tell``: the streams ("out", "err", "out err") whose lines go to the caller."""
        held = {"out": b"", "err": b""}
        kept = {"out": bytearray(), "err": bytearray()}

        def heard(stream: str, chunk: bytes) -> None:
            kept[stream] += chunk
            *whole, held[stream] = (held[stream] + chunk.replace(b"\r", b"\n")).split(b"\n")
            for line in whole:
                text = mask_urls(line.decode("utf-8", "replace").strip())
                if text and stream in tell:
                    self._on_line(text)

        ended = run_process(
            argv,
            timeout_s=timeout_s,
            on_stdout=lambda chunk: heard("out", chunk),
            on_stderr=lambda chunk: heard("err", chunk),
            cancel=self._cancel,
            env=env,
            cwd=self._cwd,
        )
        return dataclasses.replace(ended, stdout=bytes(kept["out"]), stderr=bytes(kept["err"]))

    def pip(self) -> Pip:
        """Return the pip of this machine. Raises CommandError where there is none."""
        if find_spec("pip") is not None:
            return Pip([sys.executable, "-m", "pip"], "{}.{}".format(*sys.version_info))
        uv = uv_here()
        candidates = [[python, "-m", "pip"]] if (python := shutil.which("python3")) else []
        candidates += [[str(uv), "tool", "run", "pip"]] if uv else []
        for argv in candidates:
            env = uv_environment(self.env, "") if uv and argv[0] == str(uv) else pip_environment(self.env)
            try:
                ended = self.run([*argv, "--version"], env, timeout_s=LOOK_S)
            except (OSError, ProcessTimeout):
                continue
            found = re.search(rb"\(python (\d+\.\d+)", ended.stdout)
            if ended.returncode == 0 and found:
                return Pip(argv, found[1].decode())
        raise CommandError(
            "pip is not on this machine: packages for servers without internet can't be downloaded",
            hint="python3 -m ensurepip, or your system's python3-pip package",
        )
