"""Downloads from a real server on loopback that does what servers and proxies do to them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import socket
import subprocess
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from remote_launch.remote import download, web
from remote_launch.remote.download import DownloadError, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = random.Random(7).randbytes(300_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
PATIENCE_S = 60.0


class Web:
    """What the server has and how it behaves; what it was asked and how much it sent."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"/f": BODY}
        self.etag: str | None = '"1"'
        self.ranges = True
        self.lengths = True
        self.chunked = False
        self.break_after: list[int] = []  # per answer with a body: drop the connection after so many bytes
        self.stall_after: list[int] = []
        self.status: list[int] = []
        self.extra_length = 0
        self.redirects: dict[str, str] = {}
        self.login: str | None = None
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.done = threading.Event()
        self.address = ""

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


class Handler(BaseHTTPRequestHandler):
    web: Web

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        server, wanted = self.web, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        if self.path in server.redirects:
            return self.answer(302, {"Location": server.redirects[self.path]})
        body = server.files.get(self.path)
        if body is None:
            return self.answer(404)
        if server.status:
            return self.answer(server.status.pop(0))
        if server.login and self.headers.get("Authorization") != server.login:
            return self.answer(401)
        headers = {} if server.etag is None else {"ETag": server.etag}
        if wanted and server.ranges and self.headers.get("If-Range") in (None, server.etag):
            start = int(wanted[len("bytes="):-1])
            if start >= len(body):
                return self.answer(416, {"Content-Range": f"bytes */{len(body)}"})
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.deliver(206, headers, body[start:])
        return self.deliver(200, headers, body)

    def answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def deliver(self, status: int, headers: dict[str, str], body: bytes) -> None:
        server = self.web
        if server.chunked:
            headers["Transfer-Encoding"] = "chunked"
            self.protocol_version = "HTTP/1.1"
        elif server.lengths:
            headers["Content-Length"] = str(len(body) + server.extra_length)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        stalls = bool(server.stall_after)
        cuts = server.stall_after if stalls else server.break_after
        cut = cuts.pop(0) if cuts else None
        whole, body = cut is None, body[:cut]
        server.sent += len(body)
        with contextlib.suppress(OSError):
            if server.chunked:
                for at in range(0, len(body), 5000):
                    part = body[at:at + 5000]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.write(b"0\r\n\r\n" if whole else b"")
            else:
                self.wfile.write(body)
            self.wfile.flush()
        if stalls:
            server.done.wait(PATIENCE_S)
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(download, "BACKOFF_S", 0.001)
    told = Web()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"web": told}))
    httpd.daemon_threads = False
    told.address = f"127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield told
    told.done.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def url(server: Web) -> str:
    return f"http://{server.address}/f"


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "file"


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failure(*arguments: Any, **options: Any) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        fetch(*map(str, arguments), **options)
    return caught.value


def test_a_file_is_fetched_once(url: str, dest: Path, server: Web) -> None:
    told: list[tuple[int, int | None]] = []
    answer = fetch(url, str(dest), DIGEST.upper(), lambda *now: told.append(now))
    assert answer == {
        "path": str(dest), "size_bytes": len(BODY), "sha256": DIGEST, "verified": True, "cached": False
    }
    assert dest.read_bytes() == BODY
    assert left_in(dest.parent) == ["file", "file.sha256"]
    assert (told[0], told[-1]) == ((0, len(BODY)), (len(BODY), len(BODY)))
    assert server.asked == [("/f", None)]
    for wanted in (DIGEST, None):
        assert fetch(url, str(dest), wanted)["cached"] is True
    assert len(server.asked) == 1


def test_a_cached_file_that_was_changed_is_fetched_anew(url: str, dest: Path) -> None:
    fetch(url, str(dest), DIGEST)
    dest.write_bytes(b"x" + BODY[1:])
    assert fetch(url, str(dest), DIGEST)["cached"] is False
    assert dest.read_bytes() == BODY


def test_the_mark_of_another_url_does_not_count(url: str, dest: Path, server: Web) -> None:
    server.files["/g"] = b"other"
    fetch(url, str(dest), DIGEST)
    assert fetch(url.replace("/f", "/g"), str(dest))["verified"] is False
    assert dest.read_bytes() == b"other"
    assert left_in(dest.parent) == ["file"]


@pytest.mark.parametrize("etag", ['"1"', None])
def test_a_dropped_connection_is_resumed(url: str, dest: Path, server: Web, etag: str | None) -> None:
    server.etag, server.break_after = etag, [150_000, 50_000, 10]
    assert fetch(url, str(dest), DIGEST, attempts=1)["verified"]
    assert dest.read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == [None, "bytes=150000-", "bytes=200000-", "bytes=200010-"]
    assert server.sent == len(BODY)


def test_a_later_call_goes_on_where_the_former_stopped(url: str, dest: Path, server: Web) -> None:
    server.break_after = [150_000, 0, 0]
    assert failure(url, dest, DIGEST, attempts=2).kind == "offline"
    assert not dest.exists()
    assert fetch(url, str(dest), DIGEST)["verified"]
    assert server.sent == len(BODY)


def test_a_part_of_another_version_is_not_built_on(url: str, dest: Path, server: Web) -> None:
    server.break_after = [150_000, 0]
    failure(url, dest, attempts=1)
    server.files["/f"], server.etag = BODY[::-1], '"2"'
    assert fetch(url, str(dest))["verified"] is False
    assert dest.read_bytes() == BODY[::-1]


def test_without_version_and_checksum_it_begins_anew(url: str, dest: Path, server: Web) -> None:
    server.etag, server.break_after = None, [150_000]
    fetch(url, str(dest))
    assert dest.read_bytes() == BODY
    assert {wanted for _, wanted in server.asked} == {None}


def test_a_server_that_ignores_ranges(url: str, dest: Path, server: Web) -> None:
    server.ranges, server.break_after = False, [150_000]
    assert fetch(url, str(dest), DIGEST)["verified"]
    assert server.sent == 150_000 + len(BODY)
    # One that also drops it each time is given up: nothing new came.
    server.break_after = [1000] * 10
    dest.unlink()
    assert failure(url, dest, DIGEST, attempts=3).kind == "offline"
    assert len(server.break_after) == 10 - 4


def test_a_whole_part_is_not_fetched_again(url: str, dest: Path, server: Web) -> None:
    server.break_after = [150_000, 0]
    failure(url, dest, DIGEST, attempts=1)
    (dest.parent / "file.part").write_bytes(BODY)
    before = server.sent
    assert fetch(url, str(dest), DIGEST)["verified"]
    assert server.asked[-1] == ("/f", f"bytes={len(BODY)}-")
    assert server.sent == before
    # One that is too long is no part of it.
    dest.unlink()
    server.break_after = [150_000, 0]
    failure(url, dest, DIGEST, attempts=1)
    (dest.parent / "file.part").write_bytes(BODY + b"x")
    assert fetch(url, str(dest), DIGEST)["verified"]


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_a_short_body_is_never_taken_for_whole(
    url: str, dest: Path, server: Web, digest: str | None
) -> None:
    server.extra_length = 5
    server.ranges = False
    error = failure(url, dest, digest, attempts=2) if digest else failure(url, dest, attempts=2)
    assert error.kind == "offline"
    assert "300000 of 300005 bytes" in str(error)
    assert not dest.exists()


def test_a_chunked_body(url: str, dest: Path, server: Web) -> None:
    server.chunked, server.break_after = True, [100_000]
    fetch(url, str(dest))
    assert dest.read_bytes() == BODY
    assert server.asked[-1] == ("/f", "bytes=100000-")


def test_a_body_of_no_known_length_needs_a_checksum(url: str, dest: Path, server: Web) -> None:
    server.lengths = False
    error = failure(url, dest)
    assert error.kind == "http"
    assert "sha256" in str(error)
    server.break_after = [1000]
    assert failure(url, dest, DIGEST).kind == "checksum"
    assert fetch(url, str(dest), DIGEST)["verified"]


def test_a_wrong_checksum_deletes_the_file(url: str, dest: Path) -> None:
    error = failure(url, dest, "0" * 64)
    assert error.kind == "checksum"
    assert DIGEST in str(error)
    assert left_in(dest.parent) == []
    assert failure(url, dest, "12").kind == "checksum"


def test_the_servers_own_checksum_is_used(url: str, dest: Path, server: Web) -> None:
    server.files["/f.sha256"] = f"{DIGEST}  f\n".encode()
    assert fetch(url, str(dest))["verified"] is True
    assert server.paths == ["/f.sha256", "/f"]
    assert fetch(url, str(dest))["cached"] is True
    assert server.paths == ["/f.sha256", "/f"]
    (dest.parent / "file.sha256").unlink()
    assert fetch(url, str(dest))["cached"] is True
    assert server.paths == ["/f.sha256", "/f", "/f.sha256"]
    server.files["/f.sha256"] = b"0" * 64
    (dest.parent / "file.sha256").unlink()
    assert failure(url, dest).kind == "checksum"
    assert left_in(dest.parent) == ["file"]  # the former one stays
    server.files["/f.sha256"] = b"<html>not here</html>"
    assert fetch(url, str(dest))["verified"] is False


def test_what_the_server_refuses_is_told_at_once(url: str, dest: Path, server: Web) -> None:
    error = failure(url + "x?signature=hidden", dest, DIGEST)
    assert (error.kind, error.status) == ("http", 404)
    assert "hidden" not in str(error)
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(url: str, dest: Path, server: Web) -> None:
    server.status = [503, 500]
    assert fetch(url, str(dest), DIGEST)["verified"]
    server.status = [503] * 9
    error = failure(url.replace("//", "//user:s3cret@"), dest, "1" * 64, attempts=3)
    assert (error.kind, error.status, len(server.status)) == ("http", 503, 6)
    assert "s3cret" not in str(error)


def test_a_server_that_is_not_there(dest: Path, server: Web) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, never listening: refused
        error = failure(f"http://user:s3cret@127.0.0.1:{unused.getsockname()[1]}/f", dest)
    assert error.kind == "offline"
    assert "user" not in str(error)
    assert "refused" in str(error)
    assert failure("http://no-such-host.invalid/f", dest, attempts=1).kind == "offline"


def test_a_stalled_server(url: str, dest: Path, server: Web) -> None:
    server.stall_after = [150_000]
    # More than a busy machine lets the server stand in the second answer.
    assert fetch(url, str(dest), DIGEST, timeout_s=8.0)["verified"]
    assert server.sent == len(BODY), server.asked
    server.stall_after = [0, 0]
    error = failure(url, dest.with_name("other"), DIGEST, timeout_s=0.1, attempts=2)
    assert error.kind == "offline"
    assert "in time" in str(error)


def test_redirects_are_followed(url: str, dest: Path, server: Web) -> None:
    server.redirects = {"/old": "/f", "/round": "/round"}
    server.break_after = [150_000]
    assert fetch(url.replace("/f", "/old"), str(dest), DIGEST)["verified"]
    assert server.sent == len(BODY)
    assert failure(url.replace("/f", "/round"), dest, "1" * 64).kind == "http"
    server.redirects["/file"] = "file:///etc/passwd"
    assert failure(url.replace("/f", "/file"), dest, "1" * 64).kind == "http"


def test_no_redirect_leads_from_https_to_http() -> None:
    request = urllib.request.Request("https://example.org/f")
    with contextlib.closing(open(os.devnull, "rb")) as body, pytest.raises(DownloadError) as caught:
        web._Redirects().redirect_request(request, body, 302, "Found", {}, "http://user:s3cret@example.org/f")
    assert caught.value.kind == "http"
    assert "s3cret" not in str(caught.value)


def test_a_login_goes_to_its_server_alone(url: str, dest: Path, server: Web) -> None:
    server.login, server.redirects = "Basic dXNlcjpzM2NyZXQv", {"/old": "/f", "/away": "http://localhost:1/f"}
    for name in ("f", "old"):
        place = url.replace("http://", "http://user:s3cret%2F@").replace("/f", f"/{name}")
        assert fetch(place, str(dest.with_name(name)), DIGEST)["verified"]
    assert failure(url, dest, DIGEST).status == 401
    server.redirects["/away"] = url.replace("127.0.0.1", "localhost")
    error = failure(url.replace("http://", "http://user:s3cret%2F@").replace("/f", "/away"), dest, DIGEST)
    assert (error.kind, error.status) == ("http", 401)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("address", [
    "file:///etc/passwd", "ftp://h/f", "http://", "http://[::1", "http://user:s3cret/x@host/f",
    "http://user:s3cret?x@host/f", "http://h:port/f", "http://user:s3cret\n@host/f",
])
def test_what_is_no_url(dest: Path, server: Web, address: str) -> None:
    error = failure(address, dest, DIGEST, attempts=1)
    assert error.kind in ("http", "offline")
    assert "s3cret" not in str(error)


def test_a_proxy_of_the_environment(dest: Path, server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:s3cret@{server.address}")
    server.files["http://files.invalid/f"] = BODY
    server.break_after = [150_000]
    assert fetch("http://files.invalid/f", str(dest), DIGEST)["verified"]
    assert server.sent == len(BODY)


def test_too_large_a_file(
    url: str, dest: Path, server: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LIMIT_BYTES", 200_000)
    assert failure(url, dest, DIGEST).kind == "http"
    server.chunked = True
    assert failure(url, dest, DIGEST).kind == "http"
    assert left_in(dest.parent) == []


def test_a_disk_that_fails(url: str, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fail(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".part"):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail)
    error = failure(url, dest, DIGEST)
    assert error.kind == "disk"
    assert "No space left" in str(error)
    assert left_in(dest.parent) == ["file.part.json"]
    assert failure(url, "/sys/kernel/f", DIGEST).kind == "disk"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_full_disk(url: str, tmp_path: Path, server: Web, chunked: bool) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode:
        pytest.skip("needs root to mount a small tmpfs")
    try:
        server.chunked = chunked
        error = failure(url, tmp_path / "file", DIGEST)
        assert error.kind == "disk"
        assert "space" in str(error)
        assert "file.part" not in left_in(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_two_at_once(url: str, dest: Path, server: Web) -> None:
    answers: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(fetch(url, str(dest), DIGEST))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(answer["cached"] for answer in answers) == [False, True, True, True]
    assert server.sent == len(BODY)
    assert left_in(dest.parent) == ["file", "file.sha256"]
