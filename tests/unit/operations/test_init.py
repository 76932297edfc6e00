"""``rl init``: the drafts it takes, and the files it writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from remote_launch.core.inventory import load_inventory
from remote_launch.core.project import Project
from remote_launch.core.templates import read_template, render_config
from remote_launch.errors import ConfigError, UsageError
from remote_launch.operations.init import (
    ServerDraft,
    init_project,
    local_servers,
    parse_server,
    servers_from_ssh_config,
    suggest_name,
)


class TestParseServer:
    @pytest.mark.parametrize(
        ("text", "draft"),
        [
            ("gpu-a=ubuntu@10.0.0.5:2222", ("gpu-a", "10.0.0.5", "ubuntu", 2222)),
            ("gpu-a=10.0.0.5", ("gpu-a", "10.0.0.5", None, None)),
            ("ubuntu@10.0.0.5", ("10.0.0.5", "10.0.0.5", "ubuntu", None)),
            ("gpu-b", ("gpu-b", "gpu-b", None, None)),
            ("gpu-b:22", ("gpu-b", "gpu-b", None, 22)),
            ("six=me@[2001:db8::1]:22", ("six", "2001:db8::1", "me", 22)),
            ("me@[2001:db8::1]", ("2001-db8-1", "2001:db8::1", "me", None)),
            ("2001:db8::1", ("2001-db8-1", "2001:db8::1", None, None)),
            ("[::]", ("server", "::", None, None)),
        ],
    )
    def test_parts(self, text: str, draft: tuple[str, str, str | None, int | None]) -> None:
        name, hostname, username, port = draft
        assert parse_server(text) == ServerDraft(name=name, hostname=hostname, username=username, port=port)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "a=",
            "=h",
            "a b=h",
            "a=b=h",
            "@h",
            "u@",
            "h:0",
            "h:x",
            "h:",
            "-oX",
            "u@-oX",
            "[::1",
            "h;x",
            "u:p@h",
        ],
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(UsageError) as caught:
            parse_server(text)
        assert caught.value.hint

    def test_a_password_is_not_repeated(self) -> None:
        with pytest.raises(UsageError) as caught:
            parse_server("a=u:hunter2@h")
        assert "hunter2" not in caught.value.message + str(caught.value.hint)


def test_local_servers() -> None:
    drafts = local_servers(2)
    assert [(draft.name, draft.hostname) for draft in drafts] == [("local-1", None), ("local-2", None)]
    with pytest.raises(UsageError):
        local_servers(0)


class TestSshConfig:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path))
        ssh = tmp_path / ".ssh"
        (ssh / "more").mkdir(parents=True)
        (ssh / "config").write_text(
            "# mine\nInclude more/*.conf\nInclude missing\nHost gpu-1 gpu-2 # both\n  HostName 10.0.0.1\n"
            'host=login\nHOST\tgpu-* !gpu-9\n  User me\nMatch host x\n'
            'Host "gpu/odd" gpu-1\nHost "open\nHostName gpu-no\n',
        )
        (ssh / "more" / "a.conf").write_text(f"Host gpu-0\nInclude ~/extra\nInclude {ssh}/config\n")
        (tmp_path / "extra").write_text("  Host extra\n")
        return tmp_path

    def test_the_aliases_that_match(self, home: Path) -> None:
        drafts = servers_from_ssh_config(["gpu*"])
        assert [draft.hostname for draft in drafts] == ["gpu-0", "gpu-1", "gpu-2", "gpu/odd"]
        assert [draft.name for draft in drafts] == ["gpu-0", "gpu-1", "gpu-2", "gpu-odd"]
        assert {(draft.username, draft.port, draft.ssh_config) for draft in drafts} == {(None, None, None)}

    def test_includes_and_wildcards(self, home: Path) -> None:
        names = [draft.hostname for draft in servers_from_ssh_config(["*"])]
        assert names == ["gpu-0", "extra", "gpu-1", "gpu-2", "login", "gpu/odd"]

    def test_another_file_is_named_in_the_drafts(self, home: Path, tmp_path: Path) -> None:
        path = tmp_path / "elsewhere"
        path.write_text("Host a\n")
        assert servers_from_ssh_config(["a"], path) == [
            ServerDraft(name="a", hostname="a", ssh_config=str(path))
        ]

    def test_nothing_matches(self, home: Path) -> None:
        with pytest.raises(UsageError, match=r"'gpu1', did you mean 'gpu-1'\?") as caught:
            servers_from_ssh_config(["login", "gpu1"])
        assert "gpu-0, extra" in (caught.value.hint or "")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="can't be read"):
            servers_from_ssh_config(["*"], tmp_path / "none")


class TestInitProject:
    DRAFTS = (
        ServerDraft(name="gpu-a", hostname="10.0.0.5", username="ubuntu", port=2222),
        ServerDraft(name="on", hostname="no"),
        ServerDraft(name="6", hostname="fe80::1%eth0", ssh_config="/a b/config"),
        ServerDraft(name="local-1"),
    )

    def test_what_it_writes_loads(self, tmp_path: Path) -> None:
        result = init_project(tmp_path, name="mine", servers=self.DRAFTS, manager="uv")
        assert sorted(path.name for path in (tmp_path / ".remote").iterdir()) == [
            "configs.yaml",
            "exclude.txt",
        ]
        inventory = load_inventory(result.project)
        assert inventory.name == "mine"
        assert inventory.select()[0].environment.manager == "uv"
        assert list(inventory.servers) == ["gpu-a", "on", "6", "local-1"]
        first, second, third, fourth = inventory.select()
        assert (first.hostname, first.username, first.port) == ("10.0.0.5", "ubuntu", 2222)
        assert second.hostname == "no"
        assert (third.hostname, third.ssh_config) == ("fe80::1%eth0", Path("/a b/config"))
        assert fourth.transport == "local"
        assert result.written == (tmp_path / ".remote/configs.yaml", tmp_path / ".remote/exclude.txt")
        assert result.kept == ()
        assert result.servers == ("gpu-a", "on", "6", "local-1")
        assert result.next_steps

    def test_other_yaml_readers_read_the_same(self, tmp_path: Path) -> None:
        init_project(tmp_path, name="no", servers=self.DRAFTS)
        data = yaml.safe_load((tmp_path / ".remote/configs.yaml").read_text(encoding="utf-8"))
        assert data["name"] == "no"
        assert list(data["servers"]) == ["gpu-a", "on", "6", "local-1"]
        assert data["servers"]["on"]["hostname"] == "no"

    def test_the_teaching_comments_stay(self, tmp_path: Path) -> None:
        init_project(tmp_path, name="p", servers=self.DRAFTS)
        text = (tmp_path / ".remote/configs.yaml").read_text(encoding="utf-8")
        assert "# defaults:" in text
        assert "private_key" in text
        assert "rl: servers" not in text

    def test_an_inventory_is_never_overwritten(self, tmp_path: Path) -> None:
        init_project(tmp_path, name="first", servers=local_servers(1))
        (tmp_path / ".remote/exclude.txt").unlink()
        with pytest.raises(ConfigError, match="an inventory already") as caught:
            init_project(tmp_path, name="second", servers=local_servers(1))
        assert "--force" in (caught.value.hint or "")
        assert load_inventory(Project(root=tmp_path)).name == "first"
        assert not (tmp_path / ".remote/exclude.txt").exists()

    def test_force_replaces_the_inventory_and_keeps_the_excludes(self, tmp_path: Path) -> None:
        init_project(tmp_path, name="first", servers=local_servers(1))
        (tmp_path / ".remote/exclude.txt").write_text("mine\n")
        result = init_project(tmp_path, name="second", servers=local_servers(2), force=True)
        assert load_inventory(result.project).name == "second"
        assert (tmp_path / ".remote/exclude.txt").read_text() == "mine\n"
        assert result.kept == (tmp_path / ".remote/exclude.txt",)

    def test_without_servers_the_next_step_is_to_add_them(self, tmp_path: Path) -> None:
        result = init_project(tmp_path, name="p")
        assert "add your servers" in result.next_steps[0]
        with pytest.raises(ConfigError, match="no servers"):
            load_inventory(result.project)

    @pytest.mark.parametrize(
        ("name", "servers"),
        [
            ("a b", ()),
            ("", ()),
            ("../x", ()),
            ("p", (ServerDraft(name="a"), ServerDraft(name="a"))),
        ],
    )
    def test_refused_before_anything_is_written(
        self, tmp_path: Path, name: str, servers: tuple[ServerDraft, ...]
    ) -> None:
        with pytest.raises(UsageError):
            init_project(tmp_path, name=name, servers=servers)
        assert list(tmp_path.iterdir()) == []

    def test_a_wrong_manager_is_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"environment\.manager"):
            init_project(tmp_path, name="p", servers=local_servers(1), manager="pip")
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_can_not_be_made(self, tmp_path: Path) -> None:
        (tmp_path / ".remote").write_text("in the way")
        with pytest.raises(ConfigError, match="can't be written"):
            init_project(tmp_path, name="p", servers=local_servers(1))
        with pytest.raises(UsageError, match="no such folder"):
            init_project(tmp_path / "nowhere", name="p")

    @pytest.mark.parametrize(
        ("folder", "name"),
        [("proj", "proj"), ("my project", "my-project"), (".hidden", "hidden"), ("---", "project")],
    )
    def test_the_folders_name_is_the_default(self, tmp_path: Path, folder: str, name: str) -> None:
        root = tmp_path / folder
        root.mkdir()
        assert suggest_name(root) == name
        assert load_inventory(init_project(root, servers=local_servers(1)).project).name == name


class TestTemplate:
    def test_it_loads_as_it_is(self, tmp_path: Path) -> None:
        project = Project(root=tmp_path)
        project.remote_dir.mkdir()
        project.config.write_text(read_template("configs.yaml"), encoding="utf-8")
        assert list(load_inventory(project).servers) == ["gpu-a"]

    def test_every_commented_key_loads_when_it_is_taken_in(self, tmp_path: Path) -> None:
        text = render_config(name="p", servers=local_servers(1), manager="none")
        taken = re.sub(
            r"(?m)^( *)# ((?:  )*(?:- |[a-z_]+[-a-z0-9]*: ?[^ \n].*|(?:defaults|sync|gpu-b):)$)",
            r"\1\2",
            text,
        )
        taken = taken.replace("  local-1: {connection: local}  ", "  local-2: {connection: local}  ")
        project = Project(root=tmp_path)
        project.remote_dir.mkdir()
        project.config.write_text(taken, encoding="utf-8")
        inventory = load_inventory(project)
        assert list(inventory.servers) == ["local-1", "gpu-b", "gpu-c", "local-2"]
        assert inventory.servers["gpu-b"].nproc_per_node == 4
        assert inventory.sync.gitignore is True
        assert inventory.select()[0].environment.extra_index_url

    def test_the_excludes(self) -> None:
        lines = read_template("exclude.txt").splitlines()
        assert {
            ".remote",
            ".git",
            ".jobs",
            ".rl",
            "__pycache__",
            ".venv",
            "venv",
            "/logs",
            ".DS_Store",
        } <= set(lines)
        assert all(line == line.strip() for line in lines)


def test_a_key_that_is_not_there_yet_is_the_first_thing_to_do(tmp_path: Path) -> None:
    (tmp_path / "id_here").touch()
    drafts = [
        ServerDraft(name="a", hostname="10.0.0.5", private_key="id_here"),
        ServerDraft(name="b", hostname="10.0.0.6", private_key="id_gone"),
    ]
    first, second, *_ = init_project(tmp_path, servers=drafts).next_steps
    assert first.startswith("rl authorize ")
    assert "there is no id_gone yet" in first
    assert second.startswith("rl servers --check ")


@pytest.mark.parametrize("key", ["~nobody-of-that-name/id", "x" * 300])
def test_a_key_that_can_be_no_files_is_none_that_is_there(tmp_path: Path, key: str) -> None:
    draft = ServerDraft(name="a", hostname="10.0.0.5", private_key=key)
    first, *_ = init_project(tmp_path, servers=[draft]).next_steps
    assert first.startswith("rl authorize ")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a=gpu b", "'a=gpu b' is no server"),
        ("me@gpu b", "'me@gpu b' is no server"),
        ("a=", "'a=' is no server"),
        ("a=gpu:99999", "'a=gpu:99999' is no server"),
        ("gpu:s3cret", "'…' is no server"),
        ("a=me:s3cret=s3cret@gpu b:22", "'…@gpu b' is no server"),
        ("me:s3cret@gpu b", "'…@gpu b' is no server"),
    ],
)
def test_a_text_that_is_no_server_is_named_but_for_what_may_be_a_password(text: str, shown: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_server(text)
    assert caught.value.message.startswith(shown)
    assert "s3cret" not in str(caught.value)
