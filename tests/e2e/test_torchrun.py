"""The installed ``rl`` with real torchrun and gloo, over two local servers: what a training script gets, and
what it gives back."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.cli import Rl, copy_sample

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not installed in this interpreter"
    ),
]

# Every rank writes down what it was given, as torch's own launcher tests do; no collective, so that it is
# quick.
WITNESS = """
import json, os, sys
from pathlib import Path
names = ("RANK LOCAL_RANK GROUP_RANK ROLE_RANK LOCAL_WORLD_SIZE WORLD_SIZE MASTER_ADDR MASTER_PORT NODE_RANK "
         "NNODES TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS TORCHELASTIC_RUN_ID "
         "TORCHELASTIC_ERROR_FILE OMP_NUM_THREADS RL_JOB_ID RL_LAUNCH_ID RL_RUN_ID RUN_UUID MINE").split()
seen = {name: os.environ.get(name) for name in names}
pet = [name for name in os.environ if name.startswith("PET_")]
seen.update(argv=sys.argv[1:], cwd=os.getcwd(), path0=sys.path[0], pet=pet)
Path(os.environ["OUT"], os.environ["RANK"]).write_text(json.dumps(seen))
"""


@pytest.fixture
def rl(tmp_path: Path) -> Rl:
    project = copy_sample(tmp_path / "project")
    (project / "requirements.txt").unlink()
    (project / "pkg").mkdir()
    (project / "pkg" / "witness.py").write_text(WITNESS)
    entry: dict[str, Any] = {"connection": "local", "env": {"OUT": str(tmp_path / "out")}}
    servers = {name: {**entry, "workdir": str(tmp_path / "work" / name)} for name in ("one", "two")}
    content = {
        "name": "project",
        "servers": servers,
        "environment": {"manager": "none", "python": sys.executable},
    }
    (project / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (tmp_path / "out").mkdir()
    # Left on a server by somebody: torchrun would take them for its options.
    rl = Rl(project, env={"PET_NNODES": "5", "PET_NPROC_PER_NODE": "7", "RANK": "99"})
    rl("prepare")
    return rl


def witnesses(rl: Rl) -> dict[int, dict[str, Any]]:
    """What each rank wrote, by rank."""
    out = rl.project.parent / "out"
    return {int(path.name): json.loads(path.read_text()) for path in out.iterdir()}


def test_every_rank_gets_what_it_needs(rl: Rl) -> None:
    args = [
        "--x=y", "key=value", "-m", "--device", "--json", "a b", "$HOME", "$$", "${local_rank}",
        "é\n'\"", "--env", "", "3",
    ]  # fmt: skip
    launched = rl(
        "torch-launch",
        "--nproc-per-node",
        "2",
        "--env",
        "MINE",
        "my value",
        "--follow",
        "pkg/witness.py",
        *args,
    )
    assert "SUCCEEDED" in launched.stderr
    seen = witnesses(rl)
    assert sorted(seen) == [0, 1, 2, 3]
    jobs = rl.json("job-list", "--all")["data"]
    for rank, one in seen.items():
        node = rank // 2
        workdir = rl.project.parent / "work" / ("one", "two")[node]
        assert one["argv"] == args
        assert one["cwd"] == str(workdir)
        assert one["path0"] == str(workdir / "pkg"), "a script finds its neighbours"
        assert one["pet"] == []
        expected = {
            "RANK": str(rank), "LOCAL_RANK": str(rank % 2), "GROUP_RANK": str(node), "NODE_RANK": str(node),
            "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "NNODES": "2", "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0",
            "MINE": "my value",
            "RL_JOB_ID": jobs[node]["job_id"], "RL_LAUNCH_ID": jobs[node]["launch_id"],
            "RL_RUN_ID": jobs[node]["run_id"],
        }  # fmt: skip
        assert {name: one[name] for name in expected} == expected
        assert one["TORCHELASTIC_RUN_ID"] == one["RUN_UUID"] == one["RL_RUN_ID"]
        assert one["TORCHELASTIC_ERROR_FILE"]
    assert len({one["MASTER_PORT"] for one in seen.values()}) == 1


def test_modules_and_labml_remotes_local_rank(rl: Rl) -> None:
    rl("torch-launch", "--nproc-per-node", "1", "-m", "pkg.witness", "lr=0.1")
    rl("job-wait")
    assert [one["argv"] for one in witnesses(rl).values()] == [["lr=0.1"]] * 2
    rl("helper-torch-launch", "--nproc-per-node", "2", "--server", "one", "--cmd", "pkg/witness.py --lr 0.1")
    rl("job-wait")
    seen = witnesses(rl)
    assert [seen[rank]["argv"] for rank in (0, 1)] == [
        ["--lr", "0.1", f"--local_rank={rank}"] for rank in (0, 1)
    ]


def test_dry_run_starts_nothing_and_says_everything(rl: Rl) -> None:
    words = ["--dry-run", "--nproc-per-node", "2", "--env", "WANDB_API_KEY=secret77", "train.py"]
    plan = rl.json("torch-launch", *words)
    assert plan["data"]["world_size"] == 4
    assert [node["first_rank"] for node in plan["data"]["nodes"]] == [0, 2]
    text = rl("torch-launch", *words).stdout
    assert "--node-rank 1" in text
    assert "secret77" not in text + json.dumps(plan)
    assert rl.json("job-list", "--all")["data"] == []


def test_the_sample_trains_through_python(rl: Rl) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed in this interpreter")
    done = subprocess.run(
        [sys.executable, "api_sample.py"],
        cwd=rl.project,
        env=rl.env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCEEDED, exit code 0" in done.stdout
    assert float(done.stdout.rsplit("test accuracy", 1)[1].split()[0]) > 0.9
    jobs = rl.json("job-list", "--all", "--tag", "train.py")["data"]
    assert [(job["state"], job["exit_code"]) for job in jobs] == [("SUCCEEDED", 0)] * 2


def test_one_rank_alone_fails_with_its_own_code_and_words(rl: Rl) -> None:
    (rl.project / "bad.py").write_text(
        "import os, sys\nprint('about to fail', file=sys.stderr)\nsys.exit(41 * int(os.environ['RANK']))\n"
    )
    rl("torch-launch", "--rsync", "--nproc-per-node", "1", "bad.py")
    rl("job-wait", code=41)
    shown = rl("job-show").stdout
    assert "rank 1 on two exited with 41" in shown
    assert "about to fail" in shown


def test_a_launch_starts_on_all_servers_or_on_none(rl: Rl) -> None:
    """One node can't start after the preflight said that it can: the other, which did, is stopped."""
    jobs_folder = rl.project.parent / "work" / "two" / ".jobs"
    jobs_folder.write_text("a file where the jobs' folder should be")
    failed = rl("torch-launch", "--nproc-per-node", "1", "train.py", code=3)
    assert "all or nothing" in failed.stderr
    assert "two" in failed.stderr
    jobs = rl.json("job-list", "--all", "--rsync", code=None)["data"]
    states = {job["server"]: job["state"] for job in jobs}
    assert states["two"] == "FAILED"
    assert states["one"] in ("KILLED", "FAILED")
    marked = subprocess.run(
        ["sh", "-c", f"grep -lsz '^RL_JOB_DIR={rl.project.parent}' /proc/[0-9]*/environ"], capture_output=True
    ).stdout
    assert marked == b"", "nothing of it is left"
