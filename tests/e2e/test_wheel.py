"""The wheel: what is in it, and that it works in an environment where the checkout is not."""

from __future__ import annotations

import ast
import email
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGES_OF = {"yaml": "pyyaml"}  # where the name to import is not the package's
# Comes with another one that is declared, and is only caught or typed with it.
BROUGHT = {"invoke": "fabric"}
BY_NAME = {"tomli"}  # imported by importlib, where Python has no tomllib
OPTIONAL = {"uv", "torch", "typing_extensions"}  # used where they are; the last for the type checker alone


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it, without isolation: nothing is fetched."""
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling: pip install -e '.[test]'")
    pytest.importorskip("build", reason="building the wheel needs build: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; what it depends on is the tests' own: nothing is fetched."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=600)
    python = venv / "bin/python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(
        subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    )
    # .pth files of a folder that is named in a .pth file are not read: an editable install stays behind.
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        check=True,
        timeout=600,
    )
    return venv / "bin"


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_has_the_package_whole(wheel: Path) -> None:
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "remote_launch").rglob("*.py")}
    assert sources <= names(wheel)
    assert "remote_launch/py.typed" in names(wheel)


def test_has_the_template_of_init(wheel: Path) -> None:
    template = {f"remote_launch/_template/{path.name}" for path in (ROOT / ".remote-template").iterdir()}
    assert template
    assert template <= names(wheel)


def test_has_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0].split("-")[0] for name in names(wheel)}
    assert tops == {"remote_launch"}
    assert not [name for name in names(wheel) if name.endswith((".pyc", ".sqlite3")) or "/." in name]


def test_declares_what_it_imports(wheel: Path) -> None:
    [metadata] = [name for name in names(wheel) if name.endswith(".dist-info/METADATA")]
    with zipfile.ZipFile(wheel) as archive:
        required = email.message_from_bytes(archive.read(metadata)).get_all("Requires-Dist") or []
    declared = {
        line.split(">")[0].split("=")[0].split(";")[0].strip().lower()
        for line in required
        if "extra ==" not in line
    }
    imported = set()
    for path in (ROOT / "remote_launch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.split(".")[0])
    third_party = imported - set(sys.stdlib_module_names) - {"remote_launch"} - OPTIONAL
    assert {PACKAGES_OF.get(name, BROUGHT.get(name, name)) for name in third_party} | BY_NAME == declared


class TestInstalled:
    def run(self, bin_folder: Path, folder: Path, *words: str) -> str:
        env = {"PATH": f"{bin_folder}:/usr/bin:/bin", "HOME": str(folder)}
        done = subprocess.run(
            [bin_folder / "rl", *words], cwd=folder, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_it_is_the_wheels_and_not_the_checkouts(self, bin_folder: Path, tmp_path: Path) -> None:
        code = "import remote_launch; print(remote_launch.__file__)"
        done = subprocess.run(
            [bin_folder / "python", "-c", code],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert str(bin_folder.parent) in done.stdout

    def test_init_and_a_job(self, bin_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "train.py").write_text("print('from the wheel')\n")
        out = self.run(bin_folder, tmp_path, "init", "--local", "2", "--name", "proj", "--manager", "none")
        assert "wrote .remote/configs.yaml" in out
        written = yaml.safe_load((tmp_path / ".remote/configs.yaml").read_text())
        assert list(written["servers"]) == ["local-1", "local-2"]
        assert (tmp_path / ".remote/exclude.txt").read_text()
        project = tmp_path / "project"
        project.mkdir()
        (project / "train.py").write_text("print('from the wheel')\n")
        servers = "".join(
            f"  {name}: {{connection: local, workdir: {tmp_path}/{name}}}\n" for name in ("one", "two")
        )
        (project / ".remote").mkdir()
        (project / ".remote/configs.yaml").write_text(f"name: proj\nservers:\n{servers}")
        self.run(bin_folder, project, "rsync")
        self.run(bin_folder, project, "job-run", "--server", "two", "--", "python3", "train.py")
        self.run(bin_folder, project, "job-wait")
        assert self.run(bin_folder, project, "job-tail", "1") == "from the wheel\n"
