"""ssh keys of this machine, by the ssh programs: which ones ssh would offer, making one, a login by one."""

from __future__ import annotations

import os
import pwd
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from remote_launch.errors import AuthenticationError, ConnectTimeoutError, MissingProgramError
from remote_launch.transport.masters import effective_config, missing_ssh, options, trust
from remote_launch.transport.process import ProcessTimeout, run_process
from remote_launch.transport.ssh_errors import connect_error, place

if TYPE_CHECKING:
    from remote_launch.transport.base import Target
    from remote_launch.transport.process import Cancel

DEFAULT_KEY = "~/.ssh/id_ed25519"
_KEYGEN_TIMEOUT_S = 30.0
_SSH_FAILED = 255


def identity_files(target: Target) -> list[Path]:
    """Return the key files that ssh would offer the server by itself, whether or not they exist.

    Raises MissingProgramError when there is no ssh on this machine.
    """
    try:
        ended = run_process(["ssh", "-G", *options(target), "--", target.hostname], timeout_s=15)
    except FileNotFoundError:
        raise missing_ssh(target) from None
    except ProcessTimeout:
        return []
    lines = ended.stdout.decode("utf-8", "replace").splitlines()
    named = [line.partition(" ")[2] for line in lines if line.lower().startswith("identityfile ")]
    home = pwd.getpwuid(os.getuid()).pw_dir  # ssh's "~" is that of the account, whatever $HOME says
    return [Path(name.replace("~", home, 1) if name.startswith("~/") else name) for name in named]


def login_name(target: Target) -> str:
    """Return "user@host" as ssh understands the target, with the port where it isn't 22."""
    config = effective_config(target)
    user = config.get("user") or target.username
    host, port = config.get("hostname", target.hostname), config.get("port") or target.port
    if port not in (None, 22, "22"):
        host = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{user}@{host}" if user else host


def private_half(path: Path) -> Path:
    """Given a key's file or its .pub, return the private key's; the .pub where that is all there is."""
    private = path.with_suffix("") if path.suffix == ".pub" else path
    return private if private.is_file() or path.suffix != ".pub" else path


def has_key(path: Path) -> bool:
    """True where there is a key, or its public half (the private one may be in an agent or a token)."""
    return path.is_file() or _public_file(path).is_file()


def open_to_others(path: Path) -> bool:
    """True for a private key that ssh refuses, because others on this machine can read it."""
    try:
        found = path.stat()
    except OSError:
        return False
    return path.suffix != ".pub" and found.st_uid == os.getuid() and bool(found.st_mode & 0o077)


def public_key(path: Path, server: str) -> str:
    """Given a key's file, return its public line. Raises AuthenticationError, which names ``server``."""
    public = _public_file(path)
    said = ""
    if path.is_file() and path.suffix != ".pub":
        # The key itself knows best: a .pub beside it may be that of an older one.
        code, out, said = _keygen(["-y", "-P", "", "-f", str(path)], server)
        if code == 0:
            return out.strip()
    try:
        return public.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        if not isinstance(error, FileNotFoundError) or not said:
            said = f"{public}: {error.strerror}"
    again = f"ssh-keygen -y -f {shlex.quote(str(path))} > {shlex.quote(str(public))}"
    hint = f"write its public half: {again}"
    if "UNPROTECTED" in said or "too open" in said:
        said, hint = "others on this machine can read it", f"chmod 600 {shlex.quote(str(path))}"
    raise AuthenticationError(
        server, f"the public half of the key {path} can't be read: {_last(said)}", hint=hint
    )


def make_key(path: Path, server: str) -> None:
    """Make an ed25519 key without a passphrase, its folder too. Raises AuthenticationError, which names
    ``server``."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}"
    else:
        code, _, said = _keygen(["-q", "-t", "ed25519", "-N", "", "-f", str(path)], server)
        if code == 0:
            return
    raise AuthenticationError(
        server,
        f"no key could be made at {path}: {_last(said) or 'ssh-keygen did not say why'}",
        hint="name another file: rl authorize --key PATH",
    )


def log_in(target: Target, *, cancel: Cancel | None = None) -> None:
    """Log in by ssh as the openssh transport does, on a connection of its own: a kept one proves nothing.

    Raises ConnectError or a subclass, MissingProgramError.
    """
    config = effective_config(target)
    argv = ["ssh", "-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "LogLevel=INFO"]
    argv += [*trust(config), *options(target), "-T", "--", target.hostname, "exit 0"]
    limit_s = 2 * target.connect_timeout_s + 10
    try:
        ended = run_process(
            argv, timeout_s=limit_s, cancel=cancel, env={"SSH_ASKPASS_REQUIRE": "never"}
        )
    except FileNotFoundError:
        raise missing_ssh(target) from None
    except ProcessTimeout:
        raise ConnectTimeoutError(
            target.name,
            f"{place(target, config)} took longer than {limit_s} s to log in",
            hint="the server or its network is overloaded, or a login waits for a person",
        ) from None
    if ended.returncode == _SSH_FAILED:
        raise connect_error(target, ended.stderr.decode("utf-8", "replace"), config)


def _public_file(path: Path) -> Path:
    return path if path.suffix == ".pub" else path.with_name(f"{path.name}.pub")


def _keygen(words: list[str], server: str) -> tuple[int, str, str]:
    """Run ssh-keygen; it has no terminal, so it asks nothing."""
    try:
        ended = run_process(["ssh-keygen", *words], timeout_s=_KEYGEN_TIMEOUT_S)
    except FileNotFoundError:
        raise MissingProgramError(
            server, "there is no `ssh-keygen` on this machine", hint="install openssh-client"
        ) from None
    except ProcessTimeout:
        return 1, "", "ssh-keygen did not answer"
    return (
        ended.returncode,
        ended.stdout.decode("utf-8", "replace"),
        (ended.stderr or ended.stdout).decode("utf-8", "replace"),
    )


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else ""
