"""The archive that goes to the servers."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from remote_launch.core import programs
from remote_launch.core.programs import pack

SOURCES = Path(__file__).parents[3] / "remote_launch" / "remote"


def test_the_archive_is_named_by_its_content_and_the_same_each_time() -> None:
    name, content = pack()
    assert re.fullmatch(r"rl-[0-9a-f]{16}\.pyz", name)
    for cached in (programs.archive_name, programs.archive_content, programs._sources):
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
                allowed = module.split(".")[0] in sys.stdlib_module_names or (
                    path.name == "torchrun.py" and module.startswith("torch.")
                )
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
