"""What a launch asks of a server first."""

from __future__ import annotations

import os
import resource
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import machine, preflight
from tests.support.served import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served import Served


def test_what_is_there(served: Served) -> None:
    (served.workdir / "train.py").touch()
    answer = served.call("preflight", script="train.py", python=sys.executable, ports=3)
    assert (
        answer["workdir"], answer["workdir_exists"], answer["workspace"]
    ) == (str(served.workdir), True, False)
    assert (answer["script_exists"], answer["python"]) == (True, sys.executable)
    assert (answer["address"], answer["interface"]) == ("127.0.0.1", "lo")
    assert len(set(answer["ports"])) == 3
    assert sum(map(is_free, answer["ports"])) >= 2, "another program may have taken one by now"


def is_free(port: int) -> bool:
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


def test_ways_that_are_tried_with_the_questions(served: Served) -> None:
    ways: dict[str, Any] = {"token": "t" * 32, "expect": [], "connect": [], "limit_s": 30}

    def tried() -> dict[str, Any] | None:
        ways["listen"] = [free_port_of_the_kernel(), *preflight.free_ports(1)]
        told = served.call("preflight", ports=2, ways=ways)
        return told if "ways" in told else None  # another program took one of them meanwhile

    answer = until(tried, "ports that are still free when they are tried")
    probe, meeting = ways["listen"]
    assert (answer["probe_port"], answer["ports"]) == (probe, [meeting])
    assert answer["ways"] == {"links": [], "taken": {}, "heard": []}
    with socket.create_server(("", meeting)):
        answer = served.call("preflight", ports=2, ways=ways)
    assert "ways" not in answer
    assert len({*answer["ports"], answer["probe_port"], meeting}) == 4
    low = {**ways, "listen": [meeting]}  # no port as gloo and NCCL take them
    assert "ways" not in served.call("preflight", ports=2, ways=low)


def free_port_of_the_kernel() -> int:
    port = preflight.any_port()
    assert isinstance(port, int)
    return port


def test_what_is_not_there(served: Served) -> None:
    answer = served.call("preflight", script="nope.py", python="~/no/python", address="192.0.2.7")
    assert (
        answer["script_exists"], answer["python"], answer["torch"], answer["interface"]
    ) == (False, None, None, None)
    assert served.call("preflight", workdir="/no/such")["workdir_exists"] is False


def test_modules_and_subfolders(served: Served) -> None:
    package = served.workdir / "src" / "proj"
    package.mkdir(parents=True)
    (package / "train.py").touch()
    assert served.call("preflight", module="proj.train", cwd="src")["script_exists"] is True
    assert served.call("preflight", module="proj.other", cwd="src")["script_exists"] is None


def test_the_address_that_ssh_reached(served: Served) -> None:
    served.env["SSH_CONNECTION"] = "192.0.2.1 50000 127.0.0.3 22"
    answer = served.call("preflight")
    assert (answer["address"], answer["interface"]) == ("127.0.0.3", "lo")


def test_every_own_address_has_its_interface() -> None:
    for name, address in machine.interfaces():
        if not address.startswith(("127.", "::1", "fe80")):
            assert machine.interface_of(address) == name


@pytest.mark.parametrize(("config", "files", "expected"), [
    ("", ["lib/python3.11/site-packages/torch/__init__.py"], True),
    ("include-system-site-packages = false", [], False),
    ("include-system-site-packages = false", ["lib/python3.11/site-packages/torchvision/__init__.py"], False),
])
def test_torch_is_found_without_importing_it(
    tmp_path: Path, config: str, files: list[str], expected: bool
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").write_text(config)
    os.symlink(sys.executable, tmp_path / "bin" / "python")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert preflight.about_torch(str(tmp_path / "bin" / "python"))["torch"] is expected


@pytest.mark.parametrize("line", ["__version__ = '2.5.1+cu121'", "__version__: str = '2.5.1+cu121'"])
def test_versions_are_read_from_folders(tmp_path: Path, line: str) -> None:
    torch = tmp_path / "lib/python3.9/site-packages/torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").touch()
    python = str(tmp_path / "bin" / "python")
    (tmp_path / "pyvenv.cfg").write_text("")
    assert preflight.about_torch(python) == {"torch": True, "torch_version": None, "python_version": "3.9"}
    (torch / "version.py").write_text(f"from typing import Optional\n{line}\ndebug = False\n")
    assert preflight.about_torch(python)["torch_version"] == "2.5.1+cu121"


def test_it_is_quick(served: Served) -> None:
    served.env["PATH"] = "/usr/bin:/bin"

    def cpu_s() -> float:  # what other programs do does not count
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    best = 9.0
    for _ in range(5):
        before = cpu_s()
        served.call("preflight", ports=2)
        best = min(best, cpu_s() - before)
    assert best < 0.5  # 0.05 on a machine at rest
