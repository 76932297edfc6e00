"""The inventory: what loads, what it becomes, and what each mistake is answered with."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from remote_launch.core import schema
from remote_launch.core.inventory import DEFAULT_MANAGER, Environment, Inventory, Sync, load_inventory
from remote_launch.core.project import Project
from remote_launch.errors import ConfigError, UnknownServerError

ROOT = Path(__file__).parents[3]

LABML_SAMPLE = """\
name: sample
scripts_folder: .remote/scripts
logs_folder: .remote/our-logs
jobs_folder: .remote/our-jobs
exclude_file: .remote/our-exclude.txt
remote_scripts_folder_name: .remote-scripts
remote_jobs_folder_name: .our-jobs
servers:
  primary:
    hostname: 203.0.113.53
    private_key: ./.remote/private_key
    username: ubuntu
    password:
  secondary:
    hostname: 203.0.113.54
    private_key:
    password: "pa$$ word"
  3:
    hostname: 203.0.113.55
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "proj"
    (root / ".remote").mkdir(parents=True)
    return Project(root=root)


def load(project: Project, text: str) -> Inventory:
    project.config.write_text(text, encoding="utf-8")
    return load_inventory(project)


def refused(project: Project, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(project, text)
    assert str(project.config) in caught.value.message
    return caught.value


class TestLabmlFiles:
    def test_loads_unchanged(self, project: Project) -> None:
        inventory = load(project, LABML_SAMPLE)
        assert inventory.name == "sample"
        assert list(inventory.servers) == ["primary", "secondary", "3"]
        primary, secondary, third = inventory.select()
        assert primary.private_key == project.root / ".remote" / "private_key"
        assert primary.username == "ubuntu"
        assert (primary.password, primary.transport) == (None, "openssh")
        assert (secondary.password, secondary.transport) == ("pa$$ word", "fabric")
        assert (secondary.username, secondary.private_key) == (None, None)
        assert third.hostname == "203.0.113.55"
        assert {server.workdir for server in inventory.select()} == {"~/sample"}

    def test_its_folders_move(self, project: Project) -> None:
        inventory = load(project, LABML_SAMPLE)
        assert inventory.project.logs_dir == project.root / ".remote/our-logs"
        assert inventory.project.jobs_dir == project.root / ".remote/our-jobs"
        assert inventory.project.exclude_file == project.root / ".remote/our-exclude.txt"
        assert inventory.jobs_folder_name == ".our-jobs"
        assert inventory.project.config == project.config

    def test_its_smallest_file(self, project: Project) -> None:
        inventory = load(project, "servers:\n  a:\n    hostname: h\n")
        assert inventory.name == "proj"
        assert inventory.jobs_folder_name == ".jobs"
        assert inventory.project == project


class TestValues:
    def test_what_is_not_said(self, project: Project) -> None:
        inventory = load(project, "servers: {a: {hostname: h}}")
        server = inventory.servers["a"]
        assert (server.username, server.port, server.private_key, server.address, server.ssh_config) == (
            None,
        ) * 5
        assert (server.workdir, server.transport, server.connection) == ("~/proj", "openssh", "ssh")
        assert server.connect_timeout_s == 10
        assert server.environment == Environment(manager=DEFAULT_MANAGER, name="proj_env")
        assert inventory.sync == Sync()
        assert inventory.path == project.config

    def test_every_key(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        inventory = load(
            project,
            """\
name: other
servers:
  a:
    hostname: gpu-b
    username: me
    port: 2222
    private_key: ~/.ssh/key
    transport: fabric
    address: 10.0.0.12
    workdir: /scratch/me/proj/
    nproc_per_node: gpu
    env: {NCCL_DEBUG: WARN, N: 0x10, ON: true, VERSION: 1.10, EMPTY: "", DAY: 2024-01-01}
    properties: {rack: 3, tags: [a, b]}
    python: 3.10
    ssh_config: ssh/config
    connect_timeout_s: 3
environment:
  {manager: uv, python: 3.10, requirements: ./req.txt, pip_args: [--pre, -v], name: e, prefix: ~/envs/e}
sync:
  {gitignore: true, exclude: [data/, "*.ckpt"], compress: false, max_warn_bytes: 1.5 GB, max_warn_files: 10}
""",
        )
        server = inventory.servers["a"]
        assert server.private_key == Path("/home/me/.ssh/key")
        assert server.ssh_config == project.root / "ssh" / "config"
        assert server.workdir == "/scratch/me/proj"
        assert (server.nproc_per_node, server.port, server.address) == ("gpu", 2222, "10.0.0.12")
        assert server.env == {
            "NCCL_DEBUG": "WARN",
            "N": "0x10",
            "ON": "true",
            "VERSION": "1.10",
            "EMPTY": "",
            "DAY": "2024-01-01",
        }
        assert server.properties == {"rack": 3, "tags": ["a", "b"]}
        assert server.python == "3.10"
        assert server.environment == Environment(
            manager="uv",
            python="3.10",
            requirements="req.txt",
            pip_args=("--pre", "-v"),
            name="e",
            prefix="~/envs/e",
        )
        assert inventory.sync == Sync(
            gitignore=True,
            exclude=("data/", "*.ckpt"),
            compress=False,
            max_warn_bytes=1_500_000_000,
            max_warn_files=10,
        )

    @pytest.mark.parametrize(("text", "value"), [("4", 4), ("gpu", "gpu"), ("cpu", "cpu"), ("auto", "auto")])
    def test_nproc_per_node(self, project: Project, text: str, value: object) -> None:
        assert (
            load(project, f"servers: {{a: {{hostname: h, nproc_per_node: {text}}}}}")
            .servers["a"]
            .nproc_per_node
            == value
        )

    def test_defaults_are_under_what_a_server_says(self, project: Project) -> None:
        inventory = load(
            project,
            """\
defaults:
  username: ubuntu
  port: 22
  env: {A: 1, B: 1}
  properties: {x: 1}
servers:
  a: {hostname: h}
  b: {hostname: h, username: me, port: 23, env: {B: 2, C: 2}, properties: {y: 2}}
  c: {hostname: h, username: null}
  d: you@h
  e: h
""",
        )
        users = {name: (server.username, server.port) for name, server in inventory.servers.items()}
        assert users == {
            "a": ("ubuntu", 22),
            "b": ("me", 23),
            "c": (None, 22),
            "d": ("you", 22),
            "e": ("ubuntu", 22),
        }
        assert inventory.servers["a"].env == {"A": "1", "B": "1"}
        assert inventory.servers["b"].env == {"A": "1", "B": "2", "C": "2"}
        assert inventory.servers["b"].properties == {"x": 1, "y": 2}

    @pytest.mark.parametrize(
        ("text", "login"),
        [
            ("h", (None, "h", None)),
            ("u@h", ("u", "h", None)),
            ("u@10.0.0.5:2222", ("u", "10.0.0.5", 2222)),
            ("h:22", (None, "h", 22)),
            ("u@[fe80::1%eth0]:22", ("u", "fe80::1%eth0", 22)),
            ("'[::1]'", (None, "::1", None)),
            ("fe80::1", (None, "fe80::1", None)),
        ],
    )
    def test_short_form(self, project: Project, text: str, login: tuple[object, ...]) -> None:
        server = load(project, f"servers:\n  a: {text}\n").servers["a"]
        assert (server.username, server.hostname, server.port) == login

    def test_anchors_and_merges(self, project: Project) -> None:
        inventory = load(
            project,
            """\
servers:
  a: &a {hostname: h, port: 1}
  b: {<<: *a, port: 2}
  c: {hostname: i, <<: [*a]}
  d: *a
""",
        )
        ports = [(server.hostname, server.port) for server in inventory.select()]
        assert ports == [("h", 1), ("h", 2), ("i", 1), ("h", 1)]

    def test_a_byte_order_mark_is_no_text(self, project: Project) -> None:
        assert load(project, "\ufeffservers: {a: h}\n").select()[0].name == "a"

    def test_without_libyaml(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        import yaml

        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
        assert load(project, LABML_SAMPLE).name == "sample"
        assert refused(project, "servers:\n\ta: h\n").line == 2
        assert refused(project, "servers: {a: h\n").message.endswith("a '{' without its '}'")
        assert refused(project, "servers: \x01\n").line == 1


class TestTargets:
    @pytest.mark.parametrize(
        ("entry", "transport"),
        [
            ("{hostname: h}", "openssh"),
            ("{hostname: h, connection: ssh}", "openssh"),
            ("{hostname: h, transport: openssh}", "openssh"),
            ("{hostname: h, transport: fabric}", "fabric"),
            ("{hostname: h, password: p}", "fabric"),
            ("{connection: local}", "local"),
            ("{transport: local}", "local"),
            ("{connection: local, password: p}", "local"),
            ("{connection: local, transport: fabric}", "local"),
        ],
    )
    def test_transport(self, project: Project, entry: str, transport: str) -> None:
        server = load(project, f"servers: {{a: {entry}}}").servers["a"]
        assert (server.transport, server.target.transport) == (transport, transport)
        assert server.connection == ("local" if transport == "local" else "ssh")

    def test_target(self, project: Project) -> None:
        server = load(
            project, "servers: {a: {hostname: h, username: u, port: 5, private_key: k, password: p}}"
        ).servers["a"]
        target = server.target
        assert (target.name, target.hostname, target.username, target.port) == ("a", "h", "u", 5)
        assert (target.private_key, target.password) == (project.root / "k", "p")
        assert (target.ssh_config, target.connect_timeout_s) == (None, 10)

    def test_local_servers_have_folders_of_their_own(self, project: Project) -> None:
        inventory = load(
            project, "name: p\nservers: {l1: {connection: local}, l2: {connection: local, workdir: /w}}"
        )
        assert [server.workdir for server in inventory.select()] == ["~/.remote_launch/local/p/l1", "/w"]
        assert inventory.servers["l1"].hostname == "localhost"

    @pytest.mark.parametrize("spelled", ["hunter2", "'hunter2'", "0123456789"])
    def test_the_password_is_in_no_repr(self, project: Project, spelled: str) -> None:
        inventory = load(
            project, f"servers: {{a: {{hostname: h, password: {spelled}, env: {{API_KEY: s3cret}}}}}}"
        )
        server = inventory.servers["a"]
        assert server.password == spelled.strip("'")
        shown = repr(inventory) + repr(server) + repr(server.target)
        assert "hunter2" not in shown
        assert "0123456789" not in shown
        assert "s3cret" not in shown


class TestSelect:
    TEXT = "servers: {c: h, a: h, gpu-b: h}"

    def test_all_in_the_order_of_the_file(self, project: Project) -> None:
        assert [server.name for server in load(project, self.TEXT).select([])] == ["c", "a", "gpu-b"]

    def test_some_in_the_order_of_the_file_each_once(self, project: Project) -> None:
        assert [server.name for server in load(project, self.TEXT).select(["gpu-b", "c", "c"])] == [
            "c",
            "gpu-b",
        ]

    def test_unknown(self, project: Project) -> None:
        with pytest.raises(UnknownServerError, match="did you mean 'gpu-b'") as caught:
            load(project, self.TEXT).select(["gpu-d"])
        assert caught.value.exit_code == 2
        assert caught.value.hint == "known servers: c, a, gpu-b"


SERVER = "servers:\n  gpu1:\n    hostname: h\n    {}\n"
MISTAKES = [
    # the text, the line, the key, what the message says
    (SERVER.format("prot: 22"), 4, "servers.gpu1.prot", "unknown key, did you mean 'port'?"),
    (
        SERVER.format('port: "22"'),
        4,
        "servers.gpu1.port",
        "expected a whole number from 1 to 65535, found the text '22'",
    ),
    (SERVER.format("port: 0"), 4, "servers.gpu1.port", "found 0"),
    (SERVER.format("port: 65536"), 4, "servers.gpu1.port", "found 65536"),
    (SERVER.format("port: true"), 4, "servers.gpu1.port", "found true"),
    (SERVER.format("port: 022"), 4, "servers.gpu1.port", "found 022"),
    (SERVER.format("port: 22:30"), 4, "servers.gpu1.port", "found 22:30"),
    (SERVER.format("port: 22.0"), 4, "servers.gpu1.port", "found 22.0"),
    (SERVER.format("port: [22]"), 4, "servers.gpu1.port", "found a list"),
    (SERVER.format("port:\n      a: 1"), 4, "servers.gpu1.port", "found a mapping"),
    (SERVER.format("port: " + "9" * 5000), 4, "servers.gpu1.port", "expected a whole number"),
    (SERVER.format("username: yes"), 4, "servers.gpu1.username", "expected a login name, found yes"),
    (SERVER.format("username: a b"), 4, "servers.gpu1.username", "not a login name"),
    (SERVER.format("username: -oX"), 4, "servers.gpu1.username", "not a login name"),
    (SERVER.format('username: ""'), 4, "servers.gpu1.username", "is empty"),
    (SERVER.format("private_key: [a]"), 4, "servers.gpu1.private_key", "expected text, found a list"),
    (SERVER.format('private_key: "a\\nb"'), 4, "servers.gpu1.private_key", "control character"),
    (SERVER.format("password: [hunter2]"), 4, "servers.gpu1.password", "found a list"),
    (
        SERVER.format("password: x\n    transport: openssh"),
        2,
        "servers.gpu1.password",
        "can't log in by password",
    ),
    (
        SERVER.format("transport: paramiko"),
        4,
        "servers.gpu1.transport",
        "expected one of openssh, fabric, local",
    ),
    (SERVER.format("connection: locale"), 4, "servers.gpu1.connection", "did you mean 'local'?"),
    (SERVER.format("address: 10.0.0.1/24"), 4, "servers.gpu1.address", "expected an address"),
    (SERVER.format("nproc_per_node: 0"), 4, "servers.gpu1.nproc_per_node", "or gpu, cpu, auto, found 0"),
    (SERVER.format("nproc_per_node: gpus"), 4, "servers.gpu1.nproc_per_node", "found the text 'gpus'"),
    (SERVER.format("env: [A=1]"), 4, "servers.gpu1.env", "expected a mapping of variables"),
    (SERVER.format("env:\n      A: [1]"), 5, "servers.gpu1.env.A", "expected text or a number, found a list"),
    (SERVER.format("env:\n      A:"), 5, "servers.gpu1.env.A", "has no value"),
    (
        SERVER.format("env:\n      A-B: 1"),
        5,
        "servers.gpu1.env.A-B",
        "not the name of an environment variable",
    ),
    (SERVER.format('env: {A: "\\0"}'), 4, "servers.gpu1.env.A", "NUL"),
    (SERVER.format("properties: 3"), 4, "servers.gpu1.properties", "expected a mapping"),
    (SERVER.format("connect_timeout_s: 1.5"), 4, "servers.gpu1.connect_timeout_s", "found 1.5"),
    (SERVER.format("hostname: i"), 4, "servers.gpu1.hostname", "key given twice, first on line 3"),
    ("servers:\n  a: {}\n", 2, "servers.a.hostname", "is missing"),
    ("servers:\n  a: {hostname: }\n", 2, "servers.a.hostname", "is missing"),
    ("servers:\n  a:\n", 2, "servers.a", "expected a mapping or user@host:port, found nothing"),
    ("servers:\n  a: 3\n", 2, "servers.a", "found 3"),
    ("servers:\n  a: [h]\n", 2, "servers.a", "found a list"),
    ("servers:\n  a: h:99999\n", 2, "servers.a", "the port is not a number"),
    ("servers:\n  a: u:hunter2@h\n", 2, "servers.a", "no password in the short form"),
    ("servers:\n  a: '@h'\n", 2, "servers.a", "the user name is empty"),
    ("servers:\n  a: {hostname: u@h}\n", 2, "servers.a.hostname", "the user goes under username:"),
    ("servers:\n  a: {hostname: 'h:22'}\n", 2, "servers.a.hostname", "the port goes under port:"),
    ("servers:\n  a: {hostname: -oProxyCommand=x}\n", 2, "servers.a.hostname", "not a hostname"),
    ("servers:\n  a: {hostname: '$(x)'}\n", 2, "servers.a.hostname", "not a hostname"),
    ("servers:\n  a b: h\n", 2, "servers.a b", "a server's name is letters, digits"),
    ("servers:\n  a: h\n  ../x: h\n", 3, "servers.../x", "a server's name"),
    ("servers:\n  a: h\n  b: h\n  a: i\n", 4, "servers.a", "key given twice, first on line 2"),
    ("servers: [a, b]\n", 1, "servers", "expected a mapping of names to servers, found a list"),
    ("defaults:\n  usrname: u\nservers: {a: h}\n", 2, "defaults.usrname", "did you mean 'username'?"),
    ("defaults: 3\nservers: {a: h}\n", 1, "defaults", "expected a mapping"),
    ("server: {a: h}\n", 1, "server", "unknown key, did you mean 'servers'?"),
    ("name: a b\nservers: {a: h}\n", 1, "name", "expected a folder's name"),
    ("name: ..\nservers: {a: h}\n", 1, "name", "expected a folder's name"),
    ("servers: {a: h}\nenvironment:\n  manager: uvv\n", 3, "environment.manager", "did you mean 'uv'?"),
    (
        "servers: {a: h}\nenvironment: uv\n",
        2,
        "environment",
        "expected a mapping (key: value), found the text 'uv'",
    ),
    (
        "servers: {a: h}\nenvironment:\n  pip_args:\n    - -v\n    - true\n",
        5,
        "environment.pip_args.1",
        "expected text",
    ),
    ("servers: {a: h}\nenvironment: {requirements: ../r.txt}\n", 2, "environment.requirements", "a file of"),
    ("servers: {a: h}\nsync: {exclude: data}\n", 2, "sync.exclude", "expected a list of texts"),
    ("servers: {a: h}\nlaunch: {max_restarts: many}\n", 2, "launch.max_restarts", "expected a whole number"),
    ("servers: {a: h}\nlaunch: {stall_timeout: 0}\n", 2, "launch.stall_timeout", "expected a whole number"),
    ("servers: {a: h}\nsync: {gitignore: 1}\n", 2, "sync.gitignore", "expected true or false, found 1"),
    ("servers: {a: h}\nsync: {max_warn_bytes: lots}\n", 2, "sync.max_warn_bytes", "expected a size"),
    (
        "servers: {a: h}\nremote_jobs_folder_name: a/b\n",
        2,
        "remote_jobs_folder_name",
        "expected a folder's name",
    ),
    ("- a\n", 1, None, "expected a mapping (key: value), found a list"),
    ("hello\n", 1, None, "found the text 'hello'"),
    ("", None, "servers", "no servers"),
    ("# nothing yet\n", None, "servers", "no servers"),
    ("name: x\n", None, "servers", "no servers"),
    ("name: x\nservers:\n", 2, "servers", "no servers"),
    ("servers: {}\n", 1, "servers", "no servers"),
]
BAD_WORKDIRS = [
    "/",
    "//",
    "'~'",
    "~/",
    "~/.",
    "~/../x",
    "/a/../..",
    "relative",
    "~user/x",
    "$HOME/x",
    "''",
    "3",
]
BROKEN = [
    ("servers:\n\ta: h\n", 2, "a tab"),
    ("servers:\n  a: {hostname: h\n  b: h\n", 3, "a '{' without its '}'"),
    ("servers: [a\n", 2, "a '[' without its ']'"),
    ("name: 'x\n", None, "a quoted text without its closing quote"),
    ("name: a: b\n", 1, "a ':' where none can be"),
    ("servers:\n  a:\n    hostname: h\n   port: 1\n", 4, "indentation"),
    ("servers:\n  a: {hostname: h} x\n", 2, "indentation"),
    ("name: p\nservers\nsync: {}\n", 3, "no 'key: value'"),
    ("servers:\n  a: *b\n", 2, "an alias"),
    ("servers:\n  a: !python/object:os.system x\n", 2, "a tag (!...)"),
    ("name: a\n---\nname: b\n", 2, "a second document"),
    ("name: \x07\n", 1, "a control character"),
    ("a: &a\n  - *a\n", 1, "an anchor that contains itself"),
    ("{a: 1}: b\n", 1, "a key must be a plain word"),
    ("servers:\n  a: {<<: 3}\n", 2, "expected a mapping or a list of mappings"),
    ("[" * 3000 + "]" * 3000, None, "nested too deeply"),
]


class TestMistakes:
    @pytest.mark.parametrize(("text", "line", "key", "words"), MISTAKES, ids=lambda value: str(value)[-40:])
    def test_names_file_line_and_key(
        self,
        project: Project,
        text: str,
        line: int | None,
        key: str | None,
        words: str,
    ) -> None:
        error = refused(project, text)
        assert (error.line, error.key) == (line, key)
        assert error.path == project.config
        assert words in error.message
        assert error.message.startswith(f"{project.config}:{line}: " if line else f"{project.config}: ")
        assert "hunter2" not in error.message + (error.hint or "")

    @pytest.mark.parametrize("workdir", BAD_WORKDIRS)
    def test_workdirs_that_could_do_harm(self, project: Project, workdir: str) -> None:
        error = refused(project, SERVER.format(f"workdir: {workdir}"))
        assert (error.line, error.key) == (4, "servers.gpu1.workdir")

    @pytest.mark.parametrize(("text", "line", "words"), BROKEN, ids=lambda value: str(value)[:30])
    def test_broken_yaml(self, project: Project, text: str, line: int | None, words: str) -> None:
        error = refused(project, text)
        if line is not None:
            assert error.line == line
        assert words in error.message
        assert error.hint

    def test_all_mistakes_at_once_by_line(self, project: Project) -> None:
        error = refused(
            project, "servers:\n  a: {hostname: h, prot: 1}\n  b: {port: x, hostname: h}\nsink: {}\n"
        )
        where = re.findall(r"^.*?configs\.yaml:(\d+): (\S+):", error.message, re.MULTILINE)
        assert where == [("2", "servers.a.prot"), ("3", "servers.b.port"), ("4", "sink")]
        assert (error.line, error.key) == (2, "servers.a.prot")

    def test_with_several_mistakes_each_next_step_names_its_line(self, project: Project) -> None:
        text = 'servers:\n  a: {hostname: h, port: "22"}\n  b: {hostname: h, port: "23"}\n  c: {port: x}\n'
        hints = (refused(project, text).hint or "").splitlines()
        assert hints == [
            "line 2: write the number without quotes",
            "line 3: write the number without quotes",
            "line 4: an address, or an alias of ~/.ssh/config",
        ]

    def test_a_wrong_default_is_said_once(self, project: Project) -> None:
        error = refused(project, "defaults: {hostname: -x}\nservers: {a: {}, b: {}}\n")
        assert error.key == "defaults.hostname"
        assert "\n" not in error.message

    def test_a_hint_for_a_quoted_number(self, project: Project) -> None:
        assert refused(project, SERVER.format('port: "22"')).hint == "write the number without quotes"

    def test_no_file(self, project: Project) -> None:
        with pytest.raises(ConfigError, match="no such file") as caught:
            load_inventory(project)
        assert "rl init" in (caught.value.hint or "")

    def test_a_folder_in_its_place(self, project: Project) -> None:
        project.config.mkdir()
        with pytest.raises(ConfigError, match="can't be read"):
            load_inventory(project)

    def test_not_utf8(self, project: Project) -> None:
        project.config.write_bytes(b"name: x\nservers: \xff\n")
        with pytest.raises(ConfigError, match="not UTF-8") as caught:
            load_inventory(project)
        assert caught.value.line == 2

    def test_a_folder_name_that_names_no_workdir(self, tmp_path: Path) -> None:
        project = Project(root=tmp_path / "my project")
        project.remote_dir.mkdir(parents=True)
        error = refused(project, "servers: {a: h}\n")
        assert error.key == "name"
        assert "'my project'" in error.message
        assert load(project, "name: mine\nservers: {a: h}\n").name == "mine"


def _documented(heading: str) -> set[str]:
    """The keys of the table under a heading of docs/inventory.md."""
    text = (ROOT / "docs" / "inventory.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"(?m)^\| `([a-z0-9_]+)` \|", section))


class TestDocs:
    @pytest.mark.parametrize(
        ("heading", "table"),
        [
            ("The file", schema.INVENTORY_KEYS),
            ("A server", schema.SERVER_KEYS),
            ("The environment", schema.ENVIRONMENT_KEYS),
            ("The sync", schema.SYNC_KEYS),
            ("The launch", schema.LAUNCH_KEYS),
        ],
    )
    def test_every_key_is_documented(self, heading: str, table: dict[str, object]) -> None:
        assert _documented(heading) == set(table)

    def test_the_examples_load(self, project: Project) -> None:
        text = (ROOT / "docs" / "inventory.md").read_text(encoding="utf-8")
        examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        assert len(examples) >= 2
        for example in examples:
            assert load(project, example).servers


def test_importing_the_inventory_leaves_yaml_alone() -> None:
    import subprocess

    code = "import sys, remote_launch.core.inventory; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


class TestOutputs:
    def test_are_paths_in_the_workdir(self, project: Project) -> None:
        assert load(project, "servers: {a: h}\noutputs: [checkpoints/, 'runs/*/last.pt']\n").outputs == (
            "checkpoints/", "runs/*/last.pt"
        )
        assert load(project, "servers: {a: h}\noutputs:\n").outputs == ()

    def test_those_that_each_node_writes_for_itself(self, project: Project) -> None:
        text = (
            "servers: {a: h}\noutputs:\n  - ck/\n  - path: ck/shards\n    per_node: true\n"
            "  - {path: runs, per_node: }\n"
        )
        inventory = load(project, text)
        assert inventory.outputs == ("ck/", "ck/shards", "runs")
        assert inventory.per_node_outputs == ("ck/shards",)

    @pytest.mark.parametrize(("item", "key", "words"), [
        ("{path: ck, per_nod: true}", "outputs.1.per_nod", "did you mean 'per_node'"),
        ("{per_node: true}", "outputs.1", "path is missing"),
        ("{path: ck, per_node: 'yes'}", "outputs.1.per_node", "expected true or false, found the text 'yes'"),
        ("{path: ../ck, per_node: true}", "outputs.1.path", "'..' is not followed"),
        ("{path: , per_node: true}", "outputs.1.path", "expected text, found nothing"),
        ("[ck]", "outputs.1", "expected text, found a list"),
    ])
    def test_what_such_an_entry_can_not_be(
        self, project: Project, item: str, key: str, words: str
    ) -> None:
        error = refused(project, f"servers: {{a: h}}\noutputs:\n  - good\n  - {item}\n")
        assert (error.line, error.key) == (4, key)
        assert words in str(error)

    @pytest.mark.parametrize("text", ["../up", "/abs", "'*'", ".rl/env", ".", "'x[z-a]'"])
    def test_others_are_refused_by_name(self, project: Project, text: str) -> None:
        error = refused(project, f"servers: {{a: h}}\noutputs:\n  - good\n  - {text}\n")
        assert (error.line, error.key) == (4, "outputs.1")
        assert text.strip("'") in error.message
