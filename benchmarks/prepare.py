"""Servers made ready: rl with venv and with uv, beside ssh and pip, one server after the other."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from benchmarks.measure import run
from benchmarks.tools import control_folder
from tests.support.docker_hosts import USER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.hosts import Host, Lab

REQUIREMENTS = "numpy\nrequests\n"
NAME = "bench_prepare"
# What every round begins with: no environment, no code, nothing in a cache.
FORGET = f"rm -rf ~/{NAME} ~/.cache/uv ~/.cache/pip ~/.rl"


class Preparation:
    """A project of one small script and two packages, made ready on some hosts."""

    def __init__(self, folder: Path, lab: Lab, hosts: Sequence[Host], rl: Path) -> None:
        self.lab, self.hosts, self.rl = lab, hosts, rl
        self.project = folder / "projects" / NAME
        shutil.rmtree(self.project, ignore_errors=True)
        (self.project / ".remote").mkdir(parents=True)
        (self.project / "train.py").write_text("print('hello')\n")
        (self.project / "requirements.txt").write_text(REQUIREMENTS)

    def by_rl(self, manager: str) -> Mapping[str, float]:
        """Seconds of the first ``rl prepare``, and of the next one, which finds nothing to do."""
        servers = {
            host.name: {
                "hostname": host.address,
                "username": USER,
                "private_key": str(self.lab.key),
                "ssh_config": str(self.lab.ssh_config),
            }
            for host in self.hosts
        }
        inventory = {"name": NAME, "servers": servers, "environment": {"manager": manager}}
        (self.project / ".remote" / "configs.yaml").write_text(json.dumps(inventory))
        self._forget()

        def prepare() -> float:
            return run(
                [str(self.rl), "prepare"], cwd=self.project, env={"RL_CONTROL_DIR": control_folder()}
            ).wall_s

        return {"cold_s": prepare(), "again_s": prepare()}

    def by_hand(self) -> Mapping[str, float]:
        """Seconds of rsync, python -m venv and pip install over ssh, for one host after the other, twice."""
        self._forget()
        return {"cold_s": self._all_by_hand(), "again_s": self._all_by_hand()}

    def _all_by_hand(self) -> float:
        ssh = ["ssh", "-F", str(self.lab.ssh_config)]
        make = f"cd {NAME} && python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt"
        seconds = 0.0
        for host in self.hosts:
            source, target = f"{self.project}/", f"{host.address}:{NAME}/"
            send = run(["rsync", "-a", "--exclude", ".remote", "-e", " ".join(ssh), source, target])
            seconds += send.wall_s + run([*ssh, host.address, make]).wall_s
        return seconds

    def _forget(self) -> None:
        for host in self.hosts:
            host.exec(FORGET)
