"""A web server on loopback for a folder: with ranges, as release pages have them, and faults on demand."""

from __future__ import annotations

import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class FileServer:
    """``url`` is of the folder. ``asked`` has (path, Range header) of each GET that came, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str]] = []
        self.break_off_at: int | None = None  # the next answer's connection is cut after so many bytes
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fetched(self, name: str) -> int:
        """Return how often a file was asked for from its beginning."""
        return sum(path == f"/{name}" and not sought for path, sought in self.asked)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(60)
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                sought = self.headers.get("Range") or ""
                server.asked.append((self.path, sought))
                path = server.folder / self.path.lstrip("/")
                if not path.is_file():
                    self.send_error(404)
                    return
                content = path.read_bytes()
                found = re.fullmatch(r"bytes=(\d+)-", sought)
                begin = int(found[1]) if found else 0
                self.send_response(206 if found else 200)
                self.send_header("ETag", f'"{len(content)}-{path.stat().st_mtime_ns}"')
                self.send_header("Content-Length", str(len(content) - begin))
                if found:
                    self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                self._send(content[begin:])

            def _send(self, content: bytes) -> None:
                limit, server.break_off_at = server.break_off_at, None
                self.wfile.write(content if limit is None else content[:limit])
                if limit is not None:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextlib.contextmanager
def served_folder(folder: Path) -> Iterator[FileServer]:
    """For the length of a ``with``: a server of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    server = FileServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
