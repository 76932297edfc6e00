from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from remote_launch.operations import servers
from remote_launch.remote import logind, machine, tools
from remote_launch.remote.facts import RSYNC_TIMEOUT_S, facts

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import pytest


def test_output_of_a_program() -> None:
    assert machine.output(["/bin/sh", "-c", "echo one; echo two >&2; cat"], 60) == "one\n"
    assert machine.output(["/bin/sh", "-c", "echo one; exit 3"], 60) == ""
    assert machine.output(["/bin/sh", "-c", "kill -9 $$"], 60) == ""
    assert machine.output(["/no/such/program"], 60) == ""
    assert len(machine.output(["/bin/sh", "-c", "head -c 300000 /dev/zero"], 60)) == 300_000


def test_output_that_does_not_come() -> None:
    before = set(os.listdir("/proc/self/fd"))
    began = time.monotonic()
    assert machine.output(["/bin/sh", "-c", "echo one; exec sleep 600"], 0.2) == ""
    assert time.monotonic() - began < 60
    assert set(os.listdir("/proc/self/fd")) <= before


def test_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "tool").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tool").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}/a:{tmp_path}/b:")
    assert machine.which("tool") is None
    (tmp_path / "b" / "tool").chmod(0o755)
    assert machine.which("tool") == str(tmp_path / "b" / "tool")
    monkeypatch.delenv("PATH")
    assert machine.which("sh") is not None
    assert machine.which("tool", f"{tmp_path}/a:{tmp_path}/b") == str(tmp_path / "b" / "tool")
    assert machine.which("tool", f"{tmp_path}/a") is None
    assert machine.which(f"{tmp_path}/b/tool", f"{tmp_path}/a") == str(tmp_path / "b" / "tool")
    monkeypatch.chdir(tmp_path)
    assert machine.which("b/tool", f"{tmp_path}/b") == "b/tool"
    assert machine.which("a/tool", f"{tmp_path}/b") is None


def test_facts_of_this_machine(tmp_path: Path) -> None:
    told = facts({"workdir": str(tmp_path / "not there yet")})
    assert told["hostname"] == os.uname().nodename
    assert told["disk_total_bytes"] > told["disk_free_bytes"] > 0
    assert told["python_version"].startswith("3.")
    assert told["user"]
    assert told["cpus"] > 0
    brief = facts({"workdir": str(tmp_path), "facts": "brief"})
    assert set(told) - set(brief) == {"rsync"}


def test_the_facts_of_a_machine_where_every_program_hangs_come_in_the_time_that_they_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[float] = []

    def call(*_: object, timeout_s: float) -> dict[str, dict[str, object]]:
        given.append(timeout_s)
        return {"facts": {}}

    monkeypatch.setattr(servers, "call", call)
    fleet = SimpleNamespace(map=lambda chosen, ask: [ask(one) for one in chosen])
    servers.check(cast("Any", fleet), cast("Any", ["s0"]))
    assert given[0] > tools.TIMEOUT_S + RSYNC_TIMEOUT_S + 2 * logind.LOGINCTL_TIMEOUT_S
