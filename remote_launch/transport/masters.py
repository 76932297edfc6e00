"""ssh's ControlMasters: where their sockets are, opening one safely, knowing a dead one. One master a
server and user, shared by every process of this user; ControlPersist ends it when nobody used it for ten
minutes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from remote_launch.errors import AuthenticationError, ConnectTimeoutError, MissingProgramError, UsageError
from remote_launch.transport.digest import blake2b

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from remote_launch.transport.base import Target

PERSIST_S = 600
TRUSTED_S = 30.0  # used this recently: taken for alive without asking
CHECK_S = 5.0  # for an answer of the server's, by a master that was not used for a while
CONTROL_S = 30.0  # for one of the master's own: at once, but where this machine stands still
_SOCKET_LIMIT = 104 - 18  # sun_path on macOS, less the suffix that ssh adds while it binds
# A handshake costs 12 to 79 ms of CPU here, and 64 at once starve each other into timeouts. One limit for
# the process, whoever opens: it holds no data, so it may live with the class.
_AT_ONCE = 16


def control_folder() -> Path:
    """Return the folder of the sockets, made 0700. Raises UsageError when it is not ours alone: a socket is
    a login."""
    given = os.environ.get("RL_CONTROL_DIR")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        folder = Path(given)
    elif runtime and Path(runtime).is_dir():
        folder = Path(runtime, "remote_launch")
    else:
        folder = Path("/tmp", f"remote_launch-{os.getuid()}")  # noqa: S108 - checked below; $TMPDIR is too long on macOS
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise UsageError(
            f"{folder} must be a folder of yours that nobody else can enter (ssh's sockets lie there)",
            hint=f"chmod 700 {folder}, or set RL_CONTROL_DIR to another folder",
        )
    return folder


class Master:
    """One server's ControlMaster. ``path`` is its socket; a stamp file beside it holds the time of its last
    use. One with a ``purpose`` is shared with nobody, and stays until it is told to end."""

    _opening = threading.BoundedSemaphore(_AT_ONCE)

    def __init__(self, target: Target, purpose: str | None = None) -> None:
        self.target = target
        self._persist = str(PERSIST_S) if purpose is None else "no"
        key = [target.hostname, target.port, target.username, target.private_key, target.ssh_config]
        key += [] if purpose is None else [purpose]
        parts = [None if part is None else str(part) for part in key]
        name = blake2b(repr(parts).encode(), digest_size=8).hexdigest()
        self.folder = control_folder()
        self.path = self.folder / name
        self._stamp = self.folder / f"{name}.used"
        self._lock = self.folder / f"{name}.lock"
        if len(os.fsencode(self.path)) > _SOCKET_LIMIT:
            raise UsageError(
                f"{self.folder} is too long for a socket's path",
                hint="set RL_CONTROL_DIR to a shorter folder, as /tmp/rl",
            )

    def through(self) -> list[str]:
        """Return ssh's options for using the master."""
        return [
            "-S",
            _control_path(self.path),
            "-o",
            "ControlMaster=no",  # use it; never become one
        ]

    def touch(self) -> None:
        """Note that the master was used with success just now."""
        with contextlib.suppress(OSError):
            self._stamp.touch()

    def ensure(self) -> None:
        """Find the master alive, or open it. Raises ConnectError or a subclass, MissingProgramError."""
        if self._usable():
            return
        with self._locked():
            if self._usable():  # another process or thread was faster
                return
            self._end("stop")
            with self._opening:
                self._open()

    def answers(self) -> bool:
        """True when the process behind the socket lives; nothing is asked of the server. Counts as a use:
        the time of ControlPersist begins anew."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.settimeout(CONTROL_S)
            try:
                probe.connect(str(self.path))
            except OSError:
                return False
        return True

    def drop(self) -> None:
        """End the master if there is one, with all that goes through it, and remove what it left."""
        self._end("exit")

    def retire(self) -> None:
        """Have the master, if there is one, end when nobody uses it any more, and take its place away. What
        other processes run through it goes on: a server that did not answer in time may just be slow."""
        with self._locked():
            self._end("stop")

    def _end(self, verb: str) -> None:
        born = self.birth()
        if born is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                told = self.control(verb).returncode == 0
                # It answers before it removes its socket, and would remove the next one's of that name.
                deadline = time.monotonic() + CONTROL_S
                while told and self.birth() == born and time.monotonic() < deadline:
                    time.sleep(0.005)
        now = self.birth()
        if now in (born, None):  # else the next one is there, and both are its
            self._stamp.unlink(missing_ok=True)
        if now == born:
            self.path.unlink(missing_ok=True)

    def birth(self) -> tuple[int, int] | None:
        """What tells the master that is there from any other; None when there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_ctime_ns

    def control(
        self, verb: str, *words: str, timeout_s: float = CONTROL_S
    ) -> subprocess.CompletedProcess[bytes]:
        """Send the master a control command (exit, forward, cancel). No configuration is read: only the
        socket counts."""
        return control_socket(self.path, verb, *words, timeout_s=timeout_s)

    def _usable(self) -> bool:
        if not self.path.exists():
            return False
        if not self.answers():
            return False
        try:
            unused_s = time.time() - self._stamp.stat().st_mtime
        except FileNotFoundError:
            unused_s = TRUSTED_S + 1
        return 0 <= unused_s <= TRUSTED_S or self._reaches_server()

    def _reaches_server(self) -> bool:
        """Run ``true`` over the master, briefly: after a laptop's sleep the process lives and the
        connection doesn't."""
        # Without the master ssh would connect by itself; the ProxyCommand makes that fail.
        argv = ["ssh", *self.through(), *options(self.target), "-o", "ProxyCommand=false", "-T", "--"]
        argv += [self.target.hostname, "true"]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=CHECK_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode == 0:
            self.touch()
        return done.returncode == 0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock file: one process or thread opens (or ends) a master at a time."""
        with self._lock.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _open(self) -> None:
        check_key(self.target)
        config = effective_config(self.target)
        argv = [
            "ssh",
            "-S",
            self.through()[1],
            "-o",
            "ControlMaster=yes",
            "-o",
            f"ControlPersist={self._persist}",  # stays for the next process
            "-f",
            "-N",  # into the background once logged in; no command
            "-o",
            "LogLevel=INFO",  # its errors are read below; a QUIET of the user's would hide them
            *trust(config),
            *options(self.target),
            "--",
            self.target.hostname,
        ]
        # ConnectTimeout ends with the server's banner; logging in can hang too.
        limit_s = 2 * self.target.connect_timeout_s + 10
        # A file, not a pipe: the master in the background would hold a pipe open, and reading it would
        # never end.
        import tempfile  # 4 ms that a master which is there already saves, and 1 ms more

        from remote_launch.transport.ssh_errors import connect_error, place

        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
                env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
            )
            try:
                code = process.wait(limit_s)
            except BaseException as error:
                process.kill()
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise ConnectTimeoutError(
                        self.target.name,
                        f"{place(self.target, config)} took longer than {limit_s} s to log in",
                        hint="the server or its network is overloaded, or a login waits for a person",
                    ) from None
                raise
            if code != 0:
                said.seek(0)
                raise connect_error(self.target, said.read().decode("utf-8", "replace"), config)
        self.touch()


def _control_path(path: Path) -> str:
    return str(path).replace("%", "%%")  # "%" begins a token in a ControlPath


def control_socket(
    path: Path, verb: str, *words: str, timeout_s: float = CONTROL_S
) -> subprocess.CompletedProcess[bytes]:
    """Send the master behind a socket a control command; see ``Master.control``."""
    argv = ["ssh", "-F", "none", "-S", _control_path(path), "-O", verb, *words, "--", "master"]
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
    )


def options(target: Target) -> list[str]:
    """Return ssh's options for a server, each with its reason. What is absent is left to the user's own
    configuration."""
    words: list[str] = []
    if target.ssh_config is not None:
        words += ["-F", str(target.ssh_config)]
    if target.port is not None:
        words += ["-p", str(target.port)]
    if target.username is not None:
        words += ["-l", target.username]
    if target.private_key is not None:
        # IdentitiesOnly: an agent with many keys would use up the server's tries before this one
        words += ["-i", str(target.private_key), "-o", "IdentitiesOnly=yes"]
    return [
        *words,
        *("-o", "BatchMode=yes"),  # nobody is there to type a password
        *("-o", f"ConnectTimeout={target.connect_timeout_s}"),
        *("-o", "ServerAliveInterval=15"),  # a dead network is noticed after 45 s; TCP alone takes hours
        *("-o", "ServerAliveCountMax=3"),
        *("-o", "ClearAllForwardings=yes"),  # a LocalForward of the user's fails where their session has it
        *("-o", "RemoteCommand=none"),  # a RemoteCommand of the user's excludes any other
        "-x",  # no X11
    ]


def trust(config: Mapping[str, str]) -> list[str]:
    """Given the effective configuration, return ssh's options for a host key that isn't known."""
    if config.get("stricthostkeychecking", "ask") != "ask":
        return []  # a stricter or looser setting of the user's own stays as it is
    return ["-o", "StrictHostKeyChecking=accept-new"]  # nobody is there to be asked


def effective_config(target: Target) -> dict[str, str]:
    """Return ssh's effective configuration for a server (``ssh -G``), keys in lower case; empty when ssh
    won't say.

    Raises MissingProgramError when there is no ssh on this machine.
    """
    try:
        done = subprocess.run(
            ["ssh", "-G", *options(target), "--", target.hostname],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=15,
            check=False,
        )
    except FileNotFoundError:
        raise missing_ssh(target) from None
    except subprocess.TimeoutExpired:
        return {}
    pairs = (line.partition(" ") for line in done.stdout.decode("utf-8", "replace").splitlines())
    config: dict[str, str] = {}
    for key, _, value in pairs:
        config.setdefault(key.lower(), value)
    return config


def check_key(target: Target) -> None:
    """Raise AuthenticationError when the inventory's private key is not there: ssh would go on with others,
    and confuse."""
    if target.private_key is not None and not target.private_key.is_file():
        raise AuthenticationError(
            target.name,
            f"there is no private key {target.private_key}",
            hint="put it there, or correct `private_key:` in the inventory",
        )


def missing_ssh(target: Target) -> MissingProgramError:
    """Return the error for a machine without ssh."""
    return MissingProgramError(
        target.name,
        "there is no `ssh` on this machine",
        hint="install openssh-client, or set `transport: fabric`",
    )
