"""What rsync starts in place of ssh when another process holds the connection: ``<socket> <host> <command
…>``.

Joins rsync's stdin and stdout to a unix socket, behind which ``rsync_bridge`` runs the command on the server.
Run by its path and isolated (``python -I -S``), so that it starts in some 15 ms: standard library only.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import threading

# Both ends. To the socket: the command's length and text, then stdin as it is until the end. From it: frames.
HEADER = struct.Struct("!BI")  # kind, length
STDOUT, STDERR, EXIT = 1, 2, 3
CHUNK_BYTES = 65536
LOST = 255  # ssh's exit code for an error of its own


def main(argv: list[str]) -> int:
    """Run the command, return its exit code; 255 when the connection ended before it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(argv[1])
        command = " ".join(argv[3:]).encode("utf-8", "surrogateescape")  # as ssh joins its arguments
        sock.sendall(struct.pack("!I", len(command)) + command)
        threading.Thread(target=_feed, args=(sock,), daemon=True).start()
        while True:
            header = _read(sock, HEADER.size)
            if len(header) < HEADER.size:
                return LOST
            kind, length = HEADER.unpack(header)
            body = _read(sock, length)
            if len(body) < length:
                return LOST
            if kind == EXIT:
                return int(body)
            try:
                _write(1 if kind == STDOUT else 2, body)
            except BrokenPipeError:
                if kind == STDERR:
                    raise
                # rsync has gone after an error; what the server's side says of it on stderr is still to come


def _feed(sock: socket.socket) -> None:
    try:
        while chunk := _read_stdin():
            sock.sendall(chunk)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return


def _read(sock: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        chunk = sock.recv(count - len(parts))
        if not chunk:
            break
        parts += chunk
    return parts


def _read_stdin() -> bytes:
    while True:  # rsync hands over its pipes non-blocking
        try:
            return os.read(0, CHUNK_BYTES)
        except BlockingIOError:
            select.select([0], [], [])


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])


if __name__ == "__main__":
    # rsync sends SIGUSR1 to its remote shell when it fails, before the server's words on stderr are here.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        code = main(sys.argv)
    except OSError as error:
        _write(2, f"remote_launch: the connection to the server is gone: {error}\n".encode())
        code = LOST
    os._exit(code)  # the thread may be waiting for stdin
