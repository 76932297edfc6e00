"""Asking a server's own programs."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.core.inventory import Inventory, Server, Sync
from remote_launch.core.programs import pack
from remote_launch.core.project import Project
from remote_launch.errors import (
    CommandError,
    CommandTimeoutError,
    ConnectionLostError,
    JobError,
    MissingProgramError,
    WorkspaceError,
)
from remote_launch.operations.fleet import Fleet
from remote_launch.operations.verbs import call, stream, who
from remote_launch.transport.base import Completed

if TYPE_CHECKING:
    from pathlib import Path

    from remote_launch.transport.command import Command

NO_PYTHON, NO_PROGRAM = 96, 97


class FakeTransport:
    """Gives the next of its answers: stdout, an exit code, or an error."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.commands: list[Command] = []
        self.stdins: list[bytes] = []
        self.puts: list[tuple[bytes, str, int]] = []
        self.refuses: Exception | None = None  # what put raises

    def run(
        self, command: Command, *, stdin: bytes, timeout_s: Any = None, on_stdout: Any = None
    ) -> Completed:
        self.commands.append(command)
        self.stdins.append(stdin)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        code, out = (answer, b"") if isinstance(answer, int) else (0, answer)
        if on_stdout is not None:
            on_stdout(out)
        return Completed(
            server="s", command="rl x", exit_code=code, stdout=out, stderr=b"boom\n" if code else b""
        )

    def put(self, content: bytes, path: str, *, mode: int) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.puts.append((content, path, mode))


@pytest.fixture
def ask(tmp_path: Path) -> Any:
    server = Server(name="s", workdir="~/proj", python="/opt/python")

    def make(*answers: Any) -> tuple[FakeTransport, Fleet, Server]:
        project = Project(root=tmp_path)
        inventory = Inventory(
            name="proj",
            servers={"s": server},
            sync=Sync(),
            path=project.config,
            project=project,
        )
        fleet = Fleet(project, inventory)
        transport = FakeTransport(*answers)
        fleet._transports["s"] = transport  # type: ignore[assignment]
        return transport, fleet, server

    return make


class TestCall:
    def test_one_request_one_answer(self, ask: Any) -> None:
        transport, fleet, server = ask(b'{"jobs": []}\n')
        assert call(fleet, server, "probe", {"job_ids": ["x"]}) == {"jobs": []}
        assert json.loads(transport.stdins[0]) == {
            "server": "s",
            "workdir": "~/proj",
            "jobs_folder": ".jobs",
            "job_ids": ["x"],
        }
        assert transport.puts == []

    def test_the_request_is_not_on_the_command_line(self, ask: Any) -> None:
        transport, fleet, server = ask(b"{}\n")
        call(fleet, server, "start", {"spec": {"secret_env": {"KEY": "hunter2"}}})
        [command] = transport.commands
        assert "hunter2" not in repr(command) + command.remote() + command.masked()
        assert command.argv[1:] == ["start", "/opt/python", "python3"]

    def test_noise_of_the_login_shell_is_skipped(self, ask: Any) -> None:
        _, fleet, server = ask(b'Welcome!\n{"not": "it"}\n{"jobs": [1]}\n\n')
        assert call(fleet, server, "probe", {}) == {"jobs": [1]}

    def test_a_number_that_json_has_no_word_for_is_none(self, ask: Any) -> None:
        _, fleet, server = ask(b'{"a": [NaN, -Infinity, 1e999, -1e999, 1.5, 2]}\n')
        assert call(fleet, server, "probe", {}) == {"a": [None, None, None, None, 1.5, 2]}

    def test_a_server_without_the_programs_gets_them_once(self, ask: Any) -> None:
        transport, fleet, server = ask(NO_PROGRAM, b"{}\n")
        call(fleet, server, "probe", {})
        name, content = pack()
        assert transport.puts == [(content, f"~/proj/.rl/bin/{name}", 0o700)]
        assert transport.commands[0].argv[0] == f"~/proj/.rl/bin/{name}"
        assert transport.stdins[0] == transport.stdins[1]

    @pytest.mark.parametrize(
        ("said", "advice"),
        [
            ("mkdir: cannot create directory '/ro': Permission denied", "owned by the user"),
            ("cat: write error: No space left on device\nx: could not be written whole", "free some space"),
        ],
    )
    def test_a_folder_that_cannot_be_written_is_said_as_such(self, ask: Any, said: str, advice: str) -> None:
        transport, fleet, server = ask(NO_PROGRAM)
        transport.refuses = CommandError("s: write x: exit code 1", server="s", tail=said)
        with pytest.raises(WorkspaceError) as caught:
            call(fleet, server, "start", {})
        assert str(caught.value) == f"s: its workdir ~/proj can't be written: {said.splitlines()[0]}"
        assert advice in str(caught.value.hint)

    def test_a_connection_lost_while_the_programs_travel_passes(self, ask: Any) -> None:
        transport, fleet, server = ask(NO_PROGRAM)
        transport.refuses = ConnectionLostError("s", "gone")
        with pytest.raises(ConnectionLostError):
            call(fleet, server, "start", {})

    def test_no_python_is_said_with_what_was_tried(self, ask: Any) -> None:
        _, fleet, server = ask(NO_PYTHON, NO_PYTHON)
        with pytest.raises(MissingProgramError, match=r"s: no Python 3\.8 .*/opt/python, python3, ~/proj"):
            call(fleet, server, "probe", {})

    def test_a_server_without_python3_has_the_environments_own(self, ask: Any) -> None:
        transport, fleet, server = ask(NO_PYTHON, b"{}\n")
        call(fleet, server, "probe", {})
        assert transport.commands[1].argv[2:] == ["/opt/python", "python3", "~/proj/.rl/rl_env/bin/python"]

    @pytest.mark.parametrize(
        "noise", [b"", b"hello\n", b"[1]\n", b"3\n", b"{\n", b"[" * 100_000 + b"\n", b"\xff\n"]
    )
    def test_no_answer_is_an_error_that_shows_what_came(self, ask: Any, noise: bytes) -> None:
        _, fleet, server = ask(noise)
        with pytest.raises(CommandError, match="gave no answer") as caught:
            call(fleet, server, "probe", {})
        assert caught.value.hint

    def test_a_crash_shows_its_last_lines(self, ask: Any) -> None:
        _, fleet, server = ask(1)
        with pytest.raises(CommandError, match="boom"):
            call(fleet, server, "probe", {})

    def test_a_lost_connection_passes(self, ask: Any) -> None:
        _, fleet, server = ask(ConnectionLostError("s", "gone"))
        with pytest.raises(ConnectionLostError):
            call(fleet, server, "probe", {})

    def test_one_that_never_answers_says_what_to_try(self, ask: Any) -> None:
        late = CommandTimeoutError("s: too long", server="s", command="rl probe", exit_code_of_command=None)
        _, fleet, server = ask(late)
        with pytest.raises(CommandTimeoutError) as caught:
            call(fleet, server, "probe", {})
        assert "rl doctor" in str(caught.value.hint)


class TestRefusals:
    def test_a_full_disk_comes_with_advice(self, ask: Any) -> None:
        refused = self.answer(ask, {"type": "ServerError", "message": "workspace: No space left on device"})
        assert "free some space" in str(refused.hint)

    def answer(self, ask: Any, error: Any) -> Any:
        _, fleet, server = ask(json.dumps({"error": error}).encode())
        with pytest.raises((JobError, WorkspaceError)) as caught:
            call(fleet, server, "probe", {})
        return caught.value

    def test_keep_their_message_and_hint(self, ask: Any) -> None:
        error = self.answer(ask, {"type": "RequestError", "message": "bad spec", "hint": "do this"})
        assert isinstance(error, JobError)
        assert (str(error), error.hint) == ("s: bad spec", "do this")
        assert error.to_dict()["server"] == "s"

    def test_about_the_workdir(self, ask: Any) -> None:
        error = self.answer(ask, {"type": "WorkspaceError", "message": "not ours", "hint": None})
        assert isinstance(error, WorkspaceError)

    @pytest.mark.parametrize("error", ["text", 3, None, [], {}, {"message": {}, "hint": 4, "type": []}])
    def test_of_any_shape(self, ask: Any, error: Any) -> None:
        assert str(self.answer(ask, error)).startswith("s: ")


def test_a_stream_is_handed_over_as_it_comes(ask: Any) -> None:
    _, fleet, server = ask(NO_PROGRAM, b"some bytes")
    chunks: list[bytes] = []
    assert stream(fleet, server, "follow", {}, chunks.append).ok
    assert b"".join(chunks) == b"some bytes"


class TestInterpreters:
    """The script that looks for one, run for real."""

    def run(self, ask: Any, tmp_path: Path, *pythons: str) -> subprocess.CompletedProcess[str]:
        transport, fleet, server = ask(b"{}\n")
        call(fleet, server, "probe", {})
        program = tmp_path / "program"
        program.write_text("import sys; print(sys.argv[1], sys.executable)")
        words = ["/bin/sh", "-c", transport.commands[0].shell, "sh", str(program), "probe", *pythons]
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    def fake(self, tmp_path: Path, script: str) -> str:
        path = tmp_path / "fake-python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    def test_the_first_that_is_new_enough(self, ask: Any, tmp_path: Path) -> None:
        old = self.fake(tmp_path, "exit 96")  # what the program says on a python before 3.8
        done = self.run(ask, tmp_path, "/nowhere/python", old, "python3")
        assert done.returncode == 0
        assert done.stdout.startswith("probe ")

    def test_none(self, ask: Any, tmp_path: Path) -> None:
        assert self.run(ask, tmp_path, "/nowhere/python").returncode == NO_PYTHON

    def test_no_program(self, ask: Any, tmp_path: Path) -> None:
        transport, fleet, server = ask(b"{}\n")
        call(fleet, server, "probe", {})
        words = [
            "/bin/sh",
            "-c",
            transport.commands[0].shell,
            "sh",
            str(tmp_path / "none"),
            "probe",
            "python3",
        ]
        assert subprocess.run(words, timeout=60).returncode == NO_PROGRAM


def test_a_user_without_a_name_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in many containers: a uid that no passwd has."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert who().startswith("?@")
