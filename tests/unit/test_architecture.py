"""The layers of DESIGN: imports go one way, and each third party has one home. Every failure says why."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "remote_launch"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 350

# What each part may import of ours.
_ALL_BUT_REMOTE = {"errors", "dataclass"}
MAY_IMPORT = {
    "cli": {"cli", "operations", "core", "transport", *_ALL_BUT_REMOTE, ""},
    "api": {"api", "operations", "core", "transport", *_ALL_BUT_REMOTE},
    "operations": {"operations", "core", "transport", *_ALL_BUT_REMOTE},
    "core": {"core", "transport", *_ALL_BUT_REMOTE},
    "transport": {"transport", *_ALL_BUT_REMOTE},
    "remote": {"remote"},
    "": {"api"},
    "errors": set(),
    "dataclass": set(),
}
# core and operations may know the transports' data and commands, but not how a server is reached.
PLAIN_TRANSPORT = {"base", "command", "digest", "listing"}
HOME_OF = {
    "rich": ({"cli"}, "tables and colours are for people: operations return data, cli renders it"),
    "click": ({"cli"}, "parsing and terminal output belong to the command line"),
    "paramiko": ({"transport"}, "only transport knows how a server is reached"),
    "fabric": ({"transport"}, "only transport knows how a server is reached"),
    "invoke": ({"transport"}, "only transport knows how a server is reached"),
    "subprocess": (
        {"transport", "remote"},
        "processes are started by transport here and by remote on a server",
    ),
    "torch": ({"remote"}, "the launching side needs no torch: seconds of import, gigabytes to install"),
    "yaml": ({"core"}, "the inventory is read in one place"),
    "sqlite3": ({"core"}, "the registry is kept in one place"),
}


RUN_BY_THE_ENVIRONMENT = {"remote_launch/remote/torchrun.py", "remote_launch/remote/allreduce.py"}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    if len(relative.parts) > 1:
        return relative.parts[0]
    return "" if relative.stem == "__init__" else relative.stem


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Every module that a file imports, also inside functions and for type checkers, with the line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = path.relative_to(PACKAGE.parent).parts[: -node.level]
                base = ".".join([*parents, *([base] if base else [])])
            found += [(node.lineno, base), *((node.lineno, f"{base}.{alias.name}") for alias in node.names)]
    return found


def calls_of(path: Path, name: str) -> list[int]:
    tree = ast.walk(ast.parse(path.read_text()))
    calls = [node for node in tree if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == name]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
class TestEveryModule:
    def test_imports_go_one_way(self, path: Path) -> None:
        part = part_of(path)
        for line, module in imports_of(path):
            words = module.split(".")
            if words[0] != "remote_launch" or len(words) < 2:
                continue
            target = (
                words[1] if (PACKAGE / words[1]).exists() or (PACKAGE / f"{words[1]}.py").exists() else ""
            )
            assert target in MAY_IMPORT[part], (
                f"{name_of(path)}:{line} imports {module}: imports go one way, "
                "cli, api -> operations -> core -> transport -> errors; remote stands alone (DESIGN 2)"
            )

    def test_core_touches_no_network(self, path: Path) -> None:
        if part_of(path) != "core":
            return
        for line, module in imports_of(path):
            words = module.split(".")
            if words[:2] == ["remote_launch", "transport"] and len(words) > 2:
                assert words[2] in PLAIN_TRANSPORT, (
                    f"{name_of(path)}:{line} imports {module}: core is data and rules; "
                    "operations reach servers"
                )

    def test_every_third_party_has_its_home(self, path: Path) -> None:
        for line, module in imports_of(path):
            homes, why = HOME_OF.get(module.split(".")[0], (None, ""))
            assert homes is None or part_of(path) in homes, f"{name_of(path)}:{line} imports {module}: {why}"

    def test_torch_is_imported_by_what_the_environments_python_runs_alone(self, path: Path) -> None:
        for line, module in imports_of(path):
            if module.split(".")[0] == "torch":
                assert name_of(path) in RUN_BY_THE_ENVIRONMENT, (
                    f"{name_of(path)}:{line} imports torch: only what the environment's own python runs may"
                )

    def test_remote_needs_the_standard_library_alone(self, path: Path) -> None:
        if part_of(path) != "remote":
            return
        for line, module in imports_of(path):
            top = module.split(".")[0]
            assert top in {*sys.stdlib_module_names, "remote_launch", "torch"}, (
                f"{name_of(path)}:{line} imports {module}: remote runs on a server's bare python3"
            )

    def test_print_is_for_programs_on_servers(self, path: Path) -> None:
        lines = [] if part_of(path) == "remote" else calls_of(path, "print")
        assert not lines, (
            f"{name_of(path)}:{lines} calls print: cli uses click.echo, the others return what they say"
        )

    def test_it_can_be_read_in_one_go(self, path: Path) -> None:
        count = len(path.read_text().splitlines())
        assert count <= MAX_LINES, (
            f"{name_of(path)} has {count} lines: over {MAX_LINES} it does two things; make it two modules"
        )


def test_no_class_has_a_base_that_only_new_versions_of_click_can_subscript() -> None:
    """``click.ParamType[float]`` is fine for a type checker, and a TypeError with click 8.1."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            bases = node.bases if isinstance(node, ast.ClassDef) else []
            subscripted = [ast.unparse(base) for base in bases if isinstance(base, ast.Subscript)]
            assert not [base for base in subscripted if base.startswith("click.")], (
                f"{name_of(path)}: {subscripted}: subscript it below TYPE_CHECKING alone"
            )


def test_the_walk_sees_the_package() -> None:
    names = {name_of(path) for path in MODULES}
    assert {
        "remote_launch/cli/main.py",
        "remote_launch/remote/torchrun.py",
        "remote_launch/errors.py",
    } <= names
    assert {part_of(path) for path in MODULES} == set(MAY_IMPORT)
