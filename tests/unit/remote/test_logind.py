"""Servers that end a user's processes at logout, with programs that stand in for systemd's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from remote_launch.operations.servers import logout_warning
from remote_launch.remote import logind

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.served import Served

LOGINCTL = """#!/bin/sh
case "$*" in
show-session*) printf 'KillUserProcesses=%s\\nKillOnlyUsers=\\nKillExcludeUsers=%s\\n' "$KILLS" "$EXCLUDED";;
show-user*) echo "Linger=$LINGER";;
*) exit 1;;
esac
"""
# Notes what it was asked, then runs the command in place, as the real one does with --scope.
SYSTEMD_RUN = """#!/bin/sh
echo "$* runtime=$XDG_RUNTIME_DIR" > "$NOTES"
[ -z "$BROKEN" ] || { echo "Failed to connect to bus" >&2; exit 1; }
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


def stand_ins(folder: Path, served: Served, **env: str) -> Path:
    """Put the programs first on the server's PATH; return the file of systemd-run's notes."""
    tools = folder / "tools"
    tools.mkdir()
    for name, content in (("loginctl", LOGINCTL), ("systemd-run", SYSTEMD_RUN)):
        (tools / name).write_text(content)
        (tools / name).chmod(0o755)
    given = {"KILLS": "yes", "LINGER": "yes", "EXCLUDED": "nobody", "BROKEN": "", "XDG_SESSION_ID": "7"} | env
    served.env.update(given, NOTES=str(folder / "notes"), PATH=f"{tools}:{served.env['PATH']}")
    return folder / "notes"


def test_a_job_is_started_in_a_scope_where_logout_would_end_it(served: Served, tmp_path: Path) -> None:
    notes = stand_ins(tmp_path, served)
    job_id = served.start("echo ${RL_IN_SCOPE:-unset} $MY_TOKEN", secret_env={"MY_TOKEN": "s3cret"})
    assert served.wait(job_id)["state"] == "SUCCEEDED"
    assert served.out(job_id) == "unset s3cret\n"
    noted = notes.read_text()
    assert noted.startswith(f"--user --scope --quiet --collect --unit=rl-{job_id} -- ")
    assert "runtime=/run/user/" in noted
    assert "s3cret" not in noted


def test_a_start_is_made_once_whichever_way(served: Served, tmp_path: Path) -> None:
    stand_ins(tmp_path, served)
    spec = served.spec("echo once >> times; exec sleep 600")
    first = served.call("start", spec=spec)
    second = served.call("start", spec=spec)
    assert (first["state"], second["state"]) == ("STARTED", "ALREADY")
    assert second["supervisor_pid"] == first["supervisor_pid"]


def test_a_manager_that_can_t_be_reached_keeps_no_job_from_starting(served: Served, tmp_path: Path) -> None:
    notes = stand_ins(tmp_path, served, BROKEN="yes")
    job_id = served.start("echo here")
    assert served.wait(job_id)["state"] == "SUCCEEDED"
    assert notes.exists()


@pytest.mark.parametrize(
    "env", [{"KILLS": "no"}, {"LINGER": "no"}, {"XDG_SESSION_ID": ""}, {"EXCLUDED": logind._user()}]
)
def test_elsewhere_it_is_started_as_ever(served: Served, tmp_path: Path, env: dict[str, str]) -> None:
    notes = stand_ins(tmp_path, served, **env)
    assert served.wait(served.start("true"))["state"] == "SUCCEEDED"
    assert not notes.exists()


def test_a_refusal_comes_through_the_scope(served: Served, tmp_path: Path) -> None:
    stand_ins(tmp_path, served)
    error = served.call("start", spec=served.spec(argv=["no-such-program"]))["error"]
    assert error["type"] == "MissingProgramError"


def test_facts_tell_of_it(served: Served, tmp_path: Path) -> None:
    stand_ins(tmp_path, served, LINGER="no")
    facts = served.call("probe", job_ids=[], facts=True)["facts"]
    assert facts["logind"] == {"kill_user_processes": True, "linger": False, "scopes": True}
    served.env["KILLS"] = "no"
    assert served.call("probe", job_ids=[], facts=True)["facts"]["logind"]["kill_user_processes"] is False


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, None),
        ({"kill_user_processes": False, "linger": False, "scopes": True}, None),
        ({"kill_user_processes": True, "linger": True, "scopes": True}, None),
        ({"kill_user_processes": True, "linger": False, "scopes": True}, "loginctl enable-linger"),
        ({"kill_user_processes": True, "linger": True, "scopes": False}, "no systemd-run"),
        ("rubbish", None),
        ({"kill_user_processes": "yes"}, None),
    ],
)
def test_the_warning(told: object, words: str | None) -> None:
    warning = logout_warning("gpu-a", json.loads(json.dumps({"logind": told})))
    assert warning is None if words is None else words in str(warning)


def test_a_login_that_is_no_session_is_asked_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loginctl = tmp_path / "loginctl"
    loginctl.write_text("#!/bin/sh\necho KillUserProcesses=yes\n")
    loginctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("XDG_SESSION_ID", "3")
    assert logind.facts()["kill_user_processes"] is True
    monkeypatch.delenv("XDG_SESSION_ID")
    assert logind.facts() == {}
