"""Jobs of a server whose clock is an hour off, or is set while they run. Its programs run in a Python that is
told another time."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR_S = 3600
# -I -S ARCHIVE VERB, as rl calls an interpreter.
PYTHON = """#!{python} -IS
import runpy, sys, time
real = time.time
def shifted():
    with open({offset!r}) as file:
        return real() + float(file.read())
time.time = shifted
sys.argv = sys.argv[3:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Shifted:
    """A project on one local server, s, and the clock of that."""

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "offset"
        self.set(0)
        python = folder / "python3"
        python.write_text(PYTHON.format(python=sys.executable, offset=str(self._offset)))
        python.chmod(0o755)
        project = folder / "project"
        (project / ".remote").mkdir(parents=True)
        entry = {"connection": "local", "workdir": str(folder / "work"), "python": str(python)}
        content = {"name": "project", "servers": {"s": entry}, "environment": {"manager": "none"}}
        (project / ".remote" / "configs.yaml").write_text(json.dumps(content))
        self.rl = Rl(project, {"RL_PROJECT": ""})
        self.rl("rsync")

    def set(self, offset_s: float) -> None:
        aside = self._offset.with_suffix(".new")
        aside.write_text(str(offset_s))
        aside.replace(self._offset)

    def job(self) -> dict[str, Any]:
        [job] = self.rl.json("job-list", "--all", "--rsync")["data"]
        return dict(job)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Shifted]:
    made = Shifted(tmp_path)
    yield made
    made.rl("job-kill", "--yes", "--grace", "0.2", code=None)


def epoch(text: str) -> float:
    return dt.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_is_off(server: Shifted, off_s: int) -> None:
    server.set(off_s)
    begun = time.time()
    server.rl("job-run", "--", "sleep", "600")
    job = server.job()
    assert job["state"] == "RUNNING"
    assert begun - 3 <= epoch(job["started_at"]) <= time.time()
    assert 0 <= job["duration_s"] <= time.time() - begun + 3
    server.rl("job-kill", "1", "--grace", "2")
    killed = server.job()
    assert killed["state"] == "KILLED"
    assert begun - 3 <= epoch(killed["ended_at"]) <= time.time()
    assert 0 <= killed["duration_s"] <= time.time() - begun + 3
    spec = next((server.rl.project.parent / "work/.jobs").glob("*/exit.json"))
    told = json.loads(spec.read_text())["ended_at"]
    assert abs(told - off_s - epoch(killed["ended_at"])) < 60  # the server's own clock was really off


def test_a_clock_that_is_set_while_a_job_runs(server: Shifted) -> None:
    begun = time.time()
    server.rl("job-run", "--", "sleep", "600")
    for off_s in (HOUR_S, -HOUR_S):
        server.set(off_s)
        job = server.job()
        assert job["state"] == "RUNNING"
        assert 0 <= job["duration_s"] <= time.time() - begun + 3
        assert begun - 3 <= epoch(job["started_at"]) <= time.time()
    server.rl("job-kill", "1", "--grace", "2")
    assert 0 <= server.job()["duration_s"] <= time.time() - begun + 3
