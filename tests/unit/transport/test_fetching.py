"""A download to this machine: told as it goes, and checked."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from typing import TYPE_CHECKING

import pytest

from remote_launch.transport.fetching import fetch_here
from remote_launch.transport.process import Cancel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address on loopback, host and port, where installer.sh is."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "installer.sh").write_bytes(b"echo installed")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_login_in_the_address_is_never_told(place: str, tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "cache" / "installer.sh"
    url = f"http://me:sesame@{place}/installer.sh?token=hush"
    got = fetch_here(url, path, None, told.append, Cancel())
    assert got["sha256"] == hashlib.sha256(b"echo installed").hexdigest()
    assert path.read_bytes() == b"echo installed"
    assert any(place in line for line in told)
    assert not any("sesame" in line or "hush" in line for line in told)


def test_what_fails_is_said_without_the_login(place: str, tmp_path: Path) -> None:
    url = f"http://me:sesame@{place}/absent.sh"
    got = fetch_here(url, tmp_path / "absent.sh", None, lambda _line: None, Cancel())
    assert "404" in got["message"]
    assert "sesame" not in got["message"]
