"""Projects that train for real on docker hosts: the sample, prepared once for each environment and host, and
a way to run a script so that it is certain which rank fails first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.cli import Rl, copy_sample
from tests.support.docker_hosts import write_inventory

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.docker_hosts import DockerHost

ENVIRONMENTS = {
    "uv": {"manager": "uv"},
    "venv": {"manager": "venv"},
}
REQUIREMENTS = "torch==2.13.0\nnumpy\nscikit-learn\n"
PATIENT = "patient.py"
EPOCH_S = "EPOCH_S"  # a variable: how much longer each epoch of attempt 0 lasts, for a fault to come then
# Runs another script. Whose collective breaks because a peer is gone stays, as in NCCL's; it is for rl to
# stop it. Otherwise it would be chance whose torchrun ends first, and with that which failure is known.
_PATIENT = f"""
import os, runpy, sys, time
from torch.utils.data import DistributedSampler

if os.environ["RL_ATTEMPT"] == "0":
    longer_s, set_epoch = float(os.environ.get("{EPOCH_S}", 0)), DistributedSampler.set_epoch

    def slowly(sampler, epoch):
        time.sleep(longer_s)
        set_epoch(sampler, epoch)

    DistributedSampler.set_epoch = slowly
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except RuntimeError as error:
    print("a peer is gone:", error, file=sys.stderr, flush=True)
    time.sleep(600)
    raise
"""
_prepared: set[tuple[str, str]] = set()  # container and project's name


def make_project(
    folder: Path, hosts: list[DockerHost], name: str = "train-uv", manager: str = "uv", **keys: Any
) -> Rl:
    """Return the sample as a project of these hosts.

    The workdir, and with it the environment, is the name's: projects of one name share it, and only the first
    of them on a host waits for torch.
    """
    copy_sample(folder)
    (folder / "requirements.txt").write_text(REQUIREMENTS)
    (folder / PATIENT).write_text(_PATIENT.lstrip())
    write_inventory(folder, hosts, name=name, environment=ENVIRONMENTS[manager], **keys)
    rl = Rl(folder)
    wanted = {(host.container, name) for host in hosts}
    if wanted <= _prepared:
        rl("rsync")
    else:
        rl("prepare", timeout_s=1200)
        _prepared.update(wanted)
    return rl
