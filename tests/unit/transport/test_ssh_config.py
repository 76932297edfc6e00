from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from remote_launch.transport.ssh_config import load_ssh_config

if TYPE_CHECKING:
    from pathlib import Path


def test_included_files_are_read_in_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".ssh" / "conf.d"
    folder.mkdir(parents=True)
    (folder / "b.conf").write_text("Host gpu1\n  Port 2\n")
    (folder / "a.conf").write_text("Host gpu1\n  Port 1\n  User a\n")
    (tmp_path / "more config").write_text("Host gpu1\n  HostName one.example\n")
    config = tmp_path / "config"
    more = f'include="{tmp_path}/more config"'
    config.write_text(f"Include conf.d/*.conf no/such/file\n{more}\nHost gpu1\n  User last\n")
    options = load_ssh_config(config).lookup("gpu1")
    assert {name: options[name] for name in ("hostname", "port", "user")} == {
        "hostname": "one.example", "port": "1", "user": "a",
    }


def test_a_file_that_includes_itself_ends(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Include {config}\nHost gpu1\n  Port 7\n")
    assert load_ssh_config(config).lookup("gpu1")["port"] == "7"


def test_without_a_file_the_users_own_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_ssh_config(None).lookup("gpu1")["hostname"] == "gpu1"
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host gpu1\n  HostName mine.example\n")
    assert load_ssh_config(None).lookup("gpu1")["hostname"] == "mine.example"


def test_a_given_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_ssh_config(tmp_path / "none")
