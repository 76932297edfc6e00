"""An inventory that was parsed before is read back the same, with no YAML parser; secrets are not kept."""

from __future__ import annotations

import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from remote_launch.core import parsed
from remote_launch.core.inventory import load_inventory
from remote_launch.core.parsed import parse_kept
from remote_launch.core.project import Project
from remote_launch.core.yaml_lines import Node, parse_yaml
from remote_launch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
name: p
defaults: &d {username: ubuntu, port: 22}
environment: {manager: uv, python: 3.10, packages: [numpy, "a: b"]}
servers:
  gpu-a:
    <<: *d
    hostname: 10.0.0.5
    private_key: ./key
    env: {LR: 1e-3, EMPTY: "", ON: yes, NONE: ~}
    properties: {rack: [1, [2, .inf], {}], ü: "ü\\n"}
  gpu-b: ubuntu@10.0.0.6:2222
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / ".remote").mkdir()
    return tmp_path / ".remote" / "configs.yaml"


def kept(config: Path) -> Path:
    return config.parent / "cache" / "inventory.json"


def no_parser(*_: object) -> Node:
    raise AssertionError("parsed again")


def test_what_was_kept_is_what_was_parsed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = parse_kept(TEXT, config)
    monkeypatch.setattr(parsed, "parse_yaml", no_parser)
    assert parse_kept(TEXT, config) == first == parse_yaml(TEXT, config)
    assert stat.S_IMODE(kept(config).stat().st_mode) == 0o600
    assert (kept(config).parent / ".gitignore").read_text() == "*\n"


def test_another_text_is_parsed(config: Path) -> None:
    parse_kept(TEXT, config)
    for text in ("name: q\n", TEXT.replace("10.0.0.5", "10.0.0.7"), TEXT):
        assert parse_kept(text, config) == parse_yaml(text, config)
    with pytest.raises(ConfigError):
        parse_kept("a: [", config)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"key": 1', '{"key": KEY}', '{"key": KEY, "top": [1]}'])
def test_rubbish_there_is_no_hindrance(config: Path, content: str) -> None:
    parse_kept(TEXT, config)
    key = kept(config).read_text().partition('"key": ')[2].partition(",")[0]
    kept(config).write_text(content.replace("KEY", key))
    assert parse_kept(TEXT, config) == parse_yaml(TEXT, config)


@pytest.mark.parametrize(
    "text",
    [
        "servers: {a: {hostname: b, password: hunter2}}\n",
        "servers: {a: {hostname: b, password_command: pass show b}}\n",
        "servers: {a: {hostname: b, env: {WANDB_API_KEY: hunter2}}}\n",
        "on_finish: curl -d done https://hooks.example/T0/B0/hunter2\n",
        "environment: {index_url: 'https://me:hunter2@host/simple'}\n",
        "environment: {pip_args: [--index-url, 'https://me:hunter2@host/simple']}\n",
    ],
)
def test_secrets_are_not_kept(config: Path, text: str) -> None:
    assert parse_kept(text, config) == parse_yaml(text, config)
    assert not kept(config).exists()


def test_what_was_kept_goes_when_a_secret_comes(config: Path) -> None:
    parse_kept(TEXT, config)
    text = TEXT + "  gpu-c: {hostname: c, password: hunter2}\n"
    assert parse_kept(text, config) == parse_yaml(text, config)
    assert "hunter2" not in kept(config).read_text()


@pytest.mark.parametrize("text", ["at: 2024-02-03\n", "of: !!set {a, b}\n"])
def test_values_that_json_lacks_are_parsed_each_time(config: Path, text: str) -> None:
    for _ in range(2):
        assert parse_kept(text, config) == parse_yaml(text, config)


def test_aliases_of_aliases_are_not_written_out(config: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 7)]
    text = "\n".join(lines)
    parse_kept(text, config)
    assert not kept(config).exists()


def test_a_folder_that_cannot_be_written_is_no_hindrance(config: Path) -> None:
    (config.parent / "cache").write_text("a file")
    assert parse_kept(TEXT, config) == parse_yaml(TEXT, config)


def test_no_yaml_is_imported_the_second_time(config: Path) -> None:
    config.write_text(TEXT.replace(", NONE: ~", ""))
    load_inventory(Project(root=config.parent.parent))
    code = (
        "import sys; from pathlib import Path; from remote_launch.core.inventory import load_inventory;"
        "from remote_launch.core.project import Project; load_inventory(Project(root=Path(sys.argv[1])));"
        "assert 'yaml' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(config.parent.parent)], check=True, timeout=60)
