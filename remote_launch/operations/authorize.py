"""Make later logins need no password: install a public key with a password once, on all servers at once."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from typing import TYPE_CHECKING, Any

from remote_launch.core.authorized_keys import PublicKey, add_key_command, parse_public_key
from remote_launch.errors import AuthenticationError, RemoteLaunchError
from remote_launch.operations.fanout import Outcome, Outcomes, fanout
from remote_launch.operations.key_plan import KeyPlan, by_key, plan_key
from remote_launch.transport import keys, open_transport, ssh_errors
from remote_launch.transport.passwords import run_password_command
from remote_launch.transport.process import Cancel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from remote_launch.core.inventory import Server
    from remote_launch.operations.fleet import Fleet
    from remote_launch.transport.base import Target, Transport

    # Given the logins (user@host) by server, and whether they were refused before, return their passwords.
    Ask = Callable[[Mapping[str, str], bool], Mapping[str, str]]

TRIES = 3  # as ssh asks
_ADD_TIMEOUT_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Authorized:
    """What one server came to."""

    server: str
    login: str
    state: str  # local | already (logs in by key) | present (the key was there) | added
    key: Path | None = None
    made: bool = False  # the key is new
    named: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "key": None if self.key is None else str(self.key)}


def authorize(
    fleet: Fleet, servers: Sequence[Server], *, key: Path | None = None, ask: Ask | None = None
) -> Outcomes[Authorized]:
    """Install a key wherever a login by key doesn't work yet, and log in by it.

    Passwords come from each server's ``password_command``, its ``password``, or ``ask``, which is called in
    this thread with all servers that lack one. Raises nothing; what fails is that server's outcome.
    """
    return _Authorizing(fleet, servers, key, ask).run()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a server says before anything was done. ``denied``: no login without a password."""

    plan: KeyPlan
    denied: AuthenticationError | None = None


class _Authorizing:
    """One call of ``authorize``."""

    def __init__(
        self, fleet: Fleet, servers: Sequence[Server], key: Path | None, ask: Ask | None
    ) -> None:
        self._fleet = fleet
        self._servers = {server.name: server for server in servers}
        self._key = key
        self._ask = ask
        self._cancel = Cancel()
        self._lock = threading.Lock()
        self._open: set[Transport] = set()
        self._keys_lock = threading.Lock()
        self._made: set[Path] = set()

    def run(self) -> Outcomes[Authorized]:
        found = fanout(self._servers, self._look, on_interrupt=self._stop)
        outcomes: dict[str, Outcome[Authorized]] = {
            one.server: Outcome(one.server, None, one.error, one.duration_s) for one in found if one.error
        }
        looked = found.values
        passwords, typed = self._passwords(looked, outcomes)
        for again in range(TRIES):
            todo = [name for name in looked if name not in outcomes]
            done = fanout(
                todo, lambda name: self._install(looked[name], passwords.get(name)), on_interrupt=self._stop
            )
            outcomes |= {outcome.server: outcome for outcome in done}
            refused = {
                name: looked[name].plan.login
                for name, error in done.errors.items()
                if name in typed and isinstance(error, _PasswordRefusedError)
            }
            if not refused or self._ask is None or again == TRIES - 1:
                break
            anew = {name: one for name, one in self._ask(refused, True).items() if one}
            if not anew:
                break
            passwords.update(anew)
            for name in anew:
                del outcomes[name]
        return Outcomes(outcomes[name] for name in self._servers)

    def _look(self, name: str) -> _Found:
        """Try to log in as it will be later: without a password."""
        server = self._servers[name]
        plan = plan_key(server, self._key)
        if plan.key is None:
            return _Found(plan=plan)
        try:
            keys.log_in(by_key(server.target, self._known_key(server)), cancel=self._cancel)
        except AuthenticationError as denied:
            if keys.open_to_others(plan.key):  # ssh would look at that only once the server took it
                raise ssh_errors.open_key_error(name, str(plan.key)) from denied
            return _Found(plan=plan, denied=denied)
        return _Found(plan=plan)

    def _known_key(self, server: Server) -> Path | None:
        """The inventory's key for a server; None when it isn't there yet: ssh may have others that do."""
        path = server.private_key
        return keys.private_half(path) if path is not None and keys.has_key(path) else None

    def _passwords(
        self, looked: Mapping[str, _Found], outcomes: dict[str, Outcome[Authorized]]
    ) -> tuple[dict[str, str], set[str]]:
        """Return the passwords of the inventory and the typed ones, and which servers' were typed. Servers
        for which there is none get their error."""
        lacking: dict[str, str] = {}
        for name, found in looked.items():
            if found.denied is None:
                continue
            if not found.denied.takes_passwords:
                outcomes[name] = Outcome(name, None, _takes_none(found.plan, found.denied))
            elif found.plan.password_from == "prompt":  # noqa: S105
                lacking[name] = found.plan.login
        passwords = {
            name: server.password for name, server in self._servers.items() if server.password is not None
        }
        typed = dict(self._ask(lacking, False)) if lacking and self._ask is not None else {}
        for name, login in lacking.items():
            if not typed.get(name):
                outcomes[name] = Outcome(name, None, _no_password(name, login, asked=self._ask is not None))
        return {**passwords, **typed}, set(typed)

    def _install(self, found: _Found, password: str | None) -> Authorized:
        plan = found.plan
        if plan.key is None:
            return Authorized(server=plan.server, login=plan.login, state="local")
        server = self._servers[plan.server]
        wanted = self._key is not None or (server.private_key is not None and not plan.exists)
        if found.denied is None and not wanted:
            return Authorized(server=plan.server, login=plan.login, state="already", named=plan.named)
        if found.denied is None:
            target = by_key(server.target, self._known_key(server))
        else:
            if plan.password_from == "password_command" and server.password_command is not None:  # noqa: S105
                password = run_password_command(
                    plan.server, server.password_command, cancel=self._cancel
                )
            target = dataclasses.replace(
                server.target,
                transport="fabric",
                private_key=None,
                password=password,
                password_command=None,
            )
        return self._add(plan, target)

    def _add(self, plan: KeyPlan, target: Target) -> Authorized:
        assert plan.key is not None
        with self._transport(target) as transport:
            try:
                transport.connect()
            except AuthenticationError as error:
                raise _refused(plan, target, error) from error
            public, made = self._public_key(plan)
            said = transport.run(add_key_command(public), timeout_s=_ADD_TIMEOUT_S)
        said.check(f"{plan.login}: the key could not be added", hint=_BY_HAND.format(line=public.line))
        words = said.text.splitlines()
        state = "present" if "present" in words else "added"
        self._fleet.log(plan.server, "authorize", key=str(plan.key), state=state)
        self._prove(plan, open_home="open-home" in words)
        return Authorized(
            server=plan.server, login=plan.login, state=state, key=plan.key, made=made, named=plan.named
        )

    def _prove(self, plan: KeyPlan, *, open_home: bool) -> None:
        """Log in by the key. Raises AuthenticationError that says why sshd may not take it."""
        assert plan.key is not None
        server = self._servers[plan.server]
        try:
            keys.log_in(by_key(server.target, plan.key if plan.named else None), cancel=self._cancel)
        except AuthenticationError as error:
            if open_home:
                why = "others can write to its home folder, so sshd takes no key; there: chmod go-w ~"
            else:
                why = (
                    "does the key have a passphrase (ssh-add it)? does its sshd take keys from "
                    "~/.ssh/authorized_keys (PubkeyAuthentication, AuthorizedKeysFile)?"
                )
            raise AuthenticationError(
                server.name,
                f"the key is in ~/.ssh/authorized_keys, but no login by it: {error.message}",
                hint=why,
                methods=error.methods,
            ) from error

    def _public_key(self, plan: KeyPlan) -> tuple[PublicKey, bool]:
        """Return the key's public half, and whether it was made now: once, where several servers share it."""
        assert plan.key is not None
        with self._keys_lock:
            if not keys.has_key(plan.key):
                keys.make_key(plan.key, plan.server)
                self._made.add(plan.key)
            text = keys.public_key(plan.key, plan.server)
        try:
            return parse_public_key(text), plan.key in self._made
        except ValueError as error:
            raise AuthenticationError(
                plan.server, f"{plan.key}: {error}", hint="name another key: rl authorize --key PATH"
            ) from None

    @contextlib.contextmanager
    def _transport(self, target: Target) -> Iterator[Transport]:
        transport = open_transport(target)
        with self._lock:
            self._open.add(transport)
        try:
            yield transport
        finally:
            with self._lock:
                self._open.discard(transport)
            transport.close()

    def _stop(self) -> None:
        self._cancel.set()
        with self._lock:
            transports = list(self._open)
        for transport in transports:
            transport.cancel()


class _PasswordRefusedError(AuthenticationError):
    """The server did not take the password."""

    @property
    def kind(self) -> str:
        return "AuthenticationError"


_BY_HAND = "as that user on the server, by hand: add this line to ~/.ssh/authorized_keys: {line}"
_SOURCES = {
    "password_command": "its password_command's",
    "password": "the inventory's",
    "prompt": "the one typed",
}


def _refused(plan: KeyPlan, target: Target, error: AuthenticationError) -> RemoteLaunchError:
    if not error.takes_passwords:
        return _takes_none(plan, error)
    source = _SOURCES.get(plan.password_from or "", "the")
    hint = f"is the user right, and does the password log in by hand? ssh {ssh_errors.login(target)}"
    said = error.message.removeprefix(f"{plan.server}: ")
    return _PasswordRefusedError(
        plan.server,
        f"{plan.login} did not take the password ({source}): {said}",
        hint=hint,
        methods=error.methods,
    )


def _takes_none(plan: KeyPlan, error: AuthenticationError) -> AuthenticationError:
    return AuthenticationError(
        plan.server,
        f"no key logs in to {plan.login}, and it takes no passwords (it takes: {','.join(error.methods)})",
        hint="a key must get there another way, as the cloud's console; with one that works, "
        "name it as `private_key:` in the inventory",
        methods=error.methods,
    )


def _no_password(server: str, login: str, *, asked: bool) -> AuthenticationError:
    how = "none was typed" if asked else "there is no terminal to ask for one"
    return AuthenticationError(
        server,
        f"no key logs in to {login}, and without a password none can be installed: {how}",
        hint=f"run it in a terminal (rl authorize --server {server}), or name a command that prints the "
        "password in the inventory, as  password_command: pass show gpu",
    )
