"""The queue as a user sees it, on two local servers whose slots are apart."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl, rl_path
from tests.support.fake_torch import make_environment
from tests.support.served import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT = "echo began with $RL_SLOTS; while [ ! -e {} ]; do sleep 0.05; done"


@pytest.fixture
def rl(tmp_path: Path) -> Iterator[Rl]:
    project = tmp_path / "project"
    (project / ".remote").mkdir(parents=True)
    servers = {
        name: {
            "connection": "local", "workdir": str(tmp_path / name), "slots": 2,
            "env": {"RL_SLOTS_DIR": str(tmp_path / "slots" / name)},
        }
        for name in "ab"
    }  # fmt: skip
    python = make_environment(tmp_path / "env")
    environment = {"manager": "none", "python": str(python)}
    content = {"name": "queue", "servers": servers, "environment": environment}
    (project / ".remote" / "configs.yaml").write_text(json.dumps(content))
    (project / "train.py").write_text("import os\nprint('trains with', os.environ['RL_SLOTS'])\n")
    rl = Rl(project)
    rl("rsync")
    yield rl
    rl("job-kill", "--yes", "--grace", "0.2", code=None)


def job(rl: Rl, key: str = "") -> dict[str, Any]:
    rl.json("job-list", "--rsync")
    return next(one for one in rl.json("job-list", "--all")["data"] if not key or str(one["key"]) == key)


def test_a_job_waits_is_seen_waiting_and_runs(rl: Rl, tmp_path: Path) -> None:
    end = tmp_path / "end"
    rl("job-run", "--server", "a", "--slots", "2", "--cmd", WAIT.format(end))
    said = rl("job-run", "--server", "a", "--queue", "--cmd", "echo second with $RL_SLOTS").stdout
    assert "(queued: " in said
    third = rl.json("job-run", "--server", "a", "--queue", "--", "true")["data"][0]
    assert (third["state"], third["started_at"], third["duration_s"]) == ("QUEUED", None, None)

    shown = rl("queue", "a").stdout.splitlines()
    assert [" ".join(line.split()[:4]) for line in shown[1:3]] == ["a slot 0 taken", "a slot 1 taken"]
    assert [line.split()[1] for line in shown[3:]] == ["1.", "2."]
    assert "waits for 1 slot" in shown[3]
    assert "QUEUED (" in rl("job-list", "--rsync").stdout

    tail = subprocess.Popen(
        [rl_path(), "job-tail", "2"], cwd=rl.project, env=rl.env, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    rl("job-kill", "3")
    killed = job(rl, "3")
    assert (killed["state"], killed["started_at"]) == ("KILLED", None)
    assert "it was queued, and never ran" in killed["reason"]

    assert tail.stderr is not None
    assert "job 2: queued: next, waits for 1 of 2 slots" in tail.stderr.readline()
    let_go_at = time.time()
    end.touch()
    assert tail.communicate(timeout=60)[0] == "second with 0\n"
    assert rl("job-wait", "2").returncode == 0
    second = job(rl, "2")
    began_at = dt.datetime.fromisoformat(second["started_at"].replace("Z", "+00:00")).timestamp()
    assert began_at >= let_go_at - 0.1
    assert second["duration_s"] <= time.time() - let_go_at


def test_a_launch_waits_for_the_slots_of_all_its_servers(rl: Rl, tmp_path: Path) -> None:
    end = tmp_path / "end"
    rl("job-run", "--server", "b", "--slots", "2", "--cmd", WAIT.format(end))
    said = rl("torch-launch", "--no-check", "--queue", "--nproc-per-node", "1", "train.py").stdout
    assert "queued: it begins when every server has the slots for it" in said
    until(lambda: "b: next" in rl("job-list", "--rsync").stdout, "node 1 is in the line")
    states = {one["server"]: one["state"] for one in rl.json("job-list")["data"] if one["launch_id"]}
    assert states == {"a": "QUEUED", "b": "QUEUED"}
    end.touch()
    assert rl("job-wait").returncode == 0
    assert "trains with 0" in rl("job-tail", "2").stdout


def test_more_than_a_server_has_is_refused(rl: Rl) -> None:
    refused = rl("job-run", "--server", "a", "--slots", "3", "--", "true", code=None)
    assert refused.returncode == 1
    assert "a: the job needs 3 slots, and this server has 2" in refused.stderr
    dry = rl("job-run", "--server", "a", "--queue", "--dry-run", "--", "true").stdout
    assert dry.startswith("# it waits for 1 slot\n")


def test_from_python(rl: Rl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from remote_launch.api import Jobs
    from remote_launch.api.project import CurrentProject

    monkeypatch.chdir(rl.project)
    jobs = Jobs(CurrentProject())
    end = tmp_path / "end"
    first = jobs.create("a", WAIT.format(end), slots=2).start()
    second = jobs.create("a", "true", queue=True).start()
    assert (str(first.state), str(second.state)) == ("RUNNING", "QUEUED")
    end.touch()
    assert second.wait(timeout=60) == 0


def test_two_servers_of_one_machine_are_shown_once(rl: Rl, tmp_path: Path) -> None:
    configs = rl.project / ".remote" / "configs.yaml"
    content = json.loads(configs.read_text())
    content["servers"]["b"]["env"] = content["servers"]["a"]["env"]
    configs.write_text(json.dumps(content))
    end = tmp_path / "end"
    rl("job-run", "--server", "b", "--queue", "--cmd", WAIT.format(end))
    shown = rl("queue").stdout.splitlines()
    assert [" ".join(line.split()[:5]) for line in shown[1:]] == ["a, b slot 0 taken", "a, b slot 1 free"]
    assert set(rl.json("queue")["data"]) == {"a", "b"}
    end.touch()


def test_servers_without_slots_or_cards_say_how_they_get_some(rl: Rl) -> None:
    configs = rl.project / ".remote" / "configs.yaml"
    content = json.loads(configs.read_text())
    for server in content["servers"].values():
        del server["slots"]
    configs.write_text(json.dumps(content))
    done = rl("queue")
    assert done.stdout.count("has no slots") == 2
    assert "slots: 2 of a server in the inventory" in done.stderr
