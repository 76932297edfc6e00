"""What ssh says on stderr, as errors with a next step. The wording is OpenSSH's own, which is not
translated."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from remote_launch.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    HostKeyError,
    ResolveError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from remote_launch.transport.base import Target

AUTHORIZE = "rl authorize --server"
_NOISE = re.compile(r"^(debug\d:|\*\* |Warning: Permanently added|@+$|Pseudo-terminal)")
_RESOLVE = re.compile(r"Could not resolve hostname (.+?):")
_TIMEOUT = re.compile(r"timed out|Connection timeout", re.IGNORECASE)
_HOST_KEY = re.compile(
    r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed|Host key for .* has changed"
    r"|No .* host key is known|revoked host key|no matching host key type"
)
_CHANGED = re.compile(r"IDENTIFICATION HAS CHANGED|Host key for .* has changed")
_AUTHENTICATION = re.compile(
    r"Permission denied|Too many authentication failures|No more authentication methods"
    r"|no authentication methods enabled|sign_and_send_pubkey: signing failed"
)
_OFFENDING = re.compile(r"Offending .*key in (.+):\d+")
_KEY_OWNER = re.compile(r"Host key for (\S+) has changed")
_OPEN_KEY = re.compile(r"Permissions \d+ for '(.+)' are too open")
_KEY_TROUBLE = re.compile(r'Load key "(.+)": (.+)')
_USER_AT = re.compile(r"^(\S+)@\S+: Permission denied \((.+?)\)", re.MULTILINE)


def plain(text: str) -> str:
    """Given ssh's stderr or log, return what it says to people: no debug lines, no banners."""
    return "\n".join(
        line.strip() for line in text.splitlines() if line.strip() and not _NOISE.match(line.strip())
    )


def connect_error(target: Target, text: str, config: Mapping[str, str] | None = None) -> ConnectError:
    """Given what ssh said when no connection came up, return the error. ``config`` is what ``ssh -G`` told,
    lower-case keys."""
    config = config or {}
    said = plain(text)
    where = place(target, config)
    if match := _RESOLVE.search(said):
        return ResolveError(
            target.name,
            f"hostname {match[1]!r} has no address ({_last(said)})",
            hint=f"check `hostname:` of {target.name} in the inventory; `ssh {target.hostname}` must work",
        )
    if _HOST_KEY.search(said):
        return _host_key_error(target, said, config)
    if _AUTHENTICATION.search(said) or _OPEN_KEY.search(said):
        return _authentication_error(target, said, config)
    if _TIMEOUT.search(said):
        return ConnectTimeoutError(
            target.name,
            f"{where} did not answer within {target.connect_timeout_s} s ({_last(said)})",
            hint="is it running, is the address right, does a firewall or VPN stand between?",
        )
    if "Connection refused" in said:
        return ConnectError(
            target.name,
            f"{where} refused the connection: no ssh server listens there",
            hint=f"check `hostname:` and `port:` of {target.name}; is sshd running there yet?",
        )
    return ConnectError(
        target.name,
        f"no connection to {where}: {_last(said) or 'ssh ended without a word'}",
        hint=f"try it by hand: ssh -v {login(target)}",
    )


def lost_error(target: Target, text: str, *, master_lives: bool) -> ConnectionLostError:
    """Given ssh's log of a command that began and has no exit code, return the error."""
    if master_lives:  # the connection is fine: the shell that waits for the command was killed
        return ConnectionLostError(
            target.name,
            "the command's shell was killed on the server; what it started may still be running",
            hint="rebooting, out of memory, or killed by somebody? `rl job-list` shows what jobs do",
        )
    said = _last(plain(text))
    return ConnectionLostError(
        target.name,
        "the connection was lost in the middle of a command"
        + (f" ({said})" if said else "")
        + "; what runs on the server may still be running",
        hint="jobs outlive the connection: `rl job-list` shows them once the server answers again",
    )


def place(target: Target, config: Mapping[str, str]) -> str:
    """Return "host port 22" as ssh sees it, with the alias where it differs."""
    host = config.get("hostname", target.hostname)
    port = config.get("port") or target.port
    alias = f" ({target.hostname})" if host != target.hostname else ""
    return f"{host}{alias}" + (f" port {port}" if port else "")


def login(target: Target) -> str:
    """Return what a person would type after ``ssh`` to reach the server."""
    words = []
    if target.ssh_config:
        words += ["-F", str(target.ssh_config)]
    if target.port:
        words += ["-p", str(target.port)]
    if target.private_key:
        words += ["-i", str(target.private_key)]
    words.append(f"{target.username}@{target.hostname}" if target.username else target.hostname)
    return shlex.join(words)


def _host_key_error(target: Target, said: str, config: Mapping[str, str]) -> HostKeyError:
    if not _CHANGED.search(said):
        return HostKeyError(
            target.name,
            f"the host key of {place(target, config)} could not be verified: {_last(said)}",
            hint=f"log in once by hand and compare the key: ssh {login(target)}",
        )
    owner = _KEY_OWNER.search(said)
    name = (
        owner[1]
        if owner
        else known_host(config.get("hostname", target.hostname), config.get("port") or target.port)
    )
    line = ["ssh-keygen", "-R", name]
    if offending := _OFFENDING.search(said):
        line += ["-f", offending[1]]
    return HostKeyError(
        target.name,
        f"the host key of {place(target, config)} has changed: "
        "a new machine behind this address, or an attack",
        hint=f"if the machine was set up anew: {shlex.join(line)}",
    )


def known_host(host: str, port: str | int | None) -> str:
    """Return a host as known_hosts names it: ``[host]:port`` where the port isn't 22."""
    return host if port in (None, "", 22, "22") else f"[{host}]:{port}"


def open_key_error(server: str, path: str) -> AuthenticationError:
    """Return the error for a private key whose permissions ssh doesn't accept."""
    return AuthenticationError(
        server,
        f"ssh refuses the private key {path}: others on this machine can read it",
        hint=f"chmod 600 {shlex.quote(path)}",
    )


def more_hints(target: Target, methods: Sequence[str]) -> str:
    """Given the ways to log in that a server takes, return further lines of a refused login's hint."""
    lines = ""
    if target.password is None and {"password", "keyboard-interactive"} & set(methods):
        lines += f"\n`{AUTHORIZE} {target.name}` installs a key, with the password once"
    if target.username is None:
        lines += "\nthe user was ssh's choice; labml_remote assumed 'ubuntu'; set username: in the inventory"
    return lines


def _authentication_error(target: Target, said: str, config: Mapping[str, str]) -> AuthenticationError:
    if too_open := _OPEN_KEY.search(said):
        return open_key_error(target.name, too_open[1])
    denied = _USER_AT.search(said)
    user = denied[1] if denied else config.get("user") or target.username or "?"
    tried = [
        f"user {user!r}",
        f"private key {target.private_key}" if target.private_key else "the agent's and the default keys",
    ]
    methods = denied[2].split(",") if denied else []
    if denied:
        tried.append(f"the server takes: {denied[2]}")
    if trouble := _KEY_TROUBLE.search(said):
        tried.append(f"key {trouble[1]}: {trouble[2]}")
    hint = f"this must work without a question: ssh -o BatchMode=yes {login(target)}"
    hint += more_hints(target, methods)
    return AuthenticationError(
        target.name,
        f"{place(target, config)} denied the login ({'; '.join(tried)})",
        hint=hint,
        methods=methods,
    )


def _last(said: str) -> str:
    """The last line, which is where ssh says why."""
    return said.splitlines()[-1] if said else ""
