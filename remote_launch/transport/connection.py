"""Open one authenticated ssh connection by fabric: sockets, jump hosts, host keys, logins.

fabric picks no known_hosts file and accepts any host key, opens its socket without TCP_NODELAY (47 ms a
command instead of 3), and walks a ProxyJump of several hops backwards: these are done here, the rest is
fabric's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import fabric
import paramiko

from remote_launch.errors import AuthenticationError, ConnectError, TransportError
from remote_launch.transport.fabric_errors import LOGIN_FAILURES, login_error
from remote_launch.transport.known_hosts import KnownHosts, host_key_name
from remote_launch.transport.passwords import run_password_command
from remote_launch.transport.ssh_config import load_ssh_config
from remote_launch.transport.tunnel import ReverseListeners

if TYPE_CHECKING:
    from paramiko import PKey, SSHClient, SSHConfig

    from remote_launch.transport.base import Target
    from remote_launch.transport.process import Cancel

KEEPALIVE_S = 15
DEAD_AFTER_S = 45  # a peer that acknowledges nothing for this long is gone: three keepalives
MAX_JUMPS = 8
AUTH_TIMEOUT_S = 30  # PAM and directory services take their time

# Without a handler of its own, logging prints paramiko's tracebacks on stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclasses.dataclass(slots=True, kw_only=True)
class Connection:
    """An open, authenticated connection and what carries it. ``close`` ends all of it, its threads too."""

    client: SSHClient
    transport: paramiko.Transport
    carrier: Carrier
    reverse: ReverseListeners

    @property
    def is_active(self) -> bool:
        return self.transport.is_active()

    def close(self) -> None:
        close_client(self.client)
        self.carrier.close()


@dataclasses.dataclass(slots=True, kw_only=True)
class Carrier:
    """What ssh is spoken over: a socket of our own, a channel of a jump host's connection, or a
    ProxyCommand's.
    """

    sock: socket.socket | paramiko.Channel
    jump: Connection | None = None
    process: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()
        if self.jump is not None:
            self.jump.close()
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def close_client(client: SSHClient) -> None:
    """End a connection, half-open ones too, and wait for its threads."""
    transport = client.get_transport()
    client.close()
    if transport is not None:
        # A failed handshake leaves a timer thread that would hold the interpreter for 15 s.
        transport.packetizer.complete_handshake()
        transport.close()
        transport.join(5)


def open_connection(target: Target, *, cancel: Cancel | None = None) -> Connection:
    """Return a new connection to the target. ``cancel`` ends a ``password_command`` that runs for it.

    Raises ConnectError (or a subclass), TransportError."""
    try:
        config = load_ssh_config(target.ssh_config)
        return _Login(target, config, cancel=cancel).open()
    except paramiko.ssh_exception.ConfigParseError as error:
        raise TransportError(
            target.name,
            f"ssh's configuration can't be read: {error}",
            hint="transport: openssh reads more of it than fabric does",
        ) from error
    except OSError as error:  # only from the configuration: what happens on the way is mapped by _Login
        raise TransportError(target.name, f"can't read {error.filename}: {error.strerror}") from error


class _Login:
    """One hop: where to, as whom, through what. A jump host's target is the server's with another
    hostname."""

    def __init__(
        self, target: Target, config: SSHConfig, depth: int = 0, *, cancel: Cancel | None = None
    ) -> None:
        self.target = target
        self.config = config
        self.depth = depth
        self.cancel = cancel
        # lazy: no fabric.yaml of the user's takes part. gateway=False: the jumps are made here.
        self.fabric = fabric.Connection(
            f"{target.username}@{target.hostname}" if target.username else target.hostname,
            port=target.port,
            config=fabric.Config(ssh_config=config, lazy=True),
            gateway=False,
        )
        self.options: dict[str, Any] = self.fabric.ssh_config
        self.host: str = self.fabric.host
        self.port: int = self.fabric.port
        self.user: str = self.fabric.user
        self.keys: list[str] = []
        self.started = 0.0

    def open(self) -> Connection:
        """Connect, check the host key, log in."""
        self.started = time.monotonic()
        try:
            carrier = self._carrier()
        except LOGIN_FAILURES as error:
            raise self._error(error) from error
        client: SSHClient = self.fabric.client
        try:
            self._find_password()
            self.fabric.connect_kwargs = self._connect_options(carrier)
            # Of the whole handshake; its steps have their own.
            self.fabric.connect_timeout = 2 * self.target.connect_timeout_s + 5
            self.fabric.open()
            transport = cast(paramiko.Transport, client.get_transport())
            transport.set_keepalive(KEEPALIVE_S)
            reverse = ReverseListeners(transport)
            return Connection(client=client, transport=transport, carrier=carrier, reverse=reverse)
        except BaseException as error:
            close_client(client)
            carrier.close()
            if isinstance(error, LOGIN_FAILURES):
                raise self._error(error) from error
            raise

    def _find_password(self) -> None:
        """Run the target's ``password_command``: now that the server has answered, and not on the clock of
        the connection."""
        command = self.target.password_command
        if command is None:
            return
        password = run_password_command(self.target.name, command, cancel=self.cancel)
        self.target = dataclasses.replace(self.target, password=password)
        self.started = time.monotonic()

    def _connect_options(self, carrier: Carrier) -> dict[str, Any]:
        """Return what fabric hands to ``paramiko.SSHClient.connect``; put the host key policy in place."""
        known = KnownHosts.from_ssh_config(self.options)
        name = host_key_name(self.host, self.port, self.options.get("hostkeyalias"))
        self.fabric.client.set_missing_host_key_policy(_Policy(known, name))
        timeout_s = self.target.connect_timeout_s

        def make_transport(sock: Any, **options: Any) -> paramiko.Transport:
            transport = paramiko.Transport(sock, **options)
            transport.handshake_timeout = timeout_s
            security = transport.get_security_options()
            security.key_types = _known_first(known.key_types(name), tuple(security.key_types))
            return transport

        self.keys = self._key_files()
        only_password = self.target.password is not None and self.target.private_key is None
        only_these = (
            str(self.options.get("identitiesonly", "no")).lower() == "yes"
            or str(self.options.get("identityagent", "")).lower() == "none"
        )
        return {
            "sock": carrier.sock,
            "transport_factory": make_transport,
            "banner_timeout": timeout_s,
            "auth_timeout": max(AUTH_TIMEOUT_S, timeout_s),
            "password": self.target.password,
            "key_filename": self.keys,
            # With a password and no key, keys are not tried first: servers end a login after six refusals.
            "allow_agent": not only_password and not only_these,
            "look_for_keys": not only_password and not self.keys,
        }

    def _key_files(self) -> list[str]:
        """Return the key files to offer: the target's, else ssh_config's that exist; with a password none of
        these.
        """
        if self.target.private_key is not None:
            path = self.target.private_key.expanduser()
            if not path.is_file():
                raise AuthenticationError(
                    self.target.name,
                    f"the private key {path} does not exist",
                    hint="correct private_key in the inventory",
                )
            return [str(path)]
        if self.target.password is not None:
            return []
        named = [Path(str(name)).expanduser() for name in self.options.get("identityfile", [])]
        return [str(path) for path in named if path.is_file()]

    def _carrier(self) -> Carrier:
        jumps = str(self.options.get("proxyjump", "none"))
        # By a "Host *" the jump host is told to jump through itself; as ssh, it does not.
        itself = jumps.rpartition("@")[2].partition(":")[0] in (self.host, self.target.hostname)
        if jumps.lower() != "none" and not itself:
            return self._jump(jumps.split(","))
        command = self.options.get("proxycommand")
        if command and str(command).lower() != "none":
            return _proxy_command(str(command))
        return Carrier(sock=_socket(self.host, self.port, self.target.connect_timeout_s))

    def _jump(self, hops: list[str]) -> Carrier:
        """Connect through jump hosts, the first one first, as ssh does (fabric starts with the last)."""
        if self.depth >= MAX_JUMPS:
            raise ConnectError(
                self.target.name, f"more than {MAX_JUMPS} jump hosts: does ProxyJump lead back to itself?"
            )
        *before, last = [hop.strip().removeprefix("ssh://") for hop in hops]
        plain = fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True)
        parts = fabric.Connection(last, config=plain, gateway=False)
        user = parts.user if "@" in last else None
        port = parts.port if parts.host != last.rpartition("@")[2] else None
        hop = dataclasses.replace(
            self.target,
            hostname=parts.host,
            username=user,
            port=port,
            private_key=None,
            password=None,
            password_command=None,
        )
        login = _Login(hop, self.config, self.depth + 1)
        if before:
            login.options = {**login.options, "proxyjump": ",".join(before)}
        connection = login.open()
        try:
            channel = connection.transport.open_channel(
                "direct-tcpip",
                (self.host, self.port),
                ("127.0.0.1", 0),
                timeout=self.target.connect_timeout_s,
            )
        except BaseException:
            connection.close()
            raise
        return Carrier(sock=channel, jump=connection)

    def _error(self, error: BaseException) -> TransportError:
        late = time.monotonic() - self.started >= self.target.connect_timeout_s
        return login_error(self.target, self.host, self.port, self.user, error, keys=self.keys, late=late)


class _Policy(paramiko.MissingHostKeyPolicy):
    """paramiko is given no known hosts of its own, so every key comes here."""

    def __init__(self, known: KnownHosts, name: str) -> None:
        self.known = known
        self.name = name

    def missing_host_key(self, client: SSHClient, hostname: str, key: PKey) -> None:  # noqa: ARG002
        self.known.check(self.name, key)


def _known_first(known: list[str], offered: tuple[str, ...]) -> tuple[str, ...]:
    """Given the key types known for a host, return the types to ask for, those first."""
    wanted = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
    first = [name for kind in known for name in wanted.get(kind, (kind,)) if name in offered]
    return tuple(dict.fromkeys([*first, *offered]))


def _socket(host: str, port: int, timeout_s: float) -> socket.socket:
    sock = socket.create_connection((host, port), timeout=timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # paramiko sends keepalives but never looks for the answers: the kernel does.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000)
    return sock


def _proxy_command(command: str) -> Carrier:
    """Run ssh_config's ProxyCommand on a socket pair (paramiko's own class leaves the process unreaped)."""
    ours, theirs = socket.socketpair()
    try:
        # A session of its own: Ctrl-C must not cut the connection over which the command is then stopped.
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Carrier(sock=ours, process=process)
