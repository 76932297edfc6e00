"""Jobs over real sshd daemons on loopback: what survives a lost connection, and what a user is told."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from remote_launch.remote import procs
from tests.support.cli import Rl, rl_path
from tests.support.served import is_over
from tests.support.sshd import SshdServer, sshd_servers, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNTER = """
import os, sys, time
for number in range(int(sys.argv[1])):
    print("line", number, flush=True)
    time.sleep(float(sys.argv[2]))
    while number in (60, 160) and not os.path.exists(f"go-on-{number}"):
        time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SshdServer]]:
    with sshd_servers(tmp_path_factory.mktemp("sshd"), 2) as started:
        yield started


@pytest.fixture
def rl(tmp_path: Path, servers: list[SshdServer]) -> Rl:
    """A project on both servers, its files sent; no environment: the system's python3 runs the jobs."""
    project = tmp_path / "project"
    (project / ".remote").mkdir(parents=True)
    (project / "count.py").write_text(COUNTER)
    entries = {
        server.name: {
            "hostname": server.name,
            "ssh_config": str(server.ssh_config),
            "workdir": str(tmp_path / "work" / server.name),
            "connect_timeout_s": 30,
        }
        for server in servers
    }  # fmt: skip
    content = {"name": "project", "servers": entries, "environment": {"manager": "none"}}
    (project / ".remote" / "configs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    rl = Rl(project)
    rl("rsync")
    return rl


def test_a_tail_survives_lost_connections_without_losing_or_repeating_a_line(
    rl: Rl, servers: list[SshdServer], tmp_path: Path
) -> None:
    server = servers[0]
    rl("job-run", "--server", server.name, "--", "python3", "count.py", "400", "0.01")
    tail = subprocess.Popen(
        [rl_path(), "job-tail", "-n", "-1"],
        cwd=rl.project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    try:
        assert tail.stdout is not None
        for line in tail.stdout:
            lines.append(line)
            if len(lines) in (50, 150):
                server.kill()  # with its sessions: the master and the stream die in the middle
                server.start()
                (tmp_path / "work" / server.name / f"go-on-{len(lines) + 10}").touch()
        assert tail.stderr is not None
        said = tail.stderr.read()
        assert tail.wait(timeout=60) == 0, said
    finally:
        tail.kill()
        tail.communicate()
    assert lines == [f"line {number}\n" for number in range(400)]
    assert "trying again" in said
    assert "SUCCEEDED" in said


def test_a_job_survives_the_loss_of_its_connection(rl: Rl, servers: list[SshdServer]) -> None:
    server = servers[1]
    rl("job-run", "--server", server.name, "--", "sh", "-c", "sleep 1; exit 9")
    server.kill()
    shown = rl("job-list", "--rsync", code=3)
    assert "unreachable" in shown.stdout
    assert "RUNNING" in shown.stdout, "a server that can't be reached keeps its jobs' last state"
    server.start()
    rl("job-wait", code=9)
    assert rl.json("job-list", "--all")["data"][-1]["state"] == "FAILED"


def test_an_rl_that_is_killed_leaves_its_job_known(rl: Rl, servers: list[SshdServer]) -> None:
    """kill -9 at several moments of a start: every job is either not started, or recorded and running
    once."""
    command = [
        rl_path(),
        "job-run",
        "--server",
        servers[0].name,
        "--",
        "sh",
        "-c",
        "echo $RL_JOB_ID >> $PWD/ran; sleep 0.2",
    ]
    for delay_s in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5):
        process = subprocess.Popen(
            command, cwd=rl.project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
    servers[0].restart()  # what is still on its way to a start ends with it
    workdir = rl.project.parent / "work" / servers[0].name
    # Of a start that broke in the middle it takes a minute to say so.
    wait_for(lambda: all(map(is_over, workdir.glob(".jobs/*"))), 180, "the jobs to end")
    jobs = {job["job_id"]: job["state"] for job in rl.json("job-list", "--rsync", "--all")["data"]}
    ran = (workdir / "ran").read_text().split() if (workdir / "ran").exists() else []
    assert len(ran) == len(set(ran)), "no job ran twice"
    assert set(ran) <= set(jobs), "every job that ran is known"
    assert {jobs[job_id] for job_id in ran} <= {"SUCCEEDED"}


def test_one_server_down_is_one_row(rl: Rl, servers: list[SshdServer]) -> None:
    servers[1].kill()
    try:
        checked = rl("servers", "--check", code=3)
        rows = {line.split()[0]: line for line in checked.stdout.splitlines() if line.strip()}
        assert " ok " in rows[servers[0].name]
        assert " failed " in rows[servers[1].name]
        assert servers[1].name in checked.stderr
        refused = rl("torch-launch", "--nproc-per-node", "1", "count.py", code=3)
        assert "nothing was started" in refused.stderr
        assert rl.json("job-list", "--all")["data"] == []
    finally:
        servers[1].start()


def test_a_changed_host_key_says_what_to_do(rl: Rl, servers: list[SshdServer]) -> None:
    rl("servers", "--check")
    rl("disconnect")
    servers[1].restart(new_host_key=True)
    try:
        said = rl("run", "--server", servers[1].name, "--", "true", code=1).stderr
        assert "ssh-keygen" in said
        assert "-R" in said
    finally:
        servers[1].known_hosts.unlink()


def test_the_exit_code_and_the_streams_of_run_pass_through(rl: Rl, servers: list[SshdServer]) -> None:
    done = rl("run", "--server", servers[0].name, "--", "sh", "-c", "echo out; echo err >&2; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert rl("run", "--server", servers[0].name, "--", "cat", stdin="über\n").stdout == "über\n"
    assert (
        rl("run", "--server", servers[0].name, "--env", "A", "x y", "--", "sh", "-c", 'echo "$A"').stdout
        == "x y\n"
    )
    assert rl("run", "--server", servers[0].name, "--cmd", "echo $((1+2)) | cat").stdout == "3\n"


def test_ctrl_c_ends_the_command_on_the_server(rl: Rl, servers: list[SshdServer]) -> None:
    process = subprocess.Popen(
        [rl_path(), "run", "--server", servers[0].name, "--", "sh", "-c", "echo $$; sleep 500"],
        cwd=rl.project,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: not alive(pid), 60, "the remote command to end")


def alive(pid: int) -> bool:
    """Whether it runs; one that nobody has buried yet doesn't."""
    return procs.start_ticks(pid) is not None


def test_secrets_stay_out_of_sight(rl: Rl, servers: list[SshdServer]) -> None:
    """Of a variable whose name says secret, the value reaches the job, and nothing else."""
    rl(
        "job-run", "--server", servers[0].name, "--env", "WANDB_API_KEY=hunter2hunter2", "--",
        "sh", "-c", 'echo "${#WANDB_API_KEY} characters"; tr "\\0" "\\n" < /proc/$PPID/cmdline; sleep 0.5',
    )  # fmt: skip
    rl("job-wait")
    assert "14 characters" in rl("job-tail", "--no-follow").stdout
    rl("job-list", "--rsync", "--all")
    texts = [rl("job-list", "--all", "--json").stdout, rl("job-show", "--json").stdout]
    for folder in (rl.project / ".remote", rl.project.parent / "work"):
        texts += [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]
    assert not [text for text in texts if "hunter2hunter2" in text]


def test_a_job_that_is_gone_from_the_registry_is_adopted(rl: Rl, servers: list[SshdServer]) -> None:
    rl("job-run", "--server", servers[0].name, "--tag", "kept", "--", "sh", "-c", "exit 4")
    rl("job-wait", code=4)
    (rl.project / ".remote" / "jobs.sqlite3").unlink()
    jobs = rl.json("job-list", "--rsync", "--all")["data"]
    assert [(job["state"], job["exit_code"], job["tags"]) for job in jobs] == [("FAILED", 4, ["kept"])]


def test_kill_takes_the_grandchildren(rl: Rl, servers: list[SshdServer]) -> None:
    rl(
        "job-run",
        "--server",
        servers[0].name,
        "--",
        "sh",
        "-c",
        "setsid sh -c 'trap \"\" TERM; sleep 777' & echo up; wait; sleep 777",
    )
    deadline = time.monotonic() + 60
    while "up" not in rl("job-tail", "--no-follow").stdout:
        assert time.monotonic() < deadline
    killed = rl.json("job-kill", "--yes", "--grace", "1")["data"]
    assert [(one["outcome"], one["left_over"]) for one in killed] == [("killed", 0)]
    job_id = killed[0]["job"]["job_id"]
    marked = subprocess.run(
        ["sh", "-c", f"grep -lsz '^RL_JOB_ID={job_id}$' /proc/[0-9]*/environ"], capture_output=True, text=True
    ).stdout
    assert marked == ""


def test_the_output_of_run_is_kept(rl: Rl, servers: list[SshdServer]) -> None:
    rl("run", "--server", servers[0].name, "--", "sh", "-c", "echo out; echo err >&2")
    (kept,) = (rl.project / ".remote" / "logs").glob("*-run-sh-*.log")
    assert sorted(kept.read_text().splitlines()) == ["err", "out"]
