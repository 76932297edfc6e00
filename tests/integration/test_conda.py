"""Environments by conda, from the installer's download to packages by pip, over ``connection: local``.

No real conda: ``tests/support/conda_installer.py`` stands in for it, served over http on loopback. The last
test takes a real installer where ``RL_TEST_CONDA_INSTALLER`` names one."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.cli import Rl, rl_path
from tests.support.conda_installer import PYTHON, write_conda, write_installer
from tests.support.file_server import FileServer, served_folder
from tests.support.processes import naming
from tests.support.wheels import make_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "Miniforge3-Linux-test.sh"
CREATE = "create environment (conda)"


class Site:
    """A project on servers that are this machine, with a home of their own, and the web."""

    def __init__(self, folder: Path, web: FileServer) -> None:
        self.folder, self.web = folder, web
        self.home, self.root = folder / "home", folder / "project"
        for made in (self.home, self.root / ".remote"):
            made.mkdir(parents=True)
        self.installer = write_installer(web.folder / NAME)
        self.env = {"HOME": str(self.home), "XDG_CACHE_HOME": str(folder / "cache"), "RL_PROJECT": ""}
        self.rl = Rl(self.root, self.env)
        self.write("train.py", "print('hello')\n")
        self.write(".remote/exclude.txt", "")
        self.inventory()

    def inventory(
        self, servers: str = "a", env: dict[str, str] | None = None, **environment: Any
    ) -> None:
        entries = {
            name: {"connection": "local", "workdir": str(self.workdir(name)), "env": env or {}}
            for name in servers
        }
        chosen = {"installer_url": f"{self.web.url}/{NAME}", "python": PYTHON, **environment}
        content = {"name": "proj", "servers": entries, "environment": chosen}
        self.write(".remote/configs.yaml", yaml.safe_dump(content))

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.write_text(text)
        return path

    def workdir(self, server: str = "a") -> Path:
        return self.folder / f"server-{server}"

    def prefix(self, server: str = "a") -> Path:
        return self.workdir(server) / ".rl" / "proj_env"

    @property
    def conda(self) -> Path:
        return self.home / ".rl" / "miniforge3"

    def prepare(self, *words: str) -> dict[str, dict[str, Any]]:
        """Prepare; return by server its steps: name to the row."""
        data = self.rl.json("prepare", *words)["data"]
        rows = data["servers"] if isinstance(data, dict) else data
        return {row["server"]: {step["step"]: step for step in row["steps"]} for row in rows}

    def fails(self, code: int = 1) -> str:
        """Prepare what must fail; return what the user reads."""
        return self.rl("prepare", code=code).stderr

    def asked(self, root: Path | None = None) -> list[dict[str, Any]]:
        """What the stand-in was asked to create."""
        path = (root or self.conda) / "asked.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def installed(self) -> int:
        path = self.home / "installed"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with served_folder(tmp_path / "web") as web:
        yield Site(tmp_path, web)


def until(condition: Any, what: str, deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


class TestInstall:
    def test_two_servers_from_nothing_and_then_nothing_to_do(self, site: Site) -> None:
        site.inventory("ab", find_links=[str(site.folder / "wheels")])
        make_wheel(site.folder / "wheels", "tiny")
        site.write("requirements.txt", "--no-index\ntiny\n")
        rows = site.prepare()
        # The servers share a home: their prepares contend for one Miniforge.
        assert site.installed() == 1
        assert site.web.fetched(NAME) == 1
        assert sorted(row["install conda"]["unchanged"] for row in rows.values()) == [False, True]
        for name in "ab":
            python = site.prefix(name) / "bin/python"
            told = subprocess.run(
                [python, "-c", "import tiny; print(tiny.__version__)"], capture_output=True, text=True
            )
            assert told.stdout.strip() == "1.0", told.stderr
        ran = site.rl("run", "--server", "a", "--", "python", "-c", "import sys; print(sys.prefix)")
        assert str(site.prefix()) in ran.stdout
        assert not any((site.home / name).exists() for name in (".bashrc", ".profile", ".condarc"))
        assert list((site.home / ".rl/downloads").iterdir()) == []
        asked = len(site.asked())
        again = site.prepare()
        assert all(step["unchanged"] for row in again.values() for step in row.values())
        assert (len(site.asked()), site.installed()) == (asked, 1)

    def test_a_changed_requirements_txt_redoes_the_packages_alone(self, site: Site) -> None:
        site.inventory(find_links=[str(site.folder / "wheels")])
        make_wheel(site.folder / "wheels", "tiny")
        make_wheel(site.folder / "wheels", "wee")
        site.write("requirements.txt", "--no-index\ntiny\n")
        site.prepare()
        site.write("requirements.txt", "--no-index\ntiny\nwee\n")
        row = site.prepare()["a"]
        assert (row[CREATE]["unchanged"], row["install packages (pip)"]["unchanged"]) == (True, False)
        assert len(site.asked()) == 1

    def test_a_download_that_breaks_off_goes_on(self, site: Site) -> None:
        site.web.break_off_at = 150_000
        site.inventory(sha256=hashlib.sha256(site.installer.read_bytes()).hexdigest())
        site.prepare()
        ranges = [sought for path, sought in site.web.asked if path == f"/{NAME}"]
        assert ranges == ["", "bytes=150000-"]

    def test_a_wrong_checksum(self, site: Site) -> None:
        site.inventory(sha256="0" * 64)
        said = site.fails()
        assert "a: install conda" in said
        assert "0" * 64 in said
        assert "environment.sha256" in said
        assert (site.installed(), site.conda.exists()) == (0, False)

    def test_the_checksum_beside_the_file(self, site: Site) -> None:
        (site.web.folder / f"{NAME}.sha256").write_text(f"{'1' * 64}  {NAME}\n")
        assert "1" * 64 in site.fails()
        digest = hashlib.sha256(site.installer.read_bytes()).hexdigest()
        (site.web.folder / f"{NAME}.sha256").write_text(f"{digest}  {NAME}\n")
        assert not site.prepare()["a"]["install conda"]["unchanged"]

    def test_no_installer_for_the_machine(self, site: Site) -> None:
        site.inventory(installer_url=f"{site.web.url}/Miniforge3-{{os}}-{{machine}}.sh")
        said = site.fails()
        assert f"Miniforge3-Linux-{os.uname().machine}.sh" in said
        assert "no installer for this kind of machine" in said
        assert "uv" in said

    def test_an_installer_that_fails_half_way_is_redone(self, site: Site) -> None:
        (site.home / "installer-fails").touch()
        said = site.fails()
        assert "could not extract tar" in said
        assert (site.conda / "bin/conda").exists()  # half of it
        (site.home / "installer-fails").unlink()
        assert not site.prepare()["a"]["install conda"]["unchanged"]
        assert site.installed() == 2
        assert site.web.fetched(NAME) == 2  # it may have been the file

    def test_a_prepare_that_is_killed_while_it_installs(self, site: Site) -> None:
        (site.home / "installer-hangs").touch()
        process = subprocess.Popen(
            [rl_path(), "prepare"],
            cwd=site.root,
            env=site.rl.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until((site.home / "installer-is-at-it").exists, "the installer runs")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        until(lambda: not naming(site.folder), "nothing of it runs on", 60)
        (site.home / "installer-hangs").unlink()
        site.prepare()
        assert site.installed() == 2
        assert (site.prefix() / "bin/python").exists()


class TestReuse:
    def test_a_conda_that_is_there(self, site: Site) -> None:
        write_conda(site.home / "miniconda3/bin/conda")
        row = site.prepare()["a"]
        assert row["install conda"]["unchanged"]
        assert site.web.asked == []
        [asked] = site.asked(site.home / "miniconda3")
        assert asked["words"][:4] == ["create", "-y", "-p", str(site.prefix())]
        assert asked["words"][4:] == ["--override-channels", "-c", "conda-forge", f"python={PYTHON}", "pip"]

    def test_micromamba_takes_no_folder_with_something_in_it(self, site: Site) -> None:
        write_conda(site.home / ".local/bin/micromamba")
        site.inventory(prefix=str(site.folder / "envs/mine"))
        site.prepare()
        assert (site.folder / "envs/mine/.rl-env").exists()
        row = site.prepare("--force")["a"]
        assert not row[CREATE]["unchanged"]
        assert site.installed() == 0

    def test_one_that_does_not_run_is_passed_over(self, site: Site) -> None:
        broken = site.home / "miniconda3/bin/conda"
        broken.parent.mkdir(parents=True)
        broken.write_text("#!/nowhere/python\n")
        broken.chmod(0o755)
        site.prepare()
        assert site.installed() == 1


class TestWhatIsWanted:
    def test_a_python_that_does_not_exist(self, site: Site) -> None:
        site.inventory(python="3.99")
        said = site.fails()
        assert "- python=3.99" in said
        assert "environment.python" in said
        site.inventory()
        row = site.prepare()["a"]
        assert (row["install conda"]["unchanged"], row[CREATE]["unchanged"]) == (True, False)

    def test_environment_yml_and_requirements_txt(self, site: Site) -> None:
        site.inventory(python=None, find_links=[str(site.folder / "wheels")])
        for name in ("tiny", "wee"):
            make_wheel(site.folder / "wheels", name)
        site.write("more.txt", "--no-index\nwee\n")
        site.write("requirements.txt", "--no-index\ntiny\n")
        text = f"channels: [conda-forge]\ndependencies: [python={PYTHON}, numpy=2.1, pip: [-r more.txt]]\n"
        site.write("environment.yml", text)
        site.prepare()
        [asked] = site.asked()
        assert asked["words"][-3:] == [f"python={PYTHON}", "numpy=2.1", "pip"]
        python = site.prefix() / "bin/python"
        subprocess.run([python, "-c", "import tiny, wee"], check=True)
        site.write("environment.yml", f"# only a comment\n{text}")
        assert site.prepare()["a"][CREATE]["unchanged"]
        site.write("environment.yml", text.replace("numpy=2.1", "numpy"))
        row = site.prepare()["a"]
        assert not row[CREATE]["unchanged"]
        assert not row["install packages (pip)"]["unchanged"]
        subprocess.run([python, "-c", "import tiny, wee"], check=True)

    def test_setup_alone_sends_what_environment_yml_names(self, site: Site) -> None:
        site.inventory(find_links=[str(site.folder / "wheels")])
        make_wheel(site.folder / "wheels", "wee")
        site.write("more.txt", "--no-index\nwee\n")
        site.write("environment.yml", "dependencies: [pip, pip: [-r more.txt]]\n")
        site.rl("setup")
        subprocess.run([site.prefix() / "bin/python", "-c", "import wee"], check=True)

    def test_anacondas_own_channel(self, site: Site) -> None:
        site.write("environment.yml", "channels: [defaults]\ndependencies: [numpy]\n")
        said = site.fails()
        assert "Terms of Service" in said
        assert "conda-forge" in said


class TestNoInternetThere:
    def test_this_machine_downloads_once_and_sends(self, site: Site) -> None:
        site.inventory("ab", env={"http_proxy": "http://127.0.0.1:9"})  # nobody listens
        site.prepare()
        assert site.web.fetched(NAME) == 1
        assert site.installed() == 1
        assert (site.prefix("b") / "bin/python").exists()

    def test_offline_servers_do_not_try(self, site: Site) -> None:
        site.inventory(env={"http_proxy": "http://127.0.0.1:9"}, offline=True)
        site.prepare()
        assert site.web.fetched(NAME) == 1
        [asked] = site.asked()
        assert "--offline" in asked["words"]
        log = "".join(path.read_text() for path in (site.root / ".remote/logs").glob("*install-conda*"))
        assert "there already" in log

    def test_nor_here(self, site: Site) -> None:
        site.inventory(installer_url="http://127.0.0.1:9/installer.sh")
        said = site.fails()
        assert "neither the server nor this machine" in said
        assert "installer_url" in said


@pytest.mark.skipif(
    not os.environ.get("RL_TEST_CONDA_INSTALLER"),
    reason="RL_TEST_CONDA_INSTALLER names no installer of Miniforge or Miniconda: no real conda is tested",
)
def test_a_real_installer(site: Site) -> None:
    installer = Path(os.environ["RL_TEST_CONDA_INSTALLER"]).absolute()
    (site.web.folder / "real.sh").symlink_to(installer)
    site.inventory(installer_url=f"{site.web.url}/real.sh", python="3.12")
    site.write("environment.yml", "channels: [conda-forge]\ndependencies: [tqdm]\n")
    site.prepare()
    python = site.prefix() / "bin/python"
    show = "import sys, tqdm; print(sys.version)"
    told = subprocess.run([python, "-c", show], capture_output=True, text=True)
    assert told.stdout.startswith("3.12"), told.stderr
    assert all(step["unchanged"] for step in site.prepare()["a"].values())
    assert not (site.home / ".bashrc").exists()
