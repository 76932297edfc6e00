"""The short form of a server, ``user@host:port``, and what each part of it may be."""

from __future__ import annotations

import re

from remote_launch.dataclass import dataclass

# ssh would read a leading "-" as an option; the rest could reach a shell through a ProxyCommand with %h or
# %r in it.
_BAD_HOSTNAME = re.compile(r"""[\s\x00-\x1f\x7f'"`$\\;&<>|(){}\[\]]""")
_BAD_USERNAME = re.compile(r"""[\s\x00-\x1f\x7f'"`$;&<>|(){}@:/]""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Where to log in, as typed; what is None is left to ssh."""

    hostname: str
    username: str | None = None
    port: int | None = None


def parse_login(text: str) -> Login:
    """Given ``[user@]host[:port]``, return its parts. An IPv6 address stands in brackets, or has no port.

    Raises ValueError with what is wrong, in words that never repeat the text: it might hold a password.
    """
    username, at, rest = text.strip().rpartition("@")
    if at and ":" in username:
        raise ValueError("no password in the short form; write the server as a mapping, with password:")
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", rest)
    if bracketed:
        hostname, port = bracketed[1], bracketed[2]
    elif rest.count(":") == 1:
        hostname, _, port = rest.partition(":")
    else:  # no colon, or many: a bare IPv6 address
        hostname, port = rest, None
    if at:
        check_username(username)
    check_hostname(hostname)
    return Login(hostname=hostname, username=username or None, port=None if port is None else _port(port))


def check_hostname(hostname: str) -> None:
    """Raise ValueError unless the text can be handed to ssh as a host: a name, an address, or an alias."""
    hostname = unbracketed(hostname)
    if not hostname:
        raise ValueError("the hostname is empty")
    if "@" in hostname:
        raise ValueError("a hostname has no '@' in it; the user goes under username:")
    if hostname.count(":") == 1:
        raise ValueError("a hostname has no port in it; the port goes under port:")
    if hostname.startswith("-") or _BAD_HOSTNAME.search(hostname):
        raise ValueError("not a hostname, an address, or an alias of ~/.ssh/config")


def unbracketed(hostname: str) -> str:
    """Given a hostname, return it as ssh wants it: an IPv6 address without the brackets of a URL."""
    return hostname[1:-1] if hostname.startswith("[") and hostname.endswith("]") else hostname


def check_username(username: str) -> None:
    """Raise ValueError unless the text can be handed to ssh as a login name."""
    if not username:
        raise ValueError("the user name is empty")
    if username.startswith("-") or _BAD_USERNAME.search(username):
        raise ValueError("not a login name")


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError("the port is not a number from 1 to 65535")
    return int(text)
