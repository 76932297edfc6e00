"""What prepare shows: the plan, the table, what differs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.cli import prepared
from remote_launch.cli.main import run
from remote_launch.errors import PrepareError
from remote_launch.operations.fanout import Outcome, Outcomes
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.followed_recipe import StepResult
from remote_launch.operations.prepare import PreparePlan, PrepareResult, plan_prepare

if TYPE_CHECKING:
    from pathlib import Path

INVENTORY = """\
name: proj
servers:
  a: {connection: local, workdir: /w}
  b: {connection: local, workdir: /w}
  c: {connection: local, workdir: /other, environment: {manager: uv}}
defaults:
  env: {WANDB_API_KEY: sesame, PIP_INDEX_URL: "https://me:sesame@mirror/simple"}
environment: {manager: venv, python: "3.11"}
"""
ENVIRONMENT, PACKAGES = "create environment (venv)", "install packages (pip)"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".remote").mkdir()
    (tmp_path / ".remote/configs.yaml").write_text(INVENTORY)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RL_PROJECT", raising=False)
    return tmp_path


@pytest.fixture
def plan(project: Path) -> PreparePlan:
    fleet = Fleet.load(str(project))
    return plan_prepare(fleet, fleet.select())


def result(server: str, *steps: StepResult, **changes: Any) -> Outcome[PrepareResult]:
    versions = {"python": "3.11.2", "torch": "2.13.0+cpu", "cuda": None}
    fields: dict[str, Any] = {
        "server": server, "steps": steps, "duration_s": 6.1, "python": "p", "versions": versions, **changes,
    }  # fmt: skip
    return Outcome(server, PrepareResult(**fields), None, 6.1)


def step(name: str, seconds: float = 0.0, line: str = "", *, same: bool = False) -> StepResult:
    return StepResult(name=name, duration_s=seconds, line=line, same=same)


class TestPlan:
    def test_servers_alike_are_shown_once_and_secrets_never(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["prepare", "--dry-run"]) == 0
        shown = capsys.readouterr()
        lines = shown.out.splitlines()
        assert [line for line in lines if not line.startswith(" ")] == ["a, b:", "c:"]
        assert "  environment  by venv, in /w/.rl/env" in lines
        assert "  code         1 file, 6 B, to /w" in lines
        assert "  packages     as requirements.txt says" in lines
        assert "uv pip install" in shown.out
        assert "WANDB_API_KEY=" in shown.out
        assert "no server was asked" in shown.err
        assert "sesame" not in shown.out + shown.err

    def test_json_is_complete_and_hides_secrets_as_well(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["prepare", "--dry-run", "--json"]) == 0
        shown = capsys.readouterr().out
        steps = json.loads(shown)["data"]["servers"]["a"]
        assert [entry["step"] for entry in steps] == ["rsync", ENVIRONMENT, PACKAGES]
        assert "-m venv" in steps[1]["script"]
        assert "sesame" not in shown

    def test_setup_and_update_packages_show_their_part_alone(
        self, project: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["setup", "--dry-run"]) == 0
        assert "packages  " not in capsys.readouterr().out
        assert run(["update-packages", "--dry-run"]) == 0
        assert "environment  " not in capsys.readouterr().out


class TestTable:
    def shown(
        self, plan: PreparePlan, capsys: pytest.CaptureFixture[str], *of: Outcome[PrepareResult]
    ) -> list[str]:
        prepared.show_results(plan, Outcomes(of))
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    def test_what_was_done_is_said_in_three_words(
        self, plan: PreparePlan, capsys: pytest.CaptureFixture[str]
    ) -> None:
        steps = (step(ENVIRONMENT, 4.2), step("rsync", 0.3, "2 files, 1 kB sent"), step(PACKAGES, 6.1))
        same = (step(ENVIRONMENT, same=True), step("rsync", same=True), step(PACKAGES, 6.1))
        assert self.shown(plan, capsys, result("a", *steps), result("b", *same)) == [
            "server result python torch done time",
            "a ready 3.11.2 2.13.0+cpu environment 4.2 s, code 0.3 s (2 files, 1 kB), packages 6.1 s 6.1 s",
            "b ready 3.11.2 2.13.0+cpu packages 6.1 s 6.1 s",
        ]

    def test_nothing_to_do_and_whose_home_it_is(
        self, plan: PreparePlan, capsys: pytest.CaptureFixture[str]
    ) -> None:
        same = step(ENVIRONMENT, same=True)
        lines = self.shown(plan, capsys, result("a", same), result("b", same, shared_with="a"))
        assert lines[1].endswith("nothing to do 6.1 s")
        assert lines[2].endswith("nothing to do; shares its home with a 6.1 s")

    def test_a_server_that_failed_says_in_which_step(
        self, plan: PreparePlan, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error = PrepareError("b", PACKAGES, "exit code 1", tail="")
        failed: Outcome[PrepareResult] = Outcome("b", None, error, 2.0)
        lines = self.shown(plan, capsys, result("a"), failed)
        assert lines[2] == f"b failed – – in: {PACKAGES} 2.0 s"

    @pytest.mark.parametrize(
        ("torch", "cuda", "text"),
        [
            (None, None, "–"),
            ("2.13.0+cpu", None, "2.13.0+cpu"),
            ("2.13.0+cu126", "12.6", "2.13.0+cu126"),
            ("2.13.0", "13.0", "2.13.0 (CUDA 13.0)"),
            ("2.13.0a0+git1", None, "2.13.0a0+git1"),
        ],
    )
    def test_torch_is_told_with_its_build(self, torch: str | None, cuda: str | None, text: str) -> None:
        assert prepared.torch_text({"torch": torch, "cuda": cuda}) == text
