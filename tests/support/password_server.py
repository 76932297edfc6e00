"""An ssh server that takes passwords, inside the test process: sshd takes them only as root, from the
system's accounts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import paramiko

from remote_launch.transport.base import Target

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

USERNAME = "someone"
PASSWORD = "correct horse/battery'staple"


class PasswordServer:
    """Listens on 127.0.0.1; use as a context manager. ``logins`` lists the attempts as (method, succeeded).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known_hosts = folder / "known_hosts"
        self.ssh_config = folder / "ssh_config"
        self.ssh_config.write_text(
            f"Host *\n  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile /dev/null\n")
        self.logins: list[tuple[str, bool]] = []
        self.host_key: paramiko.PKey = paramiko.ECDSAKey.generate()
        self.methods = "password,publickey"
        self.ended: list[int] = []
        self._sessions: list[_Session] = []
        self._closed = False

    def target(self, **changes: Any) -> Target:
        """Return the target for this server; ``changes`` replace its fields."""
        fields: dict[str, Any] = {
            "name": "pw", "hostname": "127.0.0.1", "port": self.port, "username": USERNAME,
            "password": PASSWORD, "ssh_config": self.ssh_config, "transport": "fabric",
            "connect_timeout_s": 30,
        }
        return Target(**{**fields, **changes})

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="password-server")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=60).close()
        self._thread.join(60)
        self._listener.close()
        for session in self._sessions:
            session.end()

    def authorized(self) -> set[str]:
        """The keys that log in: "type base64" of each line of its ``.ssh/authorized_keys``."""
        file = self.folder / ".ssh/authorized_keys"
        lines = file.read_text().splitlines() if file.is_file() else []
        return {" ".join(line.split()[:2]) for line in lines}

    def drop(self) -> None:
        """Cut every connection, as a network does."""
        for session in self._sessions:
            session.end()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._closed:
                sock.close()
                return
            session = _Session(self, sock)
            self._sessions.append(session)
            session.start()


class _Session(paramiko.ServerInterface):
    """One connection."""

    def __init__(self, server: PasswordServer, sock: socket.socket) -> None:
        self.server = server
        self.transport = paramiko.Transport(sock)
        self.transport.add_server_key(server.host_key)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.threads: list[threading.Thread] = []

    def start(self) -> None:
        self.transport.start_server(event=threading.Event(), server=self)

    def end(self) -> None:
        self.transport.close()
        self.transport.packetizer.complete_handshake()
        self.transport.join(60)
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children may outlive it
            process.wait(60)
        for thread in self.threads:
            thread.join(60)

    def get_allowed_auths(self, username: str) -> str:
        return self.server.methods

    def check_auth_password(self, username: str, password: str) -> int:
        good = (username, password) == (USERNAME, PASSWORD)
        self.server.logins.append(("password", good))
        return paramiko.common.AUTH_SUCCESSFUL if good else paramiko.common.AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = username == USERNAME and f"{key.get_name()} {key.get_base64()}" in self.server.authorized()
        self.server.logins.append(("publickey", good))
        return paramiko.common.AUTH_SUCCESSFUL if good else paramiko.common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env={**os.environ, "HOME": str(self.server.folder)},
            cwd=self.server.folder, bufsize=0,
        )
        self.processes.append(process)
        for work in (self._stdin, self._serve):
            thread = threading.Thread(target=work, args=(channel, process), name="password-server-command")
            self.threads.append(thread)
            thread.start()
        return True

    def _stdin(self, channel: paramiko.Channel, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError), process.stdin as stdin:
            while chunk := channel.recv(65536):
                stdin.write(chunk)

    def _serve(self, channel: paramiko.Channel, process: subprocess.Popen[bytes]) -> None:
        stderr = threading.Thread(target=_copy, args=(process.stderr, channel.sendall_stderr))
        stderr.start()
        _copy(process.stdout, channel.sendall)
        stderr.join()
        code = process.wait()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            if code >= 0:
                channel.send_exit_status(code)
            channel.close()
        self.server.ended.append(code)


def _copy(pipe: Any, send: Any) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException), pipe:
        while chunk := pipe.read(65536):
            send(chunk)
