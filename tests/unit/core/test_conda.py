"""Environments by conda as data: the steps, and what is read of environment.yml."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.environments.conda import DEFAULT_PYTHON, CondaFile, find_conda_file, steps
from remote_launch.core.environments.conda_file import spec_name
from remote_launch.core.environments.recipes import recipe_for
from remote_launch.core.environments.steps import Step, hint_for
from remote_launch.core.inventory import Environment, Server
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def server(**environment: Any) -> Server:
    return Server(name="s", workdir="~/proj", environment=Environment(name="proj_env", **environment))


def words(made: tuple[Step, ...]) -> tuple[str, ...]:
    """What conda is told: after the folder and the notes."""
    return made[1].args[2:]


class TestSteps:
    def test_the_installer_where_there_is_no_conda(self) -> None:
        step = steps(server())[0]
        assert (step.provides, step.lock) == ("conda", "~/.rl/miniforge3.rl-lock")
        assert step.download is not None
        assert step.download.url.startswith("https://github.com/conda-forge/miniforge/releases/download/")
        assert step.download.url.endswith("-{os}-{machine}.sh")
        assert step.download.to == f"~/.rl/downloads/{step.download.url.rpartition('/')[2]}"
        assert step.args == ("~/.rl/miniforge3",)

    def test_another_installer(self) -> None:
        step = steps(server(installer_url="https://m.example/a.sh?token=1", sha256="0" * 64))[0]
        assert step.download is not None
        assert (step.download.to, step.download.sha256) == ("~/.rl/downloads/a.sh", "0" * 64)
        with pytest.raises(ConfigError, match="installer_url"):
            steps(server(installer_url="file:///etc/passwd"))

    def test_the_environment(self) -> None:
        create = steps(server())[1]
        assert create.needs == ("conda",)
        assert create.args[:2] == ("~/proj/.rl/proj_env", "")
        python = f"python={DEFAULT_PYTHON}"
        assert create.args[2:] == ("--override-channels", "-c", "conda-forge", python, "pip")

    @pytest.mark.parametrize("wanted", ["3.11", "python3.11"])
    def test_the_python_wanted(self, wanted: str) -> None:
        assert "python=3.11" in words(steps(server(python=wanted)))

    def test_an_interpreter_is_not_what_conda_takes(self) -> None:
        with pytest.raises(ConfigError) as caught:
            steps(server(python="/usr/bin/python3"))
        assert caught.value.key == "environment.python"

    def test_channels_stand_in_for_conda_forge(self) -> None:
        told = words(steps(server(channels=("nvidia", "https://mirror.example/forge"))))
        assert told[:5] == ("--override-channels", "-c", "nvidia", "-c", "https://mirror.example/forge")

    @pytest.mark.parametrize(
        "channel", ["https://me:secret@mirror.example/forge", "https://conda.example/t/tok-1/forge", "-y", ""]
    )
    def test_no_login_goes_into_argv(self, channel: str) -> None:
        with pytest.raises(ConfigError) as caught:
            steps(server(channels=(channel,)))
        assert "secret" not in str(caught.value)
        assert "tok-1" not in str(caught.value)

    def test_offline(self) -> None:
        assert "--offline" in words(steps(server(offline=True)))

    def test_the_fingerprint_is_of_what_conda_is_asked_for(self) -> None:
        def made(**environment: Any) -> str:
            return recipe_for(server(**environment), None).environment.fingerprint

        assert made() == made(installer_url="https://m.example/a.sh")
        assert len({made(), made(python="3.11"), made(channels=("nvidia",))}) == 3

    @pytest.mark.parametrize(
        ("output", "hint"),
        [
            ("CondaToSNonInteractiveError: Terms of Service have not been accepted", "conda tos accept"),
            ("The following packages are not available from current channels", "environment.python"),
            ("CondaHTTPError: HTTP 000 CONNECTION FAILED", "https_proxy"),
            ("error    libmamba Could not solve for environment specs", "don't go together"),
        ],
    )
    def test_what_to_do_when_conda_fails(self, output: str, hint: str) -> None:
        assert hint in str(hint_for(steps(server())[1], output))


class TestScript:
    """The step that creates, with programs in conda's place."""

    def start(self, tmp_path: Path, conda: str) -> subprocess.Popen[str]:
        program = tmp_path / "conda"
        program.write_text(f"#!/bin/sh\n{conda}\n")
        program.chmod(0o755)
        prefix = tmp_path / "envs/x"
        prefix.mkdir(parents=True)
        (prefix / ".rl-env").touch()
        script = steps(server())[1].script
        return subprocess.Popen(
            ["/bin/sh", "-c", script, "rl", str(prefix), "", "python=3.11"],
            env={**os.environ, "CONDA": str(program), "PYTHONPATH": "/user's"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @pytest.mark.parametrize(("code", "said"), [(7, ""), (0, "conda made no python")])
    def test_a_failure_leaves_the_folder_ours(self, tmp_path: Path, code: int, said: str) -> None:
        process = self.start(tmp_path, f'ls -A "$4" && exit 9; echo "[$PYTHONPATH] $*"; exit {code}')
        out, _ = process.communicate(timeout=60)
        assert process.returncode == (code or 1)
        assert f"[] create -y -p {tmp_path}/envs/x python=3.11" in out
        assert said in out
        assert [path.name for path in (tmp_path / "envs/x").iterdir()] == [".rl-env"]

    def test_one_that_is_stopped_too(self, tmp_path: Path) -> None:
        process = self.start(tmp_path, 'mkdir -p "$4/conda-meta"; echo going; exec sleep 600')
        assert process.stdout is not None
        while process.stdout.readline() != "going\n":
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 143
        assert {path.name for path in (tmp_path / "envs/x").iterdir()} == {".rl-env", "conda-meta"}


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, text: str, name: str = "environment.yml", **more: str) -> CondaFile:
        files = {name: text, **more}
        for path, content in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(content)
        environment = Environment(requirements=None if name == "environment.yml" else name)
        found = find_conda_file(self.root, list(files), environment)
        assert found is not None
        return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


class TestEnvironmentYml:
    def test_an_ordinary_one(self, project: Project) -> None:
        file = project.read(
            "name: x\nchannels:\n  - pytorch\n  - conda-forge\n  - nodefaults\ndependencies:\n"
            "  - python=3.10\n  - pytorch::pytorch=2.1\n  - cuda-nvcc 12.*\n  - pip\n"
            "  - pip:\n    - einops>=0.7\n    - --extra-index-url https://i.example/simple\n"
        )
        assert file.channels == ("pytorch", "conda-forge")
        assert file.pip == ("einops>=0.7", "--extra-index-url", "https://i.example/simple")
        made = steps(server(), file)
        expected = ("-c", "pytorch", "-c", "conda-forge", "python=3.10", "pytorch::pytorch=2.1")
        assert words(made)[1:] == (*expected, "cuda-nvcc 12.*", "pip")
        pip = made[2]
        assert pip.args[:3] == (".", "~/proj/.rl/proj_env/bin/python", "-m")
        assert pip.args[-3:] == file.pip

    def test_what_it_leaves_out(self, project: Project) -> None:
        file = project.read("dependencies: [numpy]\n")
        told = ("--override-channels", "-c", "conda-forge", "python=3.12", "numpy", "pip")
        assert words(steps(server(python="3.12"), file)) == told

    def test_the_inventorys_channels_win(self, project: Project) -> None:
        file = project.read("channels: [defaults]\ndependencies: [numpy]\n")
        assert words(steps(server(channels=("mirror",)), file))[:3] == ("--override-channels", "-c", "mirror")

    @pytest.mark.parametrize("spec", ["python=3.10", "python==3.10", "python 3.10.*", "python =3.10"])
    def test_python_in_both(self, project: Project, spec: str) -> None:
        file = project.read(f"dependencies: ['{spec}']\n")
        assert spec in words(steps(server(python="3.10"), file))
        with pytest.raises(ConfigError, match=r"environment\.python is 3\.11"):
            steps(server(python="3.11"), file)

    def test_only_conda_reads_it_and_only_where_no_other_file_is_named(self, tmp_path: Path) -> None:
        files = ["environment.yml", "requirements.txt"]
        (tmp_path / "environment.yml").write_text("dependencies: [numpy]\n")
        assert find_conda_file(tmp_path, files, Environment()) is not None
        assert find_conda_file(tmp_path, files, Environment(requirements="requirements.txt")) is None
        assert find_conda_file(tmp_path, files, Environment(manager="uv")) is None
        assert find_conda_file(tmp_path, ["train.py"], Environment()) is None
        with pytest.raises(ConfigError, match=r"gpu\.yml"):
            find_conda_file(tmp_path, files, Environment(requirements="gpu.yml"))

    def test_files_that_pip_reads_are_part_of_the_fingerprint(self, project: Project) -> None:
        text = "dependencies: [pip, pip: ['-r more.txt']]\n"

        def made(more: str) -> str:
            file = project.read(text, "envs/gpu.yml", **{"envs/more.txt": more, "envs/base.txt": "x\n"})
            assert file.files == ("envs/more.txt", "envs/base.txt")
            recipe = recipe_for(server(), None, file)
            assert recipe.source_files == file.files
            assert recipe.steps[2].args[0] == "envs"
            return recipe.environment.fingerprint

        assert made("-r base.txt\n") != made("-r base.txt\ny\n")

    def test_offline_pip_has_another_way(self, project: Project) -> None:
        file = project.read("dependencies: [pip, pip: [einops]]\n")
        with pytest.raises(ConfigError, match="offline"):
            steps(server(offline=True), file)

    def test_what_the_user_should_know(self, project: Project) -> None:
        file = project.read("channels: [defaults]\ndependencies: [a]\nvariables: {A: b}\n")
        note = steps(server(), file)[1].args[1]
        assert "defaults" in note
        assert "env:" in note

    @pytest.mark.parametrize(
        ("text", "line", "said"),
        [
            ("- numpy\n", 1, "dependencies"),
            ("dependencies: numpy\n", 1, "expected a list"),
            ("dependencies:\n  - numpy\n  -\n", 3, "expected text"),
            ("dependencies:\n  - --yes\n", 2, "no package"),
            ("dependencies:\n  - pypi: [x]\n", 2, "pypi"),
            ("dependency:\n  - numpy\n", 1, "unknown key"),
            ("channels: ['https://a:b@c/d']\n", 1, "login"),
            ("dependencies:\n  - pip:\n    - -r none.txt\n", 3, "none.txt"),
            ("dependencies:\n  - pip:\n    - git+https://u:p@h/x.git\n", 3, "login"),
            ("dependencies: [", 2, "YAML"),
        ],
    )
    def test_one_that_can_not_be_used(self, project: Project, text: str, line: int, said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            project.read(text)
        assert str(caught.value.path).endswith("environment.yml")
        assert said in str(caught.value)
        assert caught.value.line == line
        assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("numpy", "numpy"),
        ("Python>=3.9,<4", "python"),
        ("conda-forge::python=3.11", "python"),
        ("https://h/c::pip", "pip"),
        ("pytorch =2.1=*cuda*", "pytorch"),
        ("numpy[version='1.2']", "numpy"),
    ],
)
def test_the_name_of_what_is_asked_for(spec: str, name: str) -> None:
    assert spec_name(spec) == name
