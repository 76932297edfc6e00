"""Tunnels through ssh's masters.

A forward of ssh's own stays in the master when the process that asked for it has gone. So a tunnel that is
to end with this process is made of two: this process listens on the TCP port, and the master on a socket
file in its closed folder. A tunnel that is to stay gets a master of its own, which no idle time ends
(ControlPersist ends a shared one in spite of its forwards) and nothing but its stop touches."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from remote_launch.errors import ConnectError
from remote_launch.transport.base import KeptForward
from remote_launch.transport.masters import CONTROL_S, Master, control_folder, control_socket
from remote_launch.transport.pump import TcpPump
from remote_launch.transport.ssh_errors import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from remote_launch.transport.base import Target

LOOPBACK = "127.0.0.1"
_PID = re.compile(rb"pid=(\d+)")
_SOCKET_NAME = re.compile(r"f-(\d+)-[0-9a-f]+\Z")


@dataclasses.dataclass(slots=True, kw_only=True)
class MasterForward:
    """A tunnel that a master keeps; it ends with ``close`` or with the master."""

    port: int
    flag: str
    spec: str
    master: Master
    closed: bool = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self.master.control("cancel", self.flag, self.spec)


def add_forward(master: Master, flag: str, spec: str, port: int) -> MasterForward:
    """Have a master that is open listen (-L) or let its server listen (-R). Raises ConnectError."""
    try:
        done = master.control("forward", flag, spec)
        said = plain(done.stderr.decode("utf-8", "replace")) or "ssh did not say why"
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        said, failed = "ssh's master did not answer", True
    if failed:
        raise ConnectError(
            master.target.name, f"can't forward {flag} {spec}: {said}", hint="is the port taken already?"
        )
    return MasterForward(port=port, flag=flag, spec=spec, master=master)


class SocketForward:
    """Listens here; each connection goes on to a socket file of the master's, and so to ``to`` from the
    server. Keeps the ``Forward`` protocol; lives on when the master is made anew."""

    def __init__(
        self, master: Master, connect: Callable[[], None], to: tuple[str, int], local_port: int
    ) -> None:
        self._master = master
        self._connect = connect
        self._to = to
        self._lock = threading.Lock()
        self._inner: MasterForward | None = None
        self._birth: tuple[int, int] | None = None  # of the master that has it
        self._is_closed = False
        self._path = master.folder / f"f-{os.getpid()}-{os.urandom(4).hex()}"
        _remove_left_behind(master.folder)
        try:
            self._pump = TcpPump(self._join, local_port=local_port)
        except OSError as error:
            why = f"can't listen on port {local_port} of this machine: {error.strerror}"
            raise ConnectError(master.target.name, why, hint="is the port taken already?") from None
        self.port = self._pump.port
        try:
            with self._lock:
                self._open()
        except BaseException:
            self._pump.close()
            raise

    def close(self) -> None:
        """Stop listening and cut what is open. May be called twice."""
        self._pump.close()
        with self._lock:
            self._is_closed = True
            inner, self._inner = self._inner, None
            if inner is not None:
                inner.close()
            self._path.unlink(missing_ok=True)

    def _open(self) -> None:
        self._connect()
        self._path.unlink(missing_ok=True)  # ssh binds no path that is there
        spec = f"{_escaped(str(self._path))}:{_address(*self._to)}"
        birth = self._master.birth()  # before: one that comes meanwhile is then seen
        self._inner = add_forward(self._master, "-L", spec, self.port)
        self._birth = birth

    def _join(self) -> socket.socket:
        with self._lock:
            if self._is_closed:  # it was, while this connection waited
                raise ConnectionAbortedError("the forward is closed")
            # One that was replaced may still have commands to end, over a connection that may be dead.
            if self._master.birth() == self._birth:
                with contextlib.suppress(OSError):
                    return _connected(self._path)
            self._open()
            return _connected(self._path)


def keep_forward(target: Target, to: tuple[str, int], local_port: int, owner: str) -> KeptForward:
    """Have an ssh process of its own listen on a port that is free. See ``base.Transport.keep_forward``."""
    master = Master(target, purpose=f"forward {local_port} of {owner}")
    master.drop()  # one that lost its forward: the port is free
    master.ensure()
    try:
        add_forward(master, "-L", f"{LOOPBACK}:{local_port}:{_address(*to)}", local_port)
        pid = _pid_of(master.path)
        if pid is None:
            raise ConnectError(target.name, "ssh ended just after it had begun to forward")
    except BaseException:
        master.drop()
        raise
    return KeptForward(socket=str(master.path), pid=pid)


def is_kept(kept: KeptForward, local_port: int) -> bool:
    """True while its ssh process is there and the port is in use. Nothing connects to the port."""
    return not port_is_free(local_port) and _pid_of(Path(kept.socket)) == kept.pid


def stop_kept(kept: KeptForward) -> None:
    """End its ssh process, with the connections through it, and wait for that. Another process's socket is
    left alone."""
    path = Path(kept.socket)
    if _pid_of(path) == kept.pid:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            control_socket(path, "exit")
        deadline = time.monotonic() + CONTROL_S
        while path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    if path.parent == control_folder() and not path.exists():
        for suffix in (".used", ".lock"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def port_is_free(port: int) -> bool:
    """True when this process could listen on the port of 127.0.0.1."""
    try:
        with socket.create_server((LOOPBACK, port)):
            return True
    except OSError:
        return False


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _pid_of(path: Path) -> int | None:
    """Return the id of the master behind a socket; None when there is none."""
    if not path.exists():
        return None
    try:
        done = control_socket(path, "check")
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _PID.search(done.stderr)
    return int(found[1]) if done.returncode == 0 and found else None


def _remove_left_behind(folder: Path) -> None:
    """Remove the socket files of processes that were killed. Their masters end when nobody uses them."""
    for path in folder.glob("f-*"):
        found = _SOCKET_NAME.match(path.name)
        if found:
            try:
                os.kill(int(found[1]), 0)
            except ProcessLookupError:
                path.unlink(missing_ok=True)
            except (OSError, OverflowError):
                pass


def _connected(path: Path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX)
    try:
        opened.connect(str(path))
    except BaseException:
        opened.close()
        raise
    return opened


def _escaped(path: str) -> str:
    """Given a path, return it as one part of a forward's "from:to"."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace("%", "%%")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
