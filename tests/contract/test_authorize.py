"""``rl authorize`` against servers that take passwords and keys: the real command, ssh and ssh-keygen."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.cli import Rl, rl_path
from tests.support.password_server import PASSWORD, USERNAME, PasswordServer
from tests.support.sshd import descendants, make_key, wait_for
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh on this machine")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[PasswordServer]]:
    """Two servers; a password in the inventory of neither."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with PasswordServer(tmp_path / "a") as first, PasswordServer(tmp_path / "b") as second:
        yield [first, second]


@pytest.fixture
def server(servers: list[PasswordServer]) -> PasswordServer:
    return servers[0]


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """The folder of this machine's key: in ssh's configuration, not made yet."""
    folder = tmp_path / "client"
    folder.mkdir()
    return folder


@pytest.fixture
def project(tmp_path: Path, servers: list[PasswordServer], client: Path) -> Rl:
    folder = tmp_path / "project"
    (folder / ".remote").mkdir(parents=True)
    rl = Rl(folder)
    for one in servers:
        text = one.ssh_config.read_text()
        one.ssh_config.write_text(
            f"{text}  IdentityFile {client}/.ssh/id_ed25519\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        )
    write(rl, a=entry(servers[0]))
    return rl


def entry(server: PasswordServer, **changes: Any) -> dict[str, Any]:
    return {
        "hostname": "127.0.0.1", "port": server.port, "username": USERNAME, "connect_timeout_s": 30,
        "ssh_config": str(server.ssh_config), **changes,
    }


def write(rl: Rl, **entries: Any) -> None:
    (rl.project / ".remote/configs.yaml").write_text(yaml.safe_dump({"name": "p", "servers": entries}))


def keys_of(server: PasswordServer) -> list[str]:
    return (server.folder / ".ssh/authorized_keys").read_text().splitlines()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def secret_file(tmp_path: Path, text: str = PASSWORD) -> Path:
    path = tmp_path / "pass"
    path.write_text(f"{text}\nanother line\n")
    return path


class TestTheFirstTime:
    def test_makes_a_key_installs_it_and_later_logins_need_no_password(
        self, project: Rl, server: PasswordServer, client: Path
    ) -> None:
        write(project, a=entry(server, password=PASSWORD))
        done = project("authorize")
        key = client / ".ssh/id_ed25519"
        assert f"made a key: {key} (ed25519, without a passphrase" in done.stderr
        assert "key installed" in done.stdout
        assert f"next: take `password:` of a out of {project.project}/.remote/configs.yaml:" in done.stderr
        assert (mode(key), mode(key.parent)) == (0o600, 0o700)
        assert keys_of(server) == [key.with_suffix(".pub").read_text().strip()]
        assert mode(server.folder / ".ssh") == 0o700
        assert mode(server.folder / ".ssh/authorized_keys") == 0o600

        write(project, a=entry(server))
        server.logins.clear()
        checked = project.json("servers", "--check")
        assert (checked["data"][0]["transport"], checked["data"][0]["reachable"]) == ("openssh", True)
        assert {method for method, _ in server.logins} == {"publickey"}
        assert not list((server.folder / ".ssh").glob(".rl-*"))

    def test_the_second_time_says_that_it_logs_in_already(
        self, project: Rl, server: PasswordServer
    ) -> None:
        write(project, a=entry(server, password=PASSWORD))
        project("authorize")
        before = keys_of(server)
        server.logins.clear()
        again = project("authorize")
        assert "logs in by key already" in again.stdout
        assert set(server.logins) == {("publickey", True)}
        assert keys_of(server) == before

    def test_all_servers_at_once_with_one_key(
        self, project: Rl, servers: list[PasswordServer], tmp_path: Path
    ) -> None:
        command = f"echo asked >> {tmp_path}/calls; cat {secret_file(tmp_path)}"
        write(project, **{
            name: entry(one, password_command=command) for name, one in zip("ab", servers, strict=True)
        })
        done = project.json("authorize")
        assert [(one["server"], one["state"], one["made"]) for one in done["data"]] == [
            ("a", "added", True), ("b", "added", True),
        ]
        assert keys_of(servers[0]) == keys_of(servers[1])
        assert (tmp_path / "calls").read_text() == "asked\n"


class TestWhatIsThere:
    @pytest.mark.parametrize("content", ["", "# mine\nssh-rsa AAAAB3 me", "\n\nno-pty ssh-rsa AAAAB3 me\n"])
    def test_no_line_is_lost(
        self, project: Rl, server: PasswordServer, content: str
    ) -> None:
        file = server.folder / ".ssh/authorized_keys"
        file.parent.mkdir()
        file.write_text(content)
        write(project, a=entry(server, password=PASSWORD))
        project("authorize")
        *before, added = keys_of(server)
        assert before == content.splitlines()
        assert added.startswith("ssh-ed25519 ")

    def test_a_symbolic_link_stays_one(self, project: Rl, server: PasswordServer) -> None:
        target = server.folder / "dotfiles/keys"
        target.parent.mkdir()
        target.write_text("ssh-rsa AAAAB3 me\n")
        (server.folder / ".ssh").mkdir()
        link = server.folder / ".ssh/authorized_keys"
        link.symlink_to(target)
        write(project, a=entry(server, password=PASSWORD))
        project("authorize")
        assert link.is_symlink()
        assert [line.split()[0] for line in target.read_text().splitlines()] == ["ssh-rsa", "ssh-ed25519"]

    def test_the_inventorys_key_is_used_and_made_where_it_is_missing(
        self, project: Rl, server: PasswordServer
    ) -> None:
        write(project, a=entry(server, password=PASSWORD, private_key="./.remote/key"))
        done = project("authorize")
        key = project.project / ".remote/key"
        assert str(key) in done.stderr
        assert keys_of(server) == [key.with_suffix(".pub").read_text().strip()]
        assert "set `private_key:" not in done.stderr

    def test_another_key_needs_no_password_where_one_logs_in(
        self, project: Rl, server: PasswordServer, tmp_path: Path
    ) -> None:
        write(project, a=entry(server, password=PASSWORD))
        project("authorize")
        write(project, a=entry(server))
        other = make_key(tmp_path / "other")
        server.logins.clear()
        done = project("authorize", "--key", str(other))
        assert f"next: set `private_key: {other}` for a" in done.stderr
        assert len(keys_of(server)) == 2
        assert "password" not in {method for method, _ in server.logins}
        assert "the key was there already" in project("authorize", "--key", str(other)).stdout
        assert len(keys_of(server)) == 2

    def test_dry_run_asks_nobody_and_makes_nothing(
        self, project: Rl, server: PasswordServer, client: Path
    ) -> None:
        done = project("authorize", "--dry-run")
        assert f"{USERNAME}@127.0.0.1" in done.stdout
        assert "would be made, without a passphrase" in done.stdout
        assert not (client / ".ssh").exists()
        assert server.logins == []


class TestWhatGoesWrong:
    def test_a_wrong_password_hurts_no_other_server(
        self, project: Rl, servers: list[PasswordServer]
    ) -> None:
        good, bad = servers
        write(project, a=entry(good, password=PASSWORD), b=entry(bad, password="wr0ng-secret"))
        done = project("authorize", code=3)
        assert f"b: someone@127.0.0.1:{bad.port} did not take the password (the inventory's)" in done.stderr
        assert len(keys_of(good)) == 1
        assert not (bad.folder / ".ssh").exists()
        assert not [text for text in (done.stdout, done.stderr) if "wr0ng-secret" in text]
        logs = [path.read_text() for path in (project.project / ".remote").rglob("*.log")]
        assert not [text for text in logs if "wr0ng-secret" in text or PASSWORD in text]

    def test_without_a_terminal_there_is_nobody_to_ask(self, project: Rl, client: Path) -> None:
        envelope = project.json("authorize", code=1)
        (error,) = envelope["errors"]
        assert error["type"] == "AuthenticationError"
        assert "there is no terminal to ask for one" in error["message"]
        assert "password_command: pass show gpu" in error["hint"]
        assert not (client / ".ssh").exists()

    def test_a_server_that_takes_keys_only_is_not_asked_for_a_password(
        self, project: Rl, server: PasswordServer
    ) -> None:
        server.methods = "publickey"
        write(project, a=entry(server, password=PASSWORD))
        done = project("authorize", code=1)
        assert "takes no passwords (it takes: publickey)" in done.stderr
        assert ("password", False) not in server.logins

    def test_a_home_that_can_not_be_written(self, project: Rl, server: PasswordServer) -> None:
        (server.folder / ".ssh").write_text("a file")
        write(project, a=entry(server, password=PASSWORD))
        done = project("authorize", code=1)
        assert f"can't make {server.folder}/.ssh" in done.stderr
        assert "add this line to ~/.ssh/authorized_keys: ssh-ed25519 " in done.stderr

    def test_a_key_that_does_not_log_in_is_not_taken_for_done(
        self, project: Rl, server: PasswordServer
    ) -> None:
        write(project, a=entry(server, password=PASSWORD))
        server.authorized = set  # type: ignore[method-assign,assignment]
        done = project("authorize", code=1)
        assert "the key is in ~/.ssh/authorized_keys, but no login by it" in done.stderr

    def test_a_key_that_ssh_refuses_is_said_before_any_password_is_asked_for(
        self, project: Rl, server: PasswordServer, tmp_path: Path
    ) -> None:
        key = make_key(tmp_path / "key")
        key.chmod(0o644)
        write(project, a=entry(server, password=PASSWORD, private_key=str(key)))
        done = project("authorize", code=1)
        assert f"→ chmod 600 {key}" in done.stderr
        assert "password" not in {method for method, _ in server.logins}

    def test_ctrl_c_at_the_question_leaves_everything_as_it_was(
        self, project: Rl, server: PasswordServer, client: Path
    ) -> None:
        with Terminal([rl_path(), "authorize"], cwd=project.project, env=project.env) as terminal:
            terminal.expect("password for .*: ")
            terminal.press("\x03")
            assert terminal.end() == 130
        assert not (client / ".ssh").exists()

    def test_an_unreachable_server_is_not_asked_about(
        self, project: Rl, servers: list[PasswordServer], tmp_path: Path
    ) -> None:
        gone = entry(servers[0], port=1, password_command=f"touch {tmp_path}/ran; echo x")
        write(project, a=gone)
        done = project("authorize", code=1)
        assert "refused the connection" in done.stderr
        assert project("run", "--server", "a", "--", "true", code=None).returncode != 0
        assert not (tmp_path / "ran").exists()

    def test_an_ordinary_login_that_fails_names_the_command(self, project: Rl) -> None:
        assert "`rl authorize --server a` installs a key" in project("servers", "--check", code=1).stderr


class TestPasswordCommand:
    def test_logs_in_ordinary_commands_once_a_process(
        self, project: Rl, servers: list[PasswordServer], tmp_path: Path
    ) -> None:
        command = f"echo asked >> {tmp_path}/calls; cat {secret_file(tmp_path)}"
        write(project, **{
            name: entry(one, password_command=command) for name, one in zip("ab", servers, strict=True)
        })
        checked = project.json("servers", "--check")
        assert [(one["transport"], one["reachable"]) for one in checked["data"]] == [("fabric", True)] * 2
        assert (tmp_path / "calls").read_text() == "asked\n"
        project("servers")
        assert (tmp_path / "calls").read_text() == "asked\n"

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            ("echo s3cret; echo why >&2; exit 3", "its password_command ended with exit code 3: why"),
            ("echo s3cret; echo it was s3cret >&2; exit 3", "its password_command ended with exit code 3"),
            ("echo; echo s3cret", "printed no password"),
            ("printf 's3cret\\377\\n'", "not UTF-8"),
        ],
    )
    def test_its_failure_is_a_plain_error(
        self, project: Rl, server: PasswordServer, command: str, said: str
    ) -> None:
        write(project, a=entry(server, password_command=command))
        for words in (["authorize"], ["servers", "--check"]):
            done = project(*words, code=1)
            assert said in done.stderr
            assert "s3cret" not in done.stderr + done.stdout
            assert "Traceback" not in done.stderr

    def test_a_password_of_the_inventory_is_warned_of_once(
        self, project: Rl, servers: list[PasswordServer]
    ) -> None:
        write(project, **{
            name: entry(one, password=PASSWORD) for name, one in zip("ab", servers, strict=True)
        })
        done = project("servers", "--check")
        lines = (project.project / ".remote/configs.yaml").read_text().splitlines()
        line = next(number for number, text in enumerate(lines, 1) if text.startswith("    password: "))
        assert done.stderr.count("warning: ") == 1
        assert f"configs.yaml:{line}: a password stands in this file; `rl authorize`" in done.stderr


class TestOnATerminal:
    def start(self, rl: Rl, *words: str) -> Terminal:
        return Terminal([rl_path(), *words], cwd=rl.project, env=rl.env)

    def test_the_password_is_asked_for_without_echo_and_offered_for_the_others(
        self, project: Rl, servers: list[PasswordServer]
    ) -> None:
        write(project, a=entry(servers[0]), b=entry(servers[1]))
        with self.start(project, "authorize") as terminal:
            terminal.expect(r"a: password for someone@127\.0\.0\.1.*: ")
            terminal.type(PASSWORD)
            terminal.expect(r"Try this password for b too\? \[y/N\]: ")
            terminal.type("y")
            assert terminal.end() == 0, terminal.screen
        assert PASSWORD not in terminal.screen
        assert terminal.screen.count("key installed") == 2
        assert keys_of(servers[0]) == keys_of(servers[1])

    def test_a_wrong_one_is_asked_for_again(
        self, project: Rl, servers: list[PasswordServer]
    ) -> None:
        write(project, a=entry(servers[0]), b=entry(servers[1]))
        with self.start(project, "authorize") as terminal:
            terminal.expect("a: password for .*: ")
            terminal.type("wr0ng")
            terminal.expect("too")
            terminal.type("")
            terminal.expect("b: password for .*: ")
            terminal.type(PASSWORD)
            terminal.expect("a: was refused; password for .*: ")
            terminal.type(PASSWORD)
            assert terminal.end() == 0, terminal.screen
        assert ("password", False) in servers[0].logins
        assert keys_of(servers[0]) == keys_of(servers[1])

    def test_a_server_that_is_skipped_hurts_no_other(
        self, project: Rl, servers: list[PasswordServer]
    ) -> None:
        write(project, a=entry(servers[0]), b=entry(servers[1]))
        with self.start(project, "authorize") as terminal:
            terminal.expect("a: password for .*: ")
            terminal.type("")
            terminal.expect("b: password for .*: ")
            terminal.type(PASSWORD)
            assert terminal.end() == 3, terminal.screen
        assert "none was typed" in terminal.screen
        assert len(keys_of(servers[1])) == 1

    def test_a_password_command_may_ask_on_it(self, project: Rl, server: PasswordServer) -> None:
        command = 'printf "unlock: " > /dev/tty; stty -echo < /dev/tty; read -r p < /dev/tty; echo "$p"'
        write(project, a=entry(server, password_command=command))
        with self.start(project, "servers", "--check") as terminal:
            terminal.expect("unlock: ")
            terminal.type(PASSWORD)
            assert terminal.end() == 0, terminal.screen

    def test_the_password_is_in_no_process(
        self, project: Rl, server: PasswordServer, tmp_path: Path
    ) -> None:
        if not Path("/proc/self/environ").exists():
            pytest.skip("no /proc on this machine")
        seen = Watched(lambda: [os.getpid(), *descendants(os.getpid())])
        keys = server.authorized

        def look_first() -> set[str]:  # while ssh, which proves the key, waits for the answer
            seen.look()
            return keys()

        server.authorized = look_first  # type: ignore[method-assign]
        with seen, self.start(project, "authorize") as terminal:
            terminal.expect("password for .*: ")
            terminal.type(PASSWORD)
            wait_for(lambda: ("password", True) in server.logins, 60, "the login")
            assert terminal.end() == 0, terminal.screen
        text = b"\n".join(seen.texts)
        assert b"authorize" in text
        assert b"exit 0" in text, "the login that proves the key was not seen"
        assert PASSWORD.encode() not in text


class Watched:
    """Collects, again and again while it is entered, the arguments and variables of processes."""

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self.texts: set[bytes] = set()
        self._pids = pids
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            self.look()

    def look(self) -> None:
        for pid in self._pids():
            for name in ("cmdline", "environ"):
                try:
                    self.texts.add(Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\0", b" "))
                except OSError:
                    continue
