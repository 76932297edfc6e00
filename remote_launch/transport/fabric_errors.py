"""paramiko's exceptions as our errors, in one place.

What ssh would have said is put into ssh's words, so that both transports tell the same story.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from remote_launch.errors import (
    AuthenticationError,
    ConnectError,
    HostKeyError,
    MissingProgramError,
    TransportError,
)
from remote_launch.transport import ssh_errors
from remote_launch.transport.known_hosts import HostKeyChangedError, HostKeyUnknownError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remote_launch.transport.base import Target

# What a login raises when it fails; anything else is a bug.
LOGIN_FAILURES = (OSError, EOFError, paramiko.SSHException, HostKeyChangedError, HostKeyUnknownError)


def login_error(
    target: Target, host: str, port: int, user: str, error: BaseException, *, keys: Sequence[str], late: bool
) -> TransportError:
    """Given what a login raised, return our error. ``late``: the time for connecting had passed by then."""
    place = {"hostname": host, "port": str(port), "user": user}
    if isinstance(error, (HostKeyChangedError, HostKeyUnknownError)):
        return _host_key_error(target, place, error)
    if isinstance(error, paramiko.AuthenticationException) or "No authentication methods" in str(error):
        return _authentication_error(target, place, error, keys)
    if "private key file" in str(error):  # broken, of an unknown kind, or another passphrase
        return AuthenticationError(target.name, f"can't use a private key ({', '.join(keys)}): {error}")
    if isinstance(error, FileNotFoundError):
        return MissingProgramError(target.name, f"{error.filename}: no such file or program")
    if isinstance(error, paramiko.ChannelException):  # only jump hosts open channels while connecting
        where = ssh_errors.place(target, place)
        return ConnectError(target.name, f"the jump host could not reach {where}: {error.text}")
    if isinstance(error, IncompatiblePeer):
        return ConnectError(
            target.name,
            f"no algorithm in common with {ssh_errors.place(target, place)}: {error}",
            hint="transport: openssh knows more of them",
        )
    return ssh_errors.connect_error(target, _as_ssh_says(host, error, late=late), place)


def _as_ssh_says(host: str, error: BaseException, *, late: bool) -> str:
    if isinstance(error, socket.gaierror):
        return f"ssh: Could not resolve hostname {host}: {error.strerror}"
    # paramiko says "EOF", "no banner" or "no session" when its own clocks have run out.
    if late or isinstance(error, TimeoutError):
        return "Connection timed out"
    if isinstance(error, ConnectionRefusedError):
        return "Connection refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, EOFError) or "protocol banner" in str(error):
        return "Connection closed by remote host before the login (no ssh server, or one at its MaxStartups)"
    return str(error) or type(error).__name__


def _host_key_error(
    target: Target, place: dict[str, str], error: HostKeyChangedError | HostKeyUnknownError
) -> HostKeyError:
    if isinstance(error, HostKeyUnknownError):
        said = f"No {error.key_type} host key is known for {error.name} and StrictHostKeyChecking is on."
    elif error.revoked:
        said = f"{error.path} has it as a revoked host key"
    else:
        kind = error.key.get_name()
        said = f"Offending {kind} key in {error.path}:1\nHost key for {error.name} has changed"
    mapped = ssh_errors.connect_error(target, said, place)
    return mapped if isinstance(mapped, HostKeyError) else HostKeyError(target.name, said)


def _authentication_error(
    target: Target, place: dict[str, str], error: BaseException, keys: Sequence[str]
) -> AuthenticationError:
    """Say what was tried. The server's own text is left out: what it echoes can't be known."""
    where = ssh_errors.place(target, place)
    if isinstance(error, paramiko.PasswordRequiredException):
        return AuthenticationError(
            target.name,
            f"no login to {where}: a private key has a passphrase ({', '.join(keys)})",
            hint=f"load it into the agent: ssh-add {' '.join(keys)}",
        )
    tried = [f"user {place['user']!r}"]
    if target.private_key:
        tried.append(f"private key {target.private_key}")
    if target.password is not None:
        tried.append("the password")
    if len(tried) == 1:
        tried.append("the agent's and the default keys")
    methods = list(error.allowed_types) if isinstance(error, paramiko.BadAuthenticationType) else []
    if isinstance(error, paramiko.BadAuthenticationType):
        tried.append(f"the server takes: {','.join(error.allowed_types)}")
    by_hand = f"ssh {ssh_errors.login(target)}"
    keys_of = "`username:`, `password:` and `private_key:`"
    if target.password_command is not None:
        keys_of = keys_of.replace("password:", "password_command:")
    hint = f"check {keys_of} of {target.name}; {by_hand} must work"
    hint += ssh_errors.more_hints(target, methods)
    said = f"{where} denied the login ({'; '.join(tried)})"
    return AuthenticationError(target.name, said, hint=hint, methods=methods)
