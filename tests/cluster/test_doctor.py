"""rl doctor on hosts that are broken for real."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import Rl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import WriteInventory
    from tests.support.docker_hosts import DockerHost

HOME = "/home/trainer"
SPEED = {"ssh", "latency", "bandwidth"}  # how fast things go: that is also a matter of what else runs here
PYTHON = f"{HOME}/python-of-rl"
# A python whose programs are told a time that is an hour late (containers have the machine's clock). It is
# called with -I -S ARCHIVE VERB.
LATE = """#!/usr/bin/python3 -IS
import runpy, sys, time
real = time.time
time.time = lambda: real() - 3600
sys.argv = sys.argv[3:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# What breaks host-1, and what mends it, as root.
FAULTS = {
    "start-up files": (
        f"cp -p {HOME}/.bashrc /root/bashrc; sed -i '1i ulimit -n 200; echo Welcome' {HOME}/.bashrc",
        f"cat /root/bashrc > {HOME}/.bashrc",
    ),
    "own name": (  # docker has mounted this file: it can't be replaced
        "cp /etc/hosts /root/hosts; sed 's/.*host-1$/127.0.1.1 host-1/' /root/hosts > /etc/hosts",
        "cat /root/hosts > /etc/hosts",
    ),
    "full /dev/shm": ("head -c 1G /dev/zero > /dev/shm/fill || true", "rm -f /dev/shm/fill"),
    "no rsync": ("mv /usr/bin/rsync /usr/bin/rsync.away", "mv /usr/bin/rsync.away /usr/bin/rsync"),
    "full disk": (
        # After a restart docker has forgotten the mode.
        "chmod 1777 /small; head -c 1G /dev/zero > /small/fill || true",
        "rm -rf /small/fill /small/doctor",
    ),
}


def install_torch(host: DockerHost, version: str) -> None:
    """Make ~/fake-env an environment whose torch is its version file."""
    packages = f"{HOME}/fake-env/lib/python3.11/site-packages"
    host.write(f"{HOME}/fake-env/pyvenv.cfg", "home = /usr/bin\nversion = 3.11.2\n")
    host.write(f"{packages}/torch/version.py", f"__version__ = '{version}'\ncuda = None\nhip = None\n")
    link = f"mkdir -p {HOME}/fake-env/bin && ln -sf /usr/bin/python3 {HOME}/fake-env/bin/python"
    host.exec(link, user="trainer")


@pytest.fixture
def rl(tmp_path: Path, hosts: list[DockerHost], inventory: WriteInventory) -> Iterator[Rl]:
    """host-0, and host-1 with its own python and its workdir on the small disk."""
    write(tmp_path, hosts, inventory)
    hosts[1].exec("chmod 1777 /small")
    hosts[1].write(PYTHON, "#!/bin/sh\nexec /usr/bin/python3 \"$@\"\n")
    hosts[1].exec(f"chmod 755 {PYTHON}")
    for host in hosts:
        install_torch(host, "2.13.0+cpu")
    yield Rl(tmp_path)
    for _, mend in FAULTS.values():
        hosts[1].exec(mend, check=False)
    for host in hosts:
        host.exec(f"rm -rf {HOME}/fake-env {HOME}/doctor {PYTHON}")


def write(folder: Path, hosts: list[DockerHost], inventory: WriteInventory, **more: Any) -> None:
    own = {"manager": "none", "python": f"{HOME}/fake-env/bin/python"}
    second = {"python": PYTHON, "workdir": "/small/doctor", **more}
    inventory(folder, hosts, name="doctor", environment=own, servers={"host-1": second})


def levels(rl: Rl, *words: str, code: int) -> dict[str, dict[str, str]]:
    """Run rl doctor; return by server and check the worst that it found."""
    ranks = ("ok", "note", "warning", "error")
    found: dict[str, dict[str, str]] = {}
    findings: list[dict[str, Any]] = rl.json("doctor", *words, code=code)["data"]["findings"]
    for one in sorted(findings, key=lambda one: ranks.index(one["level"])):
        for server in one["servers"]:
            found.setdefault(server, {})[one["check"]] = one["level"]
    return found


def test_faults_made_for_real_are_found_where_they_are(rl: Rl, hosts: list[DockerHost]) -> None:
    healthy = levels(rl, "--no-allreduce", code=1)  # the small disk
    assert healthy["host-1"].pop("disk") == "error", healthy
    for found in healthy.values():
        assert all(found.pop(check) in ("ok", "note", "warning") for check in SPEED), healthy
        assert found.pop("hostname") in ("ok", "warning"), healthy  # a warning where the look-up was slow
    assert set(healthy["host-0"].values()) | set(healthy["host-1"].values()) <= {"ok", "warning"}, healthy
    assert {check for check, level in healthy["host-1"].items() if level != "ok"} == {"environment"}, healthy
    for make, _ in FAULTS.values():
        hosts[1].exec(make)
    hosts[1].write(PYTHON, LATE)
    install_torch(hosts[1], "2.12.1+cpu")
    ill = levels(rl, "--no-network", code=1)
    assert {found.pop("ssh") for found in ill.values()} <= {"ok", "note"}
    assert ill["host-0"].pop("hostname") in ("ok", "warning"), ill
    assert ill["host-1"].pop("hostname") in ("note", "warning"), ill
    assert {check: level for check, level in ill["host-1"].items() if level != "ok"} == {
        "login-shell": "error", "clock": "warning", "shm": "error", "disk": "error", "limits": "error",
        "rsync": "error", "environment": "warning", "equal": "error",
    }  # fmt: skip
    assert "no space in /small/doctor: 0 MB free" in rl("doctor", "--only", "disk", "host-1", code=1).stdout
    del ill["host-0"]["environment"]
    assert {check for check, level in ill["host-0"].items() if level != "ok"} == {"equal"}


def test_a_server_that_hangs_hides_nothing_of_the_others(
    rl: Rl, hosts: list[DockerHost], inventory: WriteInventory
) -> None:
    write(rl.project, hosts, inventory, connect_timeout_s=2)
    hosts[1].pause()
    try:
        found = levels(rl, "--no-allreduce", code=3)
    finally:
        hosts[1].unpause()
    assert found["host-1"] == {"ssh": "error"}
    assert found["host-0"]["disk"] == "ok"
