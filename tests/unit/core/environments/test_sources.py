"""Which of the project's files the packages come from, and what each kind says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.environments.sources import Source, find_source
from remote_launch.core.inventory import Environment
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SIX = "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
INICONFIG = "9121e2c1fdb355232495be3194c8dfe87ccc2d5dee45947b78e68f499790d7a7"
BUILT = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
PROJECT = """[project]
name = "demo"
version = "1"
dependencies = ["six>=1", "numpy; python_version>'3.8'"]
"""
UV_LOCK = """version = 1
[[package]]
name = "demo"
source = { editable = "." }
[[package]]
name = "six"
version = "1.17.0"
source = { registry = "https://pypi.org/simple" }
"""
POETRY_LOCK = f"""
[[package]]
name = "iniconfig"
version = "2.3.1"
optional = false
groups = ["dev"]
files = [{{file = "iniconfig-2.3.1-py3-none-any.whl", hash = "sha256:{INICONFIG}"}}]

[[package]]
name = "six"
version = "1.17.0"
optional = false
groups = ["main", "dev"]
markers = {{main = "python_version < \\"3.12\\"", dev = "python_version < \\"3.13\\""}}
files = [
    {{file = "six-1.17.0-py2.py3-none-any.whl", hash = "sha256:{SIX}"}},
    {{file = "six-1.17.0.tar.gz", hash = "sha256:00"}},
]

[metadata]
lock-version = "2.1"
"""
PIPFILE_LOCK = f"""{{
  "_meta": {{"sources": [{{"name": "pypi", "url": "https://pypi.org/simple", "verify_ssl": true}}]}},
  "default": {{"six": {{
    "version": "==1.17.0", "hashes": ["sha256:{SIX}"], "markers": "python_version < '3.12'"}}}},
  "develop": {{"iniconfig": {{"version": "==2.3.1"}}}}
}}"""


class Tree:
    """A project's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def find(self, *, without: str = "", **fields: Any) -> Source | None:
        files = [str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()]
        environment = Environment(**{"manager": "venv", **fields})
        return find_source(self.root, [name for name in files if name != without], environment)

    def source(self, **fields: Any) -> Source:
        found = self.find(**fields)
        assert found is not None
        return found

    def refused(self, **fields: Any) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            self.find(**fields)
        assert caught.value.hint
        return caught.value

    def texts(self, **fields: Any) -> list[str]:
        return [line.text for line in self.source(**fields).lines or ()]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


class TestOrder:
    def test_each_kind_goes_before_those_after_it(self, tree: Tree) -> None:
        kinds = [
            ("pyproject.toml", PROJECT, "pyproject.toml"),
            ("requirements.txt", "six\n", "requirements"),
            ("Pipfile", '[packages]\nsix = "*"\n', "Pipfile"),
            ("Pipfile.lock", PIPFILE_LOCK, "Pipfile.lock"),
            ("poetry.lock", POETRY_LOCK, "poetry.lock"),
            ("uv.lock", UV_LOCK, "uv.lock"),
        ]
        assert tree.find() is None
        for name, text, kind in kinds:
            tree.write(name, text)
            assert tree.source().kind == kind

    def test_the_inventory_may_name_any_of_them(self, tree: Tree) -> None:
        tree.write("requirements.txt", "six\n")
        tree.write("sub/poetry.lock", POETRY_LOCK)
        tree.write("gpu.in", "numpy\n")
        assert tree.source(requirements="sub/poetry.lock").kind == "poetry.lock"
        assert tree.source(requirements="gpu.in").path == "gpu.in"
        error = tree.refused(requirements="nope.txt")
        assert error.key == "environment.requirements"

    def test_a_file_that_is_not_sent_does_not_count(self, tree: Tree) -> None:
        tree.write("requirements.txt", "six\n")
        assert tree.find(without="requirements.txt") is None

    def test_packages_of_the_inventory_need_no_file(self, tree: Tree) -> None:
        assert tree.source(packages=("six",)).kind == "none"

    def test_tools_alone_make_no_packages(self, tree: Tree) -> None:
        tree.write("pyproject.toml", "[tool.ruff]\nline-length = 100\n")
        assert tree.find() is None

    def test_condas_file_is_condas(self, tree: Tree) -> None:
        tree.write("environment.yml", "dependencies: [python]\n")
        assert tree.find(manager="conda") is None
        assert "conda" in str(tree.refused(manager="uv"))
        tree.write("pyproject.toml", PROJECT)
        assert tree.find(manager="conda") is None
        assert tree.source(manager="uv").kind == "pyproject.toml"
        tree.write("requirements.txt", "six\n")
        assert tree.source(manager="conda").kind == "requirements"


class TestRequirements:
    def test_what_a_file_names_is_read_too(self, tree: Tree) -> None:
        tree.write("requirements.txt", "six\n-r more/a.txt  # a comment\n--constraint=c.txt\n-r https://x/y.txt\n")
        tree.write("more/a.txt", "-rb.txt\n-r \\\n  b.txt\n")
        tree.write("more/b.txt", "numpy\n")
        tree.write("c.txt", "six<2\n")
        source = tree.source()
        assert source.files == ("requirements.txt", "more/a.txt", "more/b.txt", "c.txt")
        assert not source.hashed
        tree.write("more/b.txt", "numpy<2\n")
        assert tree.source().content != source.content

    def test_one_hash_anywhere_counts(self, tree: Tree) -> None:
        tree.write("requirements.txt", "-r a.txt\n")
        tree.write("a.txt", f"six==1.17.0 \\\n    --hash=sha256:{SIX}\n")
        assert tree.source().hashed

    @pytest.mark.parametrize(
        ("files", "line", "words"),
        [
            ({"requirements.txt": "six\n-r nope.txt\n"}, 2, "nope.txt is not there"),
            ({"requirements.txt": "-r ../up.txt\n"}, 1, "outside the project"),
            ({"requirements.txt": "-r a.txt\n", "a.txt": "\n-c requirements.txt\n"}, 2, "-> a.txt ->"),
            ({"requirements.txt": "-r requirements.txt\n"}, 1, "include each other"),
        ],
    )
    def test_a_wrong_include_is_named(
        self, tree: Tree, files: dict[str, str], line: int, words: str
    ) -> None:
        for name, text in files.items():
            tree.write(name, text)
        error = tree.refused()
        assert (error.line, words in str(error)) == (line, True), error

    def test_an_include_that_a_sync_leaves_out_is_named(self, tree: Tree) -> None:
        tree.write("requirements.txt", "-r a.txt\n")
        tree.write("a.txt", "six\n")
        assert "not among the files that are sent" in str(tree.refused(without="a.txt"))

    def test_utf_16_is_read_as_pip_reads_it(self, tree: Tree) -> None:
        (tree.root / "requirements.txt").write_bytes("-r a.txt\n".encode("utf-16"))
        tree.write("a.txt", "six\n")
        assert tree.source().files == ("requirements.txt", "a.txt")


class TestPoetry:
    def test_the_main_group_with_hashes_and_markers(self, tree: Tree) -> None:
        tree.write("poetry.lock", POETRY_LOCK)
        [text] = tree.texts()
        assert text.split() == [
            *("six==1.17.0", ";", "python_version", "<", '"3.12"', "\\"),
            *(f"--hash=sha256:{SIX}", "\\", "--hash=sha256:00"),
        ]
        assert tree.source().locked
        assert tree.source().hashed

    def entry(self, source: str, more: str = "") -> str:
        return (
            '[[package]]\nname = "Lib"\nversion = "1"\noptional = false\ngroups = ["main"]\n'
            f'{more}\n[package.source]\n{source}\n[metadata]\nlock-version = "2.1"\n'
        )

    @pytest.mark.parametrize(
        ("source", "more", "text"),
        [
            ('type = "git"\nurl = "https://h/l.git"\nresolved_reference = "abc"\nreference = "main"', "",
             "Lib @ git+https://h/l.git@abc"),
            ('type = "git"\nurl = "git@h:o/l.git"\nreference = "v1"\nsubdirectory = "py"', "",
             "Lib @ git+ssh://git@h/o/l.git@v1#subdirectory=py"),
            ('type = "directory"\nurl = "libs/l"', "develop = false", "-e ./libs/l"),
            ('type = "directory"\nurl = "libs/l"', "markers = \"os_name == 'posix'\"",
             "./libs/l ; os_name == 'posix'"),
            ('type = "url"\nurl = "https://h/l.whl"', 'files = [{file="l.whl", hash="sha256:1"}]',
             "Lib @ https://h/l.whl \\\n    --hash=sha256:1"),
            ('type = "file"\nurl = "l.whl"', 'files = [{file="l.whl", hash="sha256:1"}]',
             "./l.whl \\\n    --hash=sha256:1"),
        ],
    )  # fmt: skip
    def test_what_is_from_elsewhere(self, tree: Tree, source: str, more: str, text: str) -> None:
        tree.write("poetry.lock", self.entry(source, more))
        assert tree.texts() == [text]
        [line] = tree.source().lines or ()
        assert line.unhashed is ("--hash" not in text)

    def test_a_folder_outside_the_project_is_refused(self, tree: Tree) -> None:
        tree.write("poetry.lock", self.entry('type = "directory"\nurl = "../l"'))
        assert "outside the project" in str(tree.refused())

    def test_indexes_that_it_names_are_kept(self, tree: Tree) -> None:
        private = self.entry('type = "legacy"\nurl = "https://h/simple"\nreference = "ours"')
        tree.write("poetry.lock", private)
        assert tree.source().indexes.index_url == "https://h/simple"
        both = POETRY_LOCK.partition("[metadata]")[0] + private
        tree.write("poetry.lock", both)
        indexes = tree.source().indexes
        assert (indexes.index_url, indexes.extra) == (None, ("https://h/simple",))

    def test_optional_packages_are_for_extras(self, tree: Tree) -> None:
        tree.write("poetry.lock", POETRY_LOCK.replace("optional = false", "optional = true"))
        assert tree.texts() == []

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (POETRY_LOCK.replace('"2.1"', '"2.0"'), "old Poetry"),
            (POETRY_LOCK.replace('"2.1"', '"3.0"'), "newer"),
            (POETRY_LOCK.replace('"2.1"', "2"), "old Poetry"),
            ("", "old Poetry"),
            (POETRY_LOCK.replace('version = "1.17.0"\n', ""), "'six'"),
            ("package = [1]\n[metadata]\nlock-version='2.1'\n", "the package 1"),
            ("[[package]\n", "broken TOML"),
        ],
    )
    def test_one_that_can_not_be_used_says_what_to_do(self, tree: Tree, text: str, words: str) -> None:
        tree.write("poetry.lock", text)
        error = tree.refused()
        assert words in str(error)
        assert "poetry" in str(error.hint)


class TestPipenv:
    def test_the_lock(self, tree: Tree) -> None:
        tree.write("Pipfile.lock", PIPFILE_LOCK)
        assert tree.texts() == [f"six==1.17.0 ; python_version < '3.12' \\\n    --hash=sha256:{SIX}"]
        source = tree.source()
        assert source.locked
        assert source.hashed
        assert (source.indexes.index_url, source.indexes.extra) == (None, ())

    def test_a_pipfile_alone(self, tree: Tree) -> None:
        tree.write(
            "Pipfile",
            '[[source]]\nurl = "https://h:1/simple"\nverify_ssl = false\nname = "x"\n'
            "[packages]\nsix = '*'\nrequests = {version = '>=2', extras = ['socks', 'x']}\n"
            "w = {version = '*', sys_platform = \"== 'linux'\", markers = \"python_version > '3'\"}\n"
            "g = {git = 'https://h/g.git', ref = 'v1', editable = true}\n"
            "l = {path = './lib', editable = true}\n"
            "u = {file = 'https://h/u.whl'}\n[dev-packages]\npytest = '*'\n",
        )
        assert tree.texts() == [
            "six",
            "requests[socks,x]>=2",
            "w ; (python_version > '3') and (sys_platform == 'linux')",
            "g @ git+https://h/g.git@v1",
            "-e ./lib",
            "u @ https://h/u.whl",
        ]
        source = tree.source()
        assert not source.locked
        assert (source.indexes.index_url, source.indexes.insecure_hosts) == ("https://h:1/simple", ("h:1",))

    def test_variables_of_an_index_are_this_machines(
        self, tree: Tree, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tree.write(
            "Pipfile",
            '[[source]]\nurl = "https://$RL_USER:${RL_PASS}@h/simple"\nname = "x"\n[packages]\nsix = "*"\n',
        )
        monkeypatch.setenv("RL_USER", "me")
        monkeypatch.delenv("RL_PASS", raising=False)
        error = tree.refused()
        assert "RL_PASS" in str(error)
        assert tree.source(index_url="https://other").indexes.index_url is None
        monkeypatch.setenv("RL_PASS", "hush")
        source = tree.source()
        assert source.indexes.index_url == "https://me:hush@h/simple"
        assert "hush" not in repr(source)

    @pytest.mark.parametrize(
        ("text", "line"), [('{"default":\n {,}}', 2), ("[]", None), ("{}", None), ("[" * 100_000, None)]
    )
    def test_a_broken_lock(self, tree: Tree, text: str, line: int | None) -> None:
        tree.write("Pipfile.lock", text)
        error = tree.refused()
        assert error.line == line
        assert "pipenv lock" in str(error.hint)

    @pytest.mark.parametrize("entry", ["1", "null", '{"version": "==1", "hashes": 1}'])
    def test_an_odd_package(self, tree: Tree, entry: str) -> None:
        tree.write("Pipfile.lock", f'{{"default": {{"six": {entry}}}}}')
        assert "'six'" in str(tree.refused())


class TestUv:
    def test_the_lock_is_uvs_to_read(self, tree: Tree) -> None:
        tree.write("uv.lock", UV_LOCK)
        tree.write("pyproject.toml", PROJECT)
        source = tree.source()
        assert source.files == ("uv.lock", "pyproject.toml")
        assert [line.name for line in source.lines or ()] == ["demo", "six"]
        assert source.project is None
        tree.write("pyproject.toml", PROJECT + BUILT)
        assert tree.source().project == "."

    def test_other_indexes_are_kept_unless_the_inventory_names_its_own(self, tree: Tree) -> None:
        more = '[[package]]\nname = "t"\nversion = "1+cpu"\nsource = { registry = "https://h/cpu" }\n'
        tree.write("uv.lock", UV_LOCK + more)
        tree.write("pyproject.toml", PROJECT)
        assert tree.source().indexes.extra == ("https://h/cpu",)
        assert tree.source(index_url="https://mine").indexes.extra == ()

    def test_without_its_pyproject(self, tree: Tree) -> None:
        tree.write("sub/uv.lock", UV_LOCK)
        assert "sub/pyproject.toml" in str(tree.refused(requirements="sub/uv.lock"))

    def test_a_broken_one(self, tree: Tree) -> None:
        tree.write("uv.lock", "version = 1\n[[package]\n")
        tree.write("pyproject.toml", PROJECT)
        error = tree.refused()
        assert (error.line, error.hint) == (2, "write it anew: uv lock")


class TestPyproject:
    def test_its_dependencies(self, tree: Tree) -> None:
        tree.write("pyproject.toml", PROJECT)
        assert tree.texts() == ["six>=1", "numpy; python_version>'3.8'"]
        assert tree.source().project is None

    @pytest.mark.parametrize(
        ("more", "wanted", "project"),
        [
            (BUILT, None, "."),
            (BUILT, False, None),
            (BUILT + "[tool.poetry]\npackage-mode = false\n", None, None),
            (BUILT + "[tool.uv]\npackage = false\n", None, None),
            ("[tool.uv]\npackage = true\n", None, "."),
            ("", True, "."),
        ],
    )
    def test_whether_the_project_itself_is_installed(
        self, tree: Tree, more: str, wanted: bool | None, project: str | None
    ) -> None:
        tree.write("pyproject.toml", PROJECT + more)
        assert tree.source(install_project=wanted).project == project

    def test_the_project_with_requirements_when_asked_for(self, tree: Tree) -> None:
        tree.write("requirements.txt", "six\n")
        tree.write("pyproject.toml", PROJECT + BUILT)
        assert tree.source().project is None
        source = tree.source(install_project=True)
        assert (source.project, source.files) == (".", ("requirements.txt", "pyproject.toml"))
        assert source.build_requires == ("hatchling", "editables~=0.3")
        assert source.content != tree.source().content

    def test_the_project_is_at_the_top_wherever_the_requirements_are(self, tree: Tree) -> None:
        tree.write("requirements/gpu.txt", "six\n")
        tree.write("pyproject.toml", PROJECT + BUILT)
        assert tree.source(requirements="requirements/gpu.txt", install_project=True).project == "."
        tree.write("sub/pyproject.toml", PROJECT + BUILT)
        assert tree.source(requirements="sub/pyproject.toml").project == "./sub"

    def test_a_broken_file_that_is_not_needed_is_not_read(self, tree: Tree) -> None:
        tree.write("requirements.txt", "six\n")
        tree.write("pyproject.toml", "[project\n")
        assert tree.source().kind == "requirements"

    def test_a_project_without_a_build_file(self, tree: Tree) -> None:
        tree.write("requirements.txt", "six\n")
        assert tree.refused(install_project=True).key == "environment.install_project"
        tree.write("setup.py", "")
        assert tree.source(install_project=True).build_requires == ("setuptools", "wheel")

    def test_dynamic_dependencies_come_with_the_project(self, tree: Tree) -> None:
        dynamic = '[project]\nname = "d"\nversion = "1"\ndynamic = ["dependencies"]\n'
        listed = '[tool.setuptools.dynamic]\ndependencies = {file = ["reqs.in"]}\n'
        tree.write("pyproject.toml", dynamic + listed)
        tree.write("reqs.in", "six\n")
        source = tree.source()
        assert (source.project, source.dynamic, source.files) == (".", True, ("pyproject.toml", "reqs.in"))
        assert "dynamic" in str(tree.refused(install_project=False))

    def test_what_pip_would_not_see_is_refused(self, tree: Tree) -> None:
        tree.write("pyproject.toml", PROJECT + '[tool.uv.sources]\nSix = {git = "https://h/six"}\n')
        assert "six" in str(tree.refused())
        assert tree.source(manager="uv").kind == "pyproject.toml"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('[tool.poetry.dependencies]\npython = "^3.10"\nsix = "*"\n', "no poetry.lock"),
            ("[project]\ndependencies = 'six'\n", "a list of texts"),
            ("[project]\ndependencies = [six]\n", "pyproject.toml:2: broken TOML"),
        ],
    )
    def test_what_can_not_be_used(self, tree: Tree, text: str, words: str) -> None:
        tree.write("pyproject.toml", text)
        assert words in str(tree.refused())

    def test_text_that_is_none(self, tree: Tree) -> None:
        (tree.root / "pyproject.toml").write_bytes(b"[project]\nname = '\xff'\n")
        assert tree.refused().line == 2


class TestFoldersOfTheProject:
    """What a folder that is installed editable depends on stands in its own build files."""

    LOCK_OF_FOLDER = UV_LOCK + '[[package]]\nname = "lib"\nversion = "1"\nsource = { directory = "lib" }\n'

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("requirements.txt", "six\n-r more.txt\n"),
            ("Pipfile", '[packages]\nlib = {path = "./lib", editable = true}\n'),
            ("uv.lock", LOCK_OF_FOLDER),
        ],
    )
    def test_count_by_their_build_files(self, tree: Tree, name: str, text: str) -> None:
        tree.write(name, text)
        tree.write("more.txt", "-e ./lib[gpu]\n")
        if name == "uv.lock":
            tree.write("pyproject.toml", PROJECT)
        tree.write("lib/setup.cfg", "[metadata]\nname = lib\n")
        tree.write("lib/code.py", "1")
        tree.write("other/pyproject.toml", PROJECT)
        before = tree.source()
        assert "lib/setup.cfg" in before.files
        assert not {"lib/code.py", "other/pyproject.toml"} & {*before.files}
        tree.write("lib/code.py", "2")
        tree.write("other/pyproject.toml", PROJECT + "#")
        assert tree.source().content == before.content
        tree.write("lib/setup.cfg", "[metadata]\nname = lib\n[options]\ninstall_requires = six\n")
        changed = tree.source()
        assert changed.content != before.content
        tree.write("lib/pyproject.toml", BUILT)
        assert tree.source().content != changed.content
