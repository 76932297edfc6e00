"""What pip and uv are told: as data. That they take it is shown by the tests that install for real."""

from __future__ import annotations

import itertools
import json
import subprocess
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from remote_launch.core.environments.failures import install_hints
from remote_launch.core.environments.indexes import UV_HOME_LINKS, index_env, with_indexes
from remote_launch.core.environments.locked import Indexes, Line
from remote_launch.core.environments.packages import packages_part
from remote_launch.core.environments.sources import Source
from remote_launch.core.environments.steps import Part, Step, hint_for
from remote_launch.core.environments.wheels import wheelhouse_inputs
from remote_launch.core.inventory import Environment, Server
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = "/w/.rl/env/bin/python"
PIP = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
UV = ("pip", "install", "--python", PYTHON)
TORCH = tuple(
    Line(name=name, text=f"{name}=={version} \\\n    --hash=sha256:1", version=version)
    for name, version in [
        ("six", "1.17.0"),
        ("torch", "2.6.0+cu124"),
        ("torchvision", "0.21.0"),
        ("nvidia-cublas-cu12", "12.4"),
        ("nvidia-nvjitlink-cu12", "12.4"),
        ("nvidia-ml-py", "12"),
        ("triton", "3.2"),
    ]
)
DEPENDS = {
    "torch": ("nvidia-cublas-cu12", "triton", "sympy"),
    "nvidia-cublas-cu12": ("nvidia-nvjitlink-cu12",),
}


def server(manager: str = "venv", *, env: dict[str, str] | None = None, **fields: Any) -> Server:
    return Server(name="s", workdir="/w", env=env or {}, environment=Environment(manager=manager, **fields))


def source(kind: str = "requirements", path: str = "requirements.txt", **fields: Any) -> Source:
    return Source(**{"kind": kind, "path": path, "files": (path,), "content": "1", **fields})


def lock(**fields: Any) -> Source:
    wanted = {"kind": "poetry.lock", "path": "poetry.lock", "lines": TORCH, "depends": DEPENDS}
    return source(**{**wanted, "locked": True, "hashed": True, **fields})


def part(of: Source | None, **fields: Any) -> Part:
    found, _ = packages_part(server(**fields), of)
    assert found is not None
    return found


def words(of: Source | None, **fields: Any) -> list[tuple[str, ...]]:
    return [step.args for step in part(of, **fields).steps]


def files(of: Source, **fields: Any) -> dict[str, list[str]]:
    """The files that steps read: the names in each."""
    _, found = packages_part(server(**fields), of)
    return {
        name: [line.partition("==")[0] for line in text.splitlines() if not line.startswith(" ")]
        for name, text in found.items()
    }


class TestCalls:
    def test_nothing_to_install(self) -> None:
        assert packages_part(server(), None) == (None, {})
        assert packages_part(server(), lock(lines=())) == (None, {})

    @pytest.mark.parametrize(("manager", "begin"), [("venv", PIP), ("uv", UV)])
    def test_a_file_and_the_inventorys_packages_in_one(self, manager: str, begin: tuple[str, ...]) -> None:
        found = words(source(), manager=manager, packages=("numpy<2",), pip_args=("--pre",))
        assert found == [(*begin, "--pre", "-r", "requirements.txt", "numpy<2")]

    def test_packages_alone(self) -> None:
        assert words(source("none", "", files=()), packages=("six",)) == [(*PIP, "six")]

    def test_a_file_with_hashes_takes_no_others_in_its_call(self) -> None:
        found = words(source(hashed=True, project="."), packages=("six",))
        assert found == [(*PIP, "-r", "requirements.txt"), (*PIP, "six"), (*PIP, "--no-deps", "-e", ".")]

    def test_what_was_converted_travels_in_a_file(self) -> None:
        made = source("pyproject.toml", "pyproject.toml", lines=(Line(name="", text="six>=1"),), project=".")
        assert words(made) == [(*PIP, "-r", ".rl/requirements.txt"), (*PIP, "--no-deps", "-e", ".")]
        assert packages_part(server(), made)[1] == {"requirements.txt": "six>=1\n"}
        uv = words(made, manager="uv")
        assert uv[0] == (*UV, "-r", "pyproject.toml")
        assert packages_part(server("uv"), made)[1] == {}

    def test_dynamic_dependencies_come_with_the_project(self) -> None:
        made = source("pyproject.toml", "pyproject.toml", lines=(), project=".", dynamic=True)
        assert words(made) == [(*PIP, "-e", ".")]

    def test_a_lock_is_all_there_is(self) -> None:
        git = Line(name="g", text="g @ git+https://h/g", unhashed=True)
        made = lock(lines=(*TORCH[:1], git))
        assert words(made) == [
            (*PIP, "--no-deps", "-r", ".rl/requirements.txt"),
            (*PIP, "--no-deps", "-r", ".rl/requirements-unhashed.txt"),
        ]
        assert list(files(made)) == ["requirements.txt", "requirements-unhashed.txt"]

    @pytest.mark.parametrize("manager", ["venv", "uv", "none"])
    def test_a_uv_lock_is_read_and_installed_by_uv_whatever_the_manager(self, manager: str) -> None:
        made = source("uv.lock", "uv.lock", lines=TORCH, locked=True, hashed=True, project=".")
        steps = part(made, manager=manager).steps
        assert [step.needs for step in steps] == [("uv",)] * 3
        export = " ".join(steps[0].args)
        assert export.startswith("export --quiet --frozen --no-dev --no-emit-project")
        assert export.endswith("--output-file .rl/requirements.txt")
        assert steps[1].args[-3:] == ("--no-deps", "-r", ".rl/requirements.txt")
        assert steps[2].args[-3:] == ("--no-deps", "-e", ".")

    def test_names_of_steps_are_their_own(self) -> None:
        """A log and a hint go by them."""
        steps = part(lock(project="."), packages=("numpy",)).steps
        assert len({step.name for step in steps}) == len(steps) == 3

    def test_paths_of_a_lock_in_a_folder_are_from_the_workdir(self, tmp_path: Path) -> None:
        made = source("uv.lock", "a & pkg/uv.lock", locked=True, project="./a & pkg")
        step = part(made).steps[0]
        assert step.args[0] == "a & pkg"
        fake = tmp_path / "uv"
        lines = "'-e ./lib' '-e .' ./x.whl '-e ../up' six==1"
        fake.write_text(f"#!/bin/sh\nprintf '%s\\n' {lines} > .rl/requirements.txt.uv\n")
        fake.chmod(0o755)
        (tmp_path / ".rl").mkdir()
        subprocess.run(
            ["/bin/sh", "-c", step.script, "rl", *step.args], cwd=tmp_path, env={"UV": str(fake)}, check=True
        )
        got = (tmp_path / ".rl/requirements.txt").read_text().splitlines()
        at = "./a & pkg"
        assert got == [f"-e {at}/./lib", f"-e {at}/.", f"{at}/./x.whl", f"-e {at}/../up", "six==1"]


class TestInPlaceOfALock:
    def test_a_version_of_the_inventory_stands_in_for_the_locks(self) -> None:
        made = lock()
        assert words(made, packages=("six==1.16",))[-1] == (*PIP, "six==1.16")
        assert "six" not in files(made, packages=("six==1.16",))["requirements.txt"]
        assert "six" in files(made, packages=("six",))["requirements.txt"]
        assert "six" in files(made, packages=("six; python_version < '4'",))["requirements.txt"]

    def test_another_torch_takes_the_libraries_of_the_old_one_along(self) -> None:
        kept = files(lock(), packages=("Torch == 2.5",))["requirements.txt"]
        assert kept == ["six", "torchvision", "nvidia-ml-py"]

    def test_a_torch_backend_chooses_the_build_of_the_same_version(self) -> None:
        made = lock()
        found = words(made, manager="uv", torch_backend="cpu")
        assert found[0] == (*UV, "--no-deps", "-r", ".rl/requirements.txt")
        assert found[1] == (*UV, "--torch-backend", "cpu", "torch==2.6.0", "torchvision==0.21.0")
        assert files(made, manager="uv", torch_backend="cpu")["requirements.txt"] == ["six", "nvidia-ml-py"]

    def test_a_uv_lock_leaves_them_out_as_it_is_read(self) -> None:
        made = lock(kind="uv.lock", path="uv.lock")
        export, _, more = words(made, torch_backend="cu126", packages=("torch==2.5",))
        out = [name for flag, name in itertools.pairwise(export) if flag == "--no-emit-package"]
        assert out == ["nvidia-cublas-cu12", "nvidia-nvjitlink-cu12", "torch", "torchvision", "triton"]
        assert more[-2:] == ("torch==2.5", "torchvision==0.21.0")

    def test_without_a_lock_all_is_one_call(self) -> None:
        assert words(source(), manager="uv", torch_backend="cpu") == [
            (*UV, "--torch-backend", "cpu", "-r", "requirements.txt")
        ]


class TestRefusals:
    @pytest.mark.parametrize("key", ["pip_args", "packages"])
    def test_a_login_would_show_in_ps(self, key: str) -> None:
        with pytest.raises(ConfigError) as caught:
            words(source(), **{key: ("x @ https://user:token77@h/x.whl",)})
        assert caught.value.key == f"environment.{key}"
        assert "token77" not in f"{caught.value} {caught.value.hint}"

    @pytest.mark.parametrize("line", ["-e ./lib", "--pre", "torch --index-url https://h"])
    def test_options_are_no_packages(self, line: str) -> None:
        with pytest.raises(ConfigError, match=r"packages: expected a requirement"):
            words(source(), packages=(line,))

    def test_torch_backend_is_uvs(self) -> None:
        with pytest.raises(ConfigError) as caught:
            words(source(), torch_backend="cu126")
        assert str(caught.value).startswith("s: environment.torch_backend")
        assert "extra_index_url" in str(caught.value.hint)

    @pytest.mark.parametrize(
        "fields",
        [
            {"index_url": "https://u:token77@h/a b"},
            {"extra_index_url": ("https://h", "")},
            {"find_links": ("/a,/b",)},
            {"find_links": ("/a\n/b",)},
        ],
    )
    def test_a_setting_that_would_be_read_as_two(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ConfigError) as caught:
            words(source(), **fields)
        assert caught.value.key == f"environment.{next(iter(fields))}"
        assert "token77" not in str(caught.value)


class TestIndexes:
    settings: ClassVar[dict[str, Any]] = {
        "index_url": "https://me:token77@h/simple",
        "extra_index_url": ("https://a", "https://b"),
        "find_links": ("/x", "https://y"),
    }

    def test_go_by_variables_and_never_by_arguments(self) -> None:
        pip, uv = (part(source(), manager=manager, **self.settings).steps[0] for manager in ("venv", "uv"))
        assert pip.env == {
            "PIP_INDEX_URL": "https://me:token77@h/simple",
            "PIP_EXTRA_INDEX_URL": "https://a https://b",
            "PIP_FIND_LINKS": "/x https://y",
        }
        assert uv.env == {
            "UV_DEFAULT_INDEX": "https://me:token77@h/simple",
            "UV_INDEX": "https://a https://b",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "UV_FIND_LINKS": "/x,https://y",
        }
        for step in (pip, uv):
            assert "token77" not in f"{step.args} {step.script} {step!r} {json.dumps(step.to_dict())}"

    def test_win_over_the_servers_variables_and_leave_the_others(self) -> None:
        env = {"PIP_INDEX_URL": "https://old", "UV_INDEX_STRATEGY": "first-index", "LANG": "C"}
        steps = [
            packages_part(server(manager, env=env, **self.settings), source())[0].steps[0]  # type: ignore[union-attr]
            for manager in ("venv", "uv")
        ]
        assert steps[0].env["PIP_INDEX_URL"].endswith("@h/simple")
        assert steps[1].env["UV_INDEX_STRATEGY"] == "first-index"
        assert steps[1].env["LANG"] == "C"

    def test_a_locks_own_count_where_nobody_says_otherwise(self) -> None:
        own = Indexes(index_url="https://lock", extra=("https://more",), insecure_hosts=("lock",))
        found = index_env(server(), own)
        assert (found["PIP_INDEX_URL"], found["UV_DEFAULT_INDEX"]) == ("https://lock", "https://lock")
        assert (found["PIP_TRUSTED_HOST"], found["UV_INSECURE_HOST"]) == ("lock", "lock")
        given = index_env(server(env={"PIP_INDEX_URL": "https://mine"}), own)
        assert "PIP_INDEX_URL" not in given
        assert index_env(server(extra_index_url=("https://a",)), own) == index_env(
            server(extra_index_url=("https://a",))
        )

    def test_and_for_what_is_downloaded_here(self) -> None:
        own = Indexes(index_url="https://lock", extra=("https://more",))
        found = with_indexes(server(offline=True), own).environment
        assert (found.index_url, found.extra_index_url) == ("https://lock", ("https://more",))
        for given in (server(index_url="https://mine"), server(extra_index_url=("https://mine",))):
            assert with_indexes(given, own) is given
        env = {"PIP_INDEX_URL": "https://mine", "UV_INDEX": "https://mine"}
        found = with_indexes(server(env=env), own).environment
        assert (found.index_url, found.extra_index_url) == (None, ())

    def test_one_index_needs_no_strategy(self) -> None:
        assert "UV_INDEX_STRATEGY" not in index_env(server(index_url="https://h"))

    def test_a_home_folder_of_links_is_uvs_too(self) -> None:
        step = part(source(), manager="uv", find_links=("~/a b", "/x", "~/c")[1:]).steps[0]
        assert step.script.startswith(UV_HOME_LINKS)
        done = subprocess.run(
            ["/bin/sh", "-c", UV_HOME_LINKS + 'printf %s "$UV_FIND_LINKS"'],
            env={"HOME": "/home/me", "UV_FIND_LINKS": "~/a,/x~/,~/c"},
            capture_output=True,
            text=True,
        )
        assert done.stdout == "/home/me/a,/x~/,/home/me/c"


class TestOffline:
    @pytest.mark.parametrize("manager", ["venv", "uv"])
    def test_nothing_is_asked_of_an_index(self, manager: str) -> None:
        steps = part(
            source(project=".", build_requires=("hatchling",)),
            manager=manager,
            offline=True,
            index_url="https://h",
            packages=("six",),
        ).steps
        for step in steps:
            if manager == "uv":
                assert "--no-index" in step.args
            assert step.env["PIP_NO_INDEX" if manager == "venv" else "UV_OFFLINE"] == "1"
            assert ".rl/wheelhouse" in (step.env.get("PIP_FIND_LINKS") or step.env["UV_FIND_LINKS"])
            assert "https://h" not in step.env.values()

    def test_what_to_download(self) -> None:
        environment = Environment(manager="venv", packages=("numpy",))
        made = source(project=".", build_requires=("hatchling",))
        first, build = wheelhouse_inputs(made, environment)
        assert (first.requirements, first.building) == ("-r requirements.txt\nnumpy\n", False)
        assert (build.requirements, build.building) == ("hatchling\n", True)

    def test_of_a_lock_each_call_on_its_own(self) -> None:
        environment = Environment(manager="venv", packages=("six==1.16",))
        first, more = wheelhouse_inputs(lock(), environment)
        assert "six" not in first.requirements
        assert more.requirements == "six==1.16\n"
        uv, _ = wheelhouse_inputs(lock(kind="uv.lock", path="sub/uv.lock"), environment)
        assert uv.export[:2] == ("export", "--quiet")
        assert uv.export[-4:] == ("--project", "sub", "--no-emit-package", "six")


class TestFingerprint:
    def of(self, made: Source, **fields: Any) -> str:
        return part(made, **fields).fingerprint

    @pytest.mark.parametrize(
        "fields",
        [
            {"packages": ("six",)},
            {"pip_args": ("--pre",)},
            {"index_url": "https://h"},
            {"extra_index_url": ("https://h",)},
            {"find_links": ("/x",)},
            {"manager": "uv"},
            {"manager": "uv", "torch_backend": "cpu"},
            {"prefix": "/other"},
            {"offline": True},
        ],
    )
    def test_changes_with_every_setting(self, fields: dict[str, Any]) -> None:
        assert self.of(source(), **fields) != self.of(source())

    def test_changes_with_what_is_installed(self) -> None:
        plain = self.of(source())
        assert self.of(source(content="2")) != plain
        assert self.of(source(project=".")) != plain

    def test_does_not_change_with_other_variables(self) -> None:
        assert self.of(source(), env={"A": "b"}) == self.of(source())


class TestHints:
    @pytest.mark.parametrize(
        ("output", "words"),
        [
            ("ERROR: ResolutionImpossible: for help", "reqs.txt conflict"),
            ("error: No solution found when resolving dependencies\ncause: Because a", "reqs.txt conflict"),
            ("No solution found\nBecause x was not found in the package registry", "no such package"),
            ("ERROR: Could not find x (from versions: none)\nNo matching distribution", "no such package"),
            ("Could not find (from versions: 1.0)\nERROR: No matching distribution", "no such version"),
            ("No solution found\nBecause there is no version of six==99", "no such version"),
            ("No solution found\nx has no wheels with a matching platform tag", "no wheel"),
            ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "another file"),
            ("error: Failed\ncause: Hash mismatch for `six==1.17.0`", "another file"),
            ("error: subprocess-exited-with-error", "can't be built"),
            ("HTTP error: 401 Client Error: Unauthorized", "login"),
            ("invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
            ("/usr/bin/python3: No module named pip", "manager: uv"),
            ("error: externally-managed-environment", "manager: venv"),
            ("Failed to establish a new connection: …\n(from versions: none)", "offline: true"),
            ("cause: error sending request for url (https://pypi.org/simple/six/)", "offline: true"),
            ("the connection broke off: attempt 3 of 3\nDO NOT MATCH THE HASHES", "broke off each time"),
            ("Failed to parse `uv.lock`, which uses an unsupported schema version", "newer uv"),
            ("ERROR: Invalid requirement: 'six=1.0' (from line 1 of reqs.txt)", "no requirement"),
            ("error: Couldn't parse requirement in `reqs.txt` at position 0", "no requirement"),
            ("[Errno 28] No space left on device\nerror: subprocess-exited-with-error", "disk is full"),
        ],
    )
    def test_say_what_to_do_about_the_file(self, output: str, words: str) -> None:
        step = Step(name="install", hints=install_hints("reqs.txt", offline=False))
        assert words in str(hint_for(step, output))

    def test_offline_it_is_what_was_sent(self) -> None:
        step = Step(name="install", hints=install_hints("reqs.txt", offline=True))
        assert "offline" in str(hint_for(step, "ERROR: No matching distribution found for six"))
