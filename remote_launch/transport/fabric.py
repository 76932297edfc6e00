"""The second transport: paramiko, connected by fabric. For logins by password, and where there is no ssh
program.

One connection, made at first use and again after it broke; a channel a command. Files and rsync go over it
too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import paramiko

from remote_launch.errors import ConnectError, RemoteLaunchError, TransportError, UsageError
from remote_launch.transport import files
from remote_launch.transport.base import Completed, RsyncRoute
from remote_launch.transport.command import read_exit, stop_command
from remote_launch.transport.connection import Connection, open_connection
from remote_launch.transport.outcome import overflow_error, timeout_error
from remote_launch.transport.process import Cancel, Capture, OutputOverflow, ProcessTimeout
from remote_launch.transport.rsync_bridge import BridgeServer
from remote_launch.transport.session import (
    BROKEN,
    ChannelLostError,
    DeadlinePassedError,
    Watch,
    drain,
    fed,
    lost_when_broken,
)
from remote_launch.transport.ssh_errors import lost_error
from remote_launch.transport.tunnel import LocalForward, ReverseForward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remote_launch.transport.base import Forward, KeptForward, Target
    from remote_launch.transport.command import Command

# sshd's MaxSessions is 10. So many commands and so many streams (logs that are followed), which may last for
# days, each at a time: streams hold up no command. Commands that stop others come on top.
MAX_CHANNELS = 4
OPEN_TIMEOUT_S = 30.0  # for a channel on a connection that stands
STOP_TIMEOUT_S = 15.0  # as openssh's
_DYING_S = 10.0  # for a connection that has broken to count as dead: no time, where nothing stands still


class FabricTransport:
    """Keeps ``base.Transport``."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = threading.Lock()  # around connecting
        self._connection: Connection | None = None
        self._slots = threading.BoundedSemaphore(MAX_CHANNELS)
        self._stream_slots = threading.BoundedSemaphore(MAX_CHANNELS)
        self._watches_lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._programs = Cancel()

    def connect(self) -> None:
        """See ``base.Transport.connect``."""
        self._connected()

    def is_open(self) -> bool:
        """See ``base.Transport.is_open``."""
        connection = self._connection
        return connection is not None and connection.is_active

    def run(
        self,
        command: Command,
        *,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
        on_stdout: Callable[[bytes], None] | None = None,
        on_stderr: Callable[[bytes], None] | None = None,
    ) -> Completed:
        """See ``base.Transport.run``."""
        watch = Watch(timeout_s)
        run = _Run(self, command, watch, on_stdout, on_stderr)
        try:
            is_stream = timeout_s is None and on_stdout is not None
            with self._watched(watch), self._slot(watch, is_stream=is_stream):
                return run.complete(stdin)
        except DeadlinePassedError:
            said = ProcessTimeout(run.stdout.value(), run.stderr.value())
            raise timeout_error(self.target.name, command, timeout_s, said, stopped=run.stopped) from None
        except OutputOverflow:
            raise overflow_error(self.target.name, command) from None

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        """See ``base.Transport.put``."""
        files.put(self, content, path, mode)

    def get(self, path: str, *, max_bytes: int = 16 * 1024 * 1024) -> bytes:
        """See ``base.Transport.get``."""
        return files.get(self, path, max_bytes)

    def forward(self, remote_port: int, *, local_port: int = 0, remote_host: str = "127.0.0.1") -> Forward:
        """See ``base.Transport.forward``. Lives on when the connection is made anew."""
        self._connected()

        def open_channel() -> paramiko.Channel:
            return self._connected().transport.open_channel(
                "direct-tcpip", (remote_host, remote_port), ("127.0.0.1", 0), timeout=OPEN_TIMEOUT_S
            )

        try:
            return LocalForward(local_port, open_channel)
        except OSError as error:
            why = f"can't listen on port {local_port} of this machine: {error}"
            raise ConnectError(self.target.name, why) from None

    def keep_forward(self, remote_port: int, *, local_port: int, remote_host: str, owner: str) -> KeptForward:  # noqa: ARG002
        """See ``base.Transport.keep_forward``: not offered here, where the connection is this process's."""
        raise UsageError(
            f"{self.target.name}: no forward in the background through fabric (a login by password)",
            hint="leave --background out; or rl authorize, to log in by a key, and transport: openssh",
        )

    def reverse_forward(self, local_port: int, *, remote_port: int = 0) -> Forward:
        """See ``base.Transport.reverse_forward``. Ends with the connection."""
        connection = self._connected()
        forward = ReverseForward(local_port)
        try:
            connection.reverse.open(forward, remote_port)
        except BROKEN as error:
            raise ConnectError(
                self.target.name,
                f"the server won't listen on port {remote_port} for us: {error}",
                hint="is the port taken there, or AllowTcpForwarding off in its sshd_config?",
            ) from error
        return forward

    @contextlib.contextmanager
    def rsync_route(self) -> Iterator[RsyncRoute]:
        """See ``base.Transport.rsync_route``. Each rsync takes a channel; a fifth one waits for its turn."""
        self._connected()
        with BridgeServer(self.channel) as server:
            yield RsyncRoute(shell=server.shell, prefix="server:", cancel=self._programs)

    def enter(self, path: str) -> NoReturn:  # noqa: ARG002 - the protocol's
        """See ``base.Transport.enter``: not offered here."""
        target = self.target
        login = f"{target.username}@{target.hostname}" if target.username else target.hostname
        port = f" -p {target.port}" if target.port else ""
        raise UsageError(
            f"{target.name}: no shell through fabric (a login by password)",
            hint=f"ssh -t{port} {login}; or rl authorize, to log in by a key",
        )

    def cancel(self) -> None:
        """See ``base.Transport.cancel``."""
        self._programs.set()
        with self._watches_lock:
            for watch in self._watches:
                watch.cancel()

    def close(self) -> None:
        """End the connection: no other process can use it. A later command makes a new one."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def disconnect(self) -> None:
        """As ``close``."""
        self.close()

    # For _Run and the bridge.

    @contextlib.contextmanager
    def channel(self, watch: Watch) -> Iterator[paramiko.Channel]:
        """For the length of a ``with``: a channel for one command, within the limit."""
        with self._slot(watch):
            channel = self.open_session(watch)
            try:
                yield channel
            finally:
                with contextlib.suppress(*BROKEN):
                    channel.close()

    def open_session(self, watch: Watch) -> paramiko.Channel:
        """Return a new channel; where the connection turns out dead, one on a new connection."""
        for last_try in (False, True):
            connection = self._connected()
            left_s = watch.check()
            try:
                timeout_s = min(OPEN_TIMEOUT_S, left_s or OPEN_TIMEOUT_S)
                return connection.transport.open_session(timeout=timeout_s)
            except paramiko.ChannelException as error:
                raise TransportError(
                    self.target.name,
                    f"the server refused one more session on the connection: {error.text}",
                    hint="MaxSessions in its sshd_config should be 10, as it is by default",
                ) from error
            except BROKEN as error:
                watch.check()  # short of time, not broken: others may be using the connection
                self._drop(connection)
                if last_try:
                    raise ConnectError(self.target.name, f"no session could be opened: {error}") from error
        raise AssertionError("unreachable")

    def lost(self, channel: paramiko.Channel) -> TransportError:
        """Given a channel that ended without an exit code, return the error."""
        transport = channel.get_transport()
        # Channels are told of a broken connection a moment before it counts as dead. Where only the channel
        # is closed, the server has said before that no more output comes.
        is_broken = transport.saved_exception is not None or not channel.eof_received
        transport.join(_DYING_S if is_broken else 0.3)
        return lost_error(self.target, "", master_lives=transport.is_active())

    def stop(self, command: Command) -> bool:
        """Stop a command's processes, outside the limit of channels. True when the sweep went through."""
        try:
            sweep = _Run(self, stop_command(command), Watch(STOP_TIMEOUT_S), None, None)
            done = sweep.complete(None, stoppable=False)
        except (RemoteLaunchError, DeadlinePassedError, OutputOverflow):
            return False
        return done.ok

    def _connected(self) -> Connection:
        with self._lock:
            if self._connection is not None and not self._connection.is_active:
                self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection = open_connection(self.target, cancel=self._programs)
            return self._connection

    def _drop(self, connection: Connection) -> None:
        with self._lock:
            if self._connection is connection:
                self._connection = None
        connection.close()

    @contextlib.contextmanager
    def _watched(self, watch: Watch) -> Iterator[None]:
        with self._watches_lock:
            self._watches.add(watch)
        try:
            yield
        finally:
            with self._watches_lock:
                self._watches.discard(watch)

    @contextlib.contextmanager
    def _slot(self, watch: Watch, *, is_stream: bool = False) -> Iterator[None]:
        """One of the channels that may be open at a time; waits for it."""
        slots = self._stream_slots if is_stream else self._slots
        while not slots.acquire(timeout=min(watch.check() or 0.2, 0.2)):
            pass
        try:
            yield
        finally:
            slots.release()


class _Run:
    """One command, from its channel to its outcome."""

    def __init__(
        self,
        transport: FabricTransport,
        command: Command,
        watch: Watch,
        on_stdout: Callable[[bytes], None] | None,
        on_stderr: Callable[[bytes], None] | None,
    ) -> None:
        self._transport = transport
        self._command = command
        self._watch = watch
        self.stdout = Capture(on_stdout)
        self.stderr = Capture(on_stderr)
        self.stopped = True  # as long as it was never started

    def complete(self, stdin: bytes | None, *, stoppable: bool = True) -> Completed:
        """Run it to its end. What cuts that short, except a lost connection, first stops it on the server."""
        started = time.monotonic()
        channel = self._transport.open_session(self._watch)
        try:
            code, signal = read_exit(self._exit_code(channel, self._command.stdin(stdin)))
        except ChannelLostError as error:
            raise self._transport.lost(channel) from error
        except BaseException:
            if stoppable:
                self.stopped = False
                self.stopped = self._transport.stop(self._command)
            raise
        finally:
            with contextlib.suppress(*BROKEN):
                channel.close()
        return Completed(
            server=self._transport.target.name,
            command=self._command.masked(),
            exit_code=code,
            signal=signal,
            stdout=self.stdout.value(),
            stderr=self.stderr.value(),
            duration_s=time.monotonic() - started,
        )

    def _exit_code(self, channel: paramiko.Channel, content: bytes) -> int:
        with lost_when_broken():
            channel.exec_command(self._command.remote())
        with fed(channel, content):
            return drain(channel, self._watch, self.stdout.add, self.stderr.add)
