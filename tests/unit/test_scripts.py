"""How scripts/test judges its parts and ends them, with stand-ins for pytest and docker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMON = """
say() { printf '%s\\n' "$*"; }
fail() { say "$0: $*" >&2; exit 1; }
can_apt() { return 1; }
apt_install() { return 1; }
test_venv() { VENV=$ROOT/venv; }
"""
# Stands for pytest, with the exit code that the test wants of each part, and for the builder of the image.
PYTHON = f"""#!{sys.executable} -I
import json, os, signal, sys, time
words, codes = sys.argv[1:], json.loads(os.environ["CODES"])
if "pytest" not in words:
    sys.exit(0)
part = "training" if words[words.index("pytest") + 1] == "tests/cluster/training" else "rest"
part = "spread" if "-n" in words else part
if codes[part] == "stays":
    def end(*_):
        open("ended", "w").close()
        os._exit(2)
    signal.signal(signal.SIGTERM, end)
    open("began", "w").close()
    time.sleep(600)
sys.exit(codes[part])
"""
UNDOING = """
import sys, time
from tests.support.endings import orderly_end
with orderly_end():
    try:
        print("ready", flush=True)
        time.sleep(600)
    finally:
        print("undoing", flush=True)
        sys.stdin.readline()
        print("undone", flush=True)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with scripts/test and an empty test in each ring that it treats in its own way."""
    for folder in ("scripts", "venv/bin", "bin", "tests/unit", "tests/e2e", "tests/cluster/training"):
        (tmp_path / folder).mkdir(parents=True)
        if folder.startswith("tests"):
            (tmp_path / folder / "test_it.py").touch()
    shutil.copy(ROOT / "scripts/test", tmp_path / "scripts/test")
    (tmp_path / "scripts/common.sh").write_text(COMMON)
    for name, text in (("venv/bin/python", PYTHON), ("bin/docker", "#!/bin/sh\nexit 1\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def start(checkout: Path, codes: str, *words: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "CODES": codes, "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"}
    return subprocess.Popen(["sh", checkout / "scripts/test", *words], cwd=checkout, env=env)


@pytest.mark.parametrize(
    ("ring", "spread", "training", "rest", "code"),
    [
        ("all", 0, 0, 0, 0),
        ("all", 0, 5, 5, 0),  # -k chose tests of one part only
        ("all", 5, 0, 5, 0),
        ("all", 5, 5, 0, 0),
        ("all", 5, 5, 5, 1),  # of none: the name is wrong
        ("cluster", 0, 5, 0, 0),
        ("cluster", 0, 5, 5, 1),
        ("unit", 5, 0, 0, 1),
        ("e2e", 0, 0, 5, 1),
        ("all", 1, 0, 0, 1),
        ("all", 0, 1, 0, 1),
        ("all", 0, 5, 2, 1),
    ],
)
def test_a_run_passes_when_some_part_has_run_tests_and_none_has_failed(
    checkout: Path, ring: str, spread: int, training: int, rest: int, code: int
) -> None:
    codes = f'{{"spread": {spread}, "training": {training}, "rest": {rest}}}'
    assert start(checkout, codes, ring, "-k", "name").wait(60) == code


def test_a_folder_that_can_not_be_removed_fails_no_run(checkout: Path, tmp_path: Path) -> None:
    (checkout / "bin/rm").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexit 1\n')
    (checkout / "bin/rm").chmod(0o755)
    assert start(checkout, '{"spread": 0}', "unit").wait(60) == 0
    work = (tmp_path / "asked").read_text().split()[-1]
    assert work.startswith("/tmp/rl-test-")
    shutil.rmtree(work)


def test_what_runs_in_the_background_is_ended_with_the_run(checkout: Path) -> None:
    run = start(checkout, '{"training": "stays", "rest": 0}', "cluster")
    try:
        deadline = time.monotonic() + 60
        while not (checkout / "began").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        run.terminate()
    assert run.wait(60) == 143
    assert (checkout / "ended").exists()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_tests_undo_what_they_made(first: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UNDOING], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    ) as tests:  # fmt: skip
        assert tests.stdin is not None
        assert tests.stdout is not None
        assert tests.stdout.readline() == "ready\n"
        tests.send_signal(first)
        assert tests.stdout.readline() == "undoing\n"
        tests.send_signal(signal.SIGTERM)
        tests.stdin.write("go on\n")
        tests.stdin.flush()
        assert tests.stdout.readline() == "undone\n"
