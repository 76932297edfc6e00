"""A tiny web server on loopback that has one page: what people forward a port for."""

from __future__ import annotations

import threading
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Pages:
    """Serves ``text`` in a ``with``. ``asked`` counts the connections that sent a request."""

    def __init__(self, port: int = 0) -> None:
        self.text = f"page {uuid.uuid4().hex}"
        self.asked = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Pages:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)

    @staticmethod
    def read(port: int, *, timeout_s: float = 60) -> str:
        """Return the page at a port of this machine, past any proxy of the environment."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/", timeout=timeout_s) as answer:
            return str(answer.read().decode())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        pages = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pages.asked += 1
                self.send_response(200)
                self.end_headers()  # HTTP/1.0, and no length: the page ends where the connection does
                self.wfile.write(pages.text.encode())

            def log_message(self, *_: object) -> None:
                pass

        return Handler
