"""The archive that goes to the servers."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from remote_launch.core import programs
from remote_launch.core.programs import pack
from remote_launch.operations.verbs import _NO_PROGRAM, _RUN

SOURCES = Path(__file__).parents[3] / "remote_launch" / "remote"


def test_the_archive_is_named_by_its_content_and_the_same_each_time() -> None:
    name, content = pack()
    assert re.fullmatch(r"rl-[0-9a-f]{16}\.pyz", name)
    for cached in (programs._archive_name, programs.archive_content, programs._sources):
        cached.cache_clear()
    assert pack() == (name, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
    assert names == sorted(names)
    assert {f"rl_remote/{path.name}" for path in SOURCES.glob("*.py")} | {"__main__.py"} == set(names)


def test_the_programs_are_python_3_8_and_import_only_the_standard_library() -> None:
    for path in SOURCES.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [] if node.level == 1 else [node.module or "."]
            for module in modules:
                # These two are run by the environment's python.
                may_torch = path.name in ("torchrun.py", "allreduce.py")
                top = module.split(".")[0]
                allowed = top in sys.stdlib_module_names or (may_torch and top == "torch")
                assert allowed, f"{path.name} imports {module}: servers have nothing but python's own library"


def test_modules_keep_to_their_size() -> None:
    for path in SOURCES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 350, path.name


def test_an_unknown_verb_says_what_there_is(tmp_path: Path) -> None:
    name, content = pack()
    (tmp_path / name).write_bytes(content)
    done = subprocess.run([sys.executable, name, "dance"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search(r"start\|probe\|", done.stderr)


def ask(program: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    request = json.dumps({"workdir": str(tmp_path), "server": "s", "job_ids": None})
    argv = [sys.executable, *options, "-I", "-S", str(program), "probe"]
    return subprocess.run(argv, input=request, capture_output=True, text=True)


def test_the_archive_unpacks_itself_and_both_answer(tmp_path: Path) -> None:
    name, content = pack()
    (tmp_path / name).write_bytes(content)
    first = ask(tmp_path / name, tmp_path)
    unpacked = tmp_path / name.removesuffix(".pyz") / "__main__.py"
    assert unpacked.is_file()
    second = ask(unpacked, tmp_path)
    for done in (first, second):
        assert (json.loads(done.stdout)["jobs"], done.stderr) == ([], "")
    assert {path.name for path in tmp_path.iterdir()} == {name, unpacked.parent.name}, "nothing is left aside"


# Unpacks, and another process is the first to be through with that.
SECOND = """
import os, runpy, shutil, sys
rename = os.rename
def rename_late(source, target):
    shutil.copytree(source, target)
    rename(source, target)
os.rename = rename_late
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_of_two_that_unpack_at_the_same_time_the_second_leaves_nothing(tmp_path: Path) -> None:
    name, content = pack()
    (tmp_path / name).write_bytes(content)
    argv = [sys.executable, "-c", SECOND, str(tmp_path / name), "probe"]
    request = json.dumps({"workdir": str(tmp_path), "server": "s", "job_ids": None})
    done = subprocess.run(argv, input=request, capture_output=True, text=True)
    assert (json.loads(done.stdout)["jobs"], done.stderr) == ([], "")
    assert {path.name for path in tmp_path.iterdir()} == {name, name.removesuffix(".pyz")}


def test_bytecode_that_a_full_disk_cut_off_is_made_anew(tmp_path: Path) -> None:
    """Python writes it without looking how much was written, and never reads it again without failing."""
    name, content = pack()
    (tmp_path / name).write_bytes(content)
    unpacked = tmp_path / name.removesuffix(".pyz") / "__main__.py"
    assert ask(tmp_path / name, tmp_path).returncode == 0
    caches = list((unpacked.parent / "rl_remote" / "__pycache__").glob("*.pyc"))
    assert caches
    whole = {path: path.stat().st_size for path in caches}
    for path in caches:
        path.write_bytes(path.read_bytes()[: whole[path] // 2])
    for _ in range(2):
        done = ask(unpacked, tmp_path)
        assert (json.loads(done.stdout or "{}").get("jobs"), done.stderr) == ([], "")
    assert {path: path.stat().st_size for path in caches} == whole


def test_the_unpacked_programs_are_what_a_call_runs(tmp_path: Path) -> None:
    """And the archive, where they are not there: the folder may not be writable."""
    archive = tmp_path / "rl-0.pyz"
    archive.write_text("import sys; print('archive', sys.argv[1])")
    argv = ["/bin/sh", "-c", _RUN, "sh", str(archive), "probe", sys.executable]
    assert subprocess.run(argv, capture_output=True, text=True).stdout == "archive probe\n"
    (tmp_path / "rl-0").mkdir()
    (tmp_path / "rl-0" / "__main__.py").write_text("import sys; print('unpacked', sys.argv[1])")
    assert subprocess.run(argv, capture_output=True, text=True).stdout == "unpacked probe\n"
    archive.unlink()
    assert subprocess.run(argv, capture_output=True, text=True).returncode == _NO_PROGRAM


def test_a_probe_starts_light(tmp_path: Path) -> None:
    """It is what every look at the jobs waits for, on every server."""
    name, content = pack()
    (tmp_path / name).write_bytes(content)
    ask(tmp_path / name, tmp_path)
    said = ask(tmp_path / name.removesuffix(".pyz") / "__main__.py", tmp_path, "-X", "importtime").stderr
    loaded = {line.rpartition("|")[2].strip() for line in said.splitlines()}
    assert "rl_remote.states" in loaded
    assert loaded.isdisjoint({"ctypes", "socket", "subprocess", "threading", "runpy", "rl_remote.facts"})
